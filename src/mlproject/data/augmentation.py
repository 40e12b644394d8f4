"""Random changes of a training patch: flips, rotation and scale, and changes of intensity.

They are TorchIO's, with its parameters and its interpolation, in plain tensor operations: on a patch, TorchIO's own
cost more than ten times as much, most of it for building subjects (docs/benchmarks.md), and they know no GPU. The tests
compare each with TorchIO's. Parameters come from a generator of the caller's, never from a global one, so that a patch
depends on its own seed alone.
"""

# mypy: allow-untyped-calls

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlproject.data.affine import Millimetres, Voxels, affine_to_source, margin_of, resample
from mlproject.data.patch_settings import AugmentationSettings

BIAS_POWERS = [powers for powers in product(range(3), repeat=3) if sum(powers) <= 2]
"""Of the three coordinates in each term of the bias field's exponent, in TorchIO's order."""


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The changes drawn for one patch; plain values, so that they travel between processes.

    Attributes:
        flipped: axes that are flipped, after rotation and scaling.
        to_source: (3, 3), from a place to the one that its value is taken from, both in mm from the patch's centre;
            None without rotation and scaling.
        gamma: power of the absolute z-scores, one a channel, or None.
        bias: coefficients of the bias field's exponent, one for each of BIAS_POWERS, or None.
        contrast: factor and summand of each channel, or None.
        noise_sd: standard deviation of the noise, 0 for none.
        noise_seed: seed of the noise.
    """

    flipped: tuple[int, ...]
    to_source: NDArray[np.float64] | None
    gamma: list[float] | None
    bias: list[float] | None
    contrast: tuple[list[float], list[float]] | None
    noise_sd: float
    noise_seed: int

    def margin(self, size: Voxels, spacing_mm: Millimetres) -> Voxels:
        """Voxels to cut around a patch of `size`, from which rotation and scaling fill its corners."""
        return (0, 0, 0) if self.to_source is None else margin_of(self.to_source, size, spacing_mm)

    def apply(self, image: Tensor, masks: Tensor, margin: Voxels, spacing_mm: Millimetres) -> tuple[Tensor, Tensor]:
        """The changed patch, without its margin. Outside the brain the image stays 0, as in prediction.

        Args:
            image: float32 (C, I, J, K) z-scores, 0 outside the brain, margin included; on any device. It is changed
                in place, because a patch that is copied for every change takes twice as long.
            masks: uint8 (2, I, J, K), brain and lesions, margin included, on the same device.
            margin: what `margin` returned.
            spacing_mm: voxel size, so that rotating anisotropic voxels does not shear.

        Returns:
            The image, interpolated linearly, and the masks, by nearest neighbour, without the margin.
        """
        if self.to_source is not None:
            image, masks = resample(image, masks, self.to_source, margin, spacing_mm)
        if self.flipped:
            axes = [axis + 1 for axis in self.flipped]
            image, masks = image.flip(axes), masks.flip(axes)
        if self.gamma is not None:
            # Half the time of PyTorch's power; 0 stays 0.
            torch.copysign(image.abs().log_().mul_(_each_channel(self.gamma, image)).exp_(), image, out=image)
        if self.bias is not None:
            image *= _bias_field(self.bias, image)
        if self.contrast is not None:
            factor, summand = self.contrast
            image.mul_(_each_channel(factor, image)).add_(_each_channel(summand, image))
        if self.noise_sd > 0:
            generator = torch.Generator(image.device).manual_seed(self.noise_seed)
            image.add_(torch.randn(image.shape, generator=generator, device=image.device), alpha=self.noise_sd)
        image *= masks[:1]
        return image, masks


def draw_augmentation(settings: AugmentationSettings, channels: int, generator: np.random.Generator) -> Augmentation:
    """Draw the changes of one patch of `channels` channels."""

    def happens(probability: float) -> bool:
        return generator.random() < probability

    def around(centre: float, largest: float, count: int) -> list[float]:
        return generator.uniform(centre - largest, centre + largest, count).tolist()  # type: ignore[no-any-return]

    flipped = tuple(axis for axis in settings.flip_axes if happens(settings.flip_probability))
    to_source = None
    if happens(settings.affine_probability):
        to_source = affine_to_source(around(1, settings.affine_scale, 3), around(0, settings.affine_degrees, 3))
    gamma = bias = contrast = None
    if happens(settings.gamma_probability):
        gamma = np.exp(around(0, settings.gamma_log, channels)).tolist()
    if happens(settings.bias_probability):
        bias = around(0, settings.bias_coefficient, len(BIAS_POWERS))
    changed = [happens(settings.intensity_probability) for _ in range(channels)]
    if any(changed):
        factors, summands = around(1, settings.intensity_scale, channels), around(0, settings.intensity_shift, channels)
        contrast = (
            [factor if change else 1.0 for factor, change in zip(factors, changed, strict=True)],
            [summand if change else 0.0 for summand, change in zip(summands, changed, strict=True)],
        )
    return Augmentation(
        flipped=flipped,
        to_source=to_source,
        gamma=gamma,
        bias=bias,
        contrast=contrast,
        noise_sd=settings.noise_sd * generator.random() if happens(settings.noise_probability) else 0.0,
        noise_seed=int(generator.integers(2**63)),
    )


def _bias_field(coefficients: list[float], image: Tensor) -> Tensor:
    """TorchIO's bias field (I, J, K): the exponential of a polynomial in coordinates from -1 to 1."""
    axes = []
    for axis, n in enumerate(image.shape[1:]):
        line = torch.arange(n, device=image.device) - (n - 1) / 2
        axes.append((line / max((n - 1) / 2, 1)).reshape([-1 if other == axis else 1 for other in range(3)]))
    x, y, z = axes
    terms = zip(coefficients, BIAS_POWERS, strict=True)
    exponent = sum((value * x**a * (y**b * z**c) for value, (a, b, c) in terms), torch.zeros((), device=image.device))
    return exponent.exp()


def _each_channel(values: list[float], image: Tensor) -> Tensor:
    """One value a channel, as (C, 1, 1, 1)."""
    return torch.tensor(values, dtype=image.dtype)[:, None, None, None].to(image.device, non_blocking=True)
