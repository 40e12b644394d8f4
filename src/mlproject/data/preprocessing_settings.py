"""How a volume is prepared. Imports nothing heavy, so that --help is quick."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mlproject.errors import SettingsError

BrainMaskMethod = Literal["auto", "nonzero", "otsu"]


@dataclass(frozen=True)
class PreprocessingSettings:
    """How a volume is prepared for the network.

    Attributes:
        spacing_mm: voxel size along left-right, back-front and down-up; null keeps each case's own.
        crop_margin_mm: what is kept around the brain's bounding box.
        clip_sd: z-scores beyond this many standard deviations are cut off there; null keeps them.
        brain_mask: nonzero (skull-stripped images), otsu (others), or auto (otsu where over 60% is not zero).
    """

    spacing_mm: tuple[float, float, float] | None = None
    crop_margin_mm: float = 6.0
    clip_sd: float | None = 5.0
    brain_mask: BrainMaskMethod = "auto"

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not all(0 < size < math.inf for size in self.spacing_mm):
            raise SettingsError(f"preprocessing.spacing_mm={self.spacing_mm}: give three sizes above 0, or null")
        if not 0 <= self.crop_margin_mm < math.inf:
            raise SettingsError(f"preprocessing.crop_margin_mm={self.crop_margin_mm}: give 0 or more")
        if self.clip_sd is not None and not 0 < self.clip_sd < math.inf:
            raise SettingsError(f"preprocessing.clip_sd={self.clip_sd}: give a number above 0, or null")
        if self.brain_mask not in get_args(BrainMaskMethod):
            names = ", ".join(get_args(BrainMaskMethod))
            raise SettingsError(f"preprocessing.brain_mask={self.brain_mask}: give one of {names}")
