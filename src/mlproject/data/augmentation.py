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

from mlproject.errors import SettingsError

Voxels = tuple[int, int, int]
Millimetres = tuple[float, float, float]

BIAS_ORDER = 2  # TorchIO's default, 3, costs six times as much: 66 ms instead of 11 for 2 x 64³ voxels
BIAS_TERMS = 10  # monomials of three variables up to that order


@dataclass(frozen=True)
class AugmentationSettings:
    """How training patches are varied. A probability of 0 turns a change off.

    Attributes:
        flip_probability: chance of a flip, for each of flip_axes on its own.
        flip_axes: axes that may be flipped: 0 is left-right, 1 back-front, 2 down-up.
        affine_probability: chance of a rotation with scaling, by far the costliest change.
        affine_degrees: largest rotation about each axis, at most 180.
        affine_scale: largest change of size along each axis, as a share below 1.
        intensity_probability: chance, for each channel, of another contrast and brightness.
        intensity_scale: largest change of contrast, as a share below 1.
        intensity_shift: largest change of brightness, in z-scores.
        gamma_probability: chance that the absolute z-scores are raised to a power.
        gamma_log: largest absolute logarithm of that power, drawn for each channel.
        bias_probability: chance of a smooth multiplicative field (bias field).
        bias_coefficient: largest absolute coefficient of the polynomial in that field's exponent.
        noise_probability: chance of Gaussian noise.
        noise_sd: largest standard deviation of the noise, in z-scores.
    """

    flip_probability: float = 0.5
    flip_axes: tuple[int, ...] = (0, 1, 2)
    affine_probability: float = 0.1
    affine_degrees: float = 10.0
    affine_scale: float = 0.1
    intensity_probability: float = 0.5
    intensity_scale: float = 0.15
    intensity_shift: float = 0.15
    gamma_probability: float = 0.1
    gamma_log: float = 0.2
    bias_probability: float = 0.0
    bias_coefficient: float = 0.3
    noise_probability: float = 0.15
    noise_sd: float = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "affine", "intensity", "gamma", "bias", "noise"):
            self._check(f"{name}_probability", 1.0)
        self._check("affine_degrees", 180.0)
        for name in ("affine_scale", "intensity_scale"):
            self._check(name, 0.99)
        for name in ("intensity_shift", "gamma_log", "bias_coefficient", "noise_sd"):
            self._check(name, 10.0)
        if not set(self.flip_axes) <= {0, 1, 2} or len(set(self.flip_axes)) < len(self.flip_axes):
            raise SettingsError(
                f"patches.augmentation.flip_axes={list(self.flip_axes)}: give some of 0, 1 and 2, each once"
            )

    def _check(self, name: str, highest: float) -> None:
        value = getattr(self, name)
        if not 0 <= value <= highest:
            raise SettingsError(f"patches.augmentation.{name}={value:g}: give 0 to {highest:g}")


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
