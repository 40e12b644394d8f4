"""How training patches are taken and varied. Imports nothing heavy, so that --help is quick."""

from dataclasses import dataclass, field

from mlproject.errors import SettingsError


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
class PatchSettings:
    """How patches are taken from the training cases.

    Attributes:
        size: patch size in voxels along the three axes; the network says which sizes it takes.
        lesion_share: chance that a patch is centred on a lesion voxel rather than on any brain voxel.
        per_case: patches of each case in one epoch.
        augmentation: how patches are varied.
    """

    size: tuple[int, int, int] = (64, 64, 64)
    lesion_share: float = 0.5
    per_case: int = 8
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise SettingsError(f"patches.size={list(self.size)}: give 1 voxel or more along every axis")
        if not 0 <= self.lesion_share <= 1:
            raise SettingsError(f"patches.lesion_share={self.lesion_share:g}: give a share from 0 to 1")
        if self.per_case < 1:
            raise SettingsError(f"patches.per_case={self.per_case}: give 1 or more")
