"""Random changes of a training patch: flips, rotation and scale, and changes of intensity.

Their parameters come from a generator of the caller's, never from a global one, so that a patch depends on
its own seed alone. The transforms are TorchIO's where it has them; `apply_transform` is called directly,
because calling a transform draws from torch's global generator, even if it is certain to be applied.
"""

# mypy: allow-untyped-calls

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from mlproject.data.patch_settings import AugmentationSettings

Voxels = tuple[int, int, int]
Millimetres = tuple[float, float, float]

BIAS_ORDER = 2  # TorchIO's default, 3, costs six times as much: 66 ms instead of 11 for 2 x 64³ voxels
BIAS_TERMS = 10  # monomials of three variables up to that order


@dataclass(frozen=True)
class Augmentation:
    """The changes drawn for one patch.

    Attributes:
        affine: rotation and scaling about the patch's centre, or None.
        spatial: what moves voxels after that.
        intensity: what changes the image's values, in this order, before the contrast.
        contrast: factor and summand of each channel, float32 (2, C, 1, 1, 1).
        noise_sd: standard deviation of the noise, 0 for none.
        noise_seed: seed of the noise.
    """

    affine: tio.Affine | None
    spatial: list[tio.SpatialTransform]
    intensity: list[tio.IntensityTransform]
    contrast: Tensor
    noise_sd: float
    noise_seed: int

    def margin(self, size: Voxels, spacing_mm: Millimetres) -> Voxels:
        """Voxels to cut around a patch of `size`, from which the affine fills its corners."""
        if self.affine is None:
            return (0, 0, 0)
        probe = tio.ScalarImage(tensor=torch.zeros(1, 2, 2, 2))
        to_source = self.affine.get_affine_transform(probe)
        centre, half = np.array(probe.get_center(lps=True)), np.array(size) * spacing_mm / 2
        corners = [to_source.TransformPoint(centre + half * signs) for signs in product((-1, 1), repeat=3)]
        reach = np.abs(np.array(corners) - centre).max(axis=0)
        i, j, k = (math.ceil(max(missing, 0.0)) + 1 for missing in (reach - half) / spacing_mm)
        return (i, j, k)

    def apply(self, image: Tensor, masks: Tensor, margin: Voxels, spacing_mm: Millimetres) -> tuple[Tensor, Tensor]:
        """The changed patch, without its margin. Outside the brain the image stays 0, as in prediction.

        Args:
            image: float32 (C, I, J, K) z-scores, 0 outside the brain, margin included.
            masks: uint8 (2, I, J, K), brain and lesions, margin included.
            margin: what `margin` returned.
            spacing_mm: voxel size, so that rotating anisotropic voxels does not shear.

        Returns:
            The image, interpolated linearly, and the masks, by nearest neighbour, without the margin.
        """
        affine = np.diag([*spacing_mm, 1.0])
        subject = tio.Subject(
            image=tio.ScalarImage(tensor=image, affine=affine),
            masks=tio.LabelMap(tensor=masks, affine=affine),
        )
        if self.affine is not None:
            subject = tio.Crop(margin).apply_transform(self.affine.apply_transform(subject))
        for transform in (*self.spatial, *self.intensity):
            subject = transform.apply_transform(subject)
        image, masks = subject.image.data, subject.masks.data.to(torch.uint8)  # Affine makes them float
        image = image * self.contrast[0] + self.contrast[1]
        if self.noise_sd > 0:  # not by tio.Noise: it reseeds torch's global generators, also those of GPUs
            generator = torch.Generator().manual_seed(self.noise_seed)
            image += self.noise_sd * torch.randn(image.shape, generator=generator)
        return image * masks[:1], masks


def draw_augmentation(settings: AugmentationSettings, channels: int, generator: np.random.Generator) -> Augmentation:
    """Draw the changes of one patch of `channels` channels."""

    def happens(probability: float) -> bool:
        return generator.random() < probability

    def around(centre: float, largest: float, count: int) -> list[float]:
        return generator.uniform(centre - largest, centre + largest, count).tolist()  # type: ignore[no-any-return]

    flipped = tuple(axis for axis in settings.flip_axes if happens(settings.flip_probability))
    affine = None
    if happens(settings.affine_probability):
        i, j, k = around(1, settings.affine_scale, 3)
        a, b, c = around(0, settings.affine_degrees, 3)
        affine = tio.Affine((i, j, k), (a, b, c), translation=(0, 0, 0), default_pad_value=0)
    intensity: list[tio.IntensityTransform] = []
    if happens(settings.gamma_probability):
        intensity.append(tio.Gamma(np.exp(around(0, settings.gamma_log, channels)).tolist()))
    if happens(settings.bias_probability):
        intensity.append(tio.BiasField(around(0, settings.bias_coefficient, BIAS_TERMS), BIAS_ORDER))
    contrast = torch.tensor([[1.0], [0.0]]).repeat(1, channels)
    for channel in range(channels):
        if happens(settings.intensity_probability):
            contrast[0, channel] = around(1, settings.intensity_scale, 1)[0]
            contrast[1, channel] = around(0, settings.intensity_shift, 1)[0]
    return Augmentation(
        affine=affine,
        spatial=[tio.Flip(flipped)] if flipped else [],
        intensity=intensity,
        contrast=contrast[..., None, None, None],
        noise_sd=settings.noise_sd * generator.random() if happens(settings.noise_probability) else 0.0,
        noise_seed=int(generator.integers(2**63)),
    )
