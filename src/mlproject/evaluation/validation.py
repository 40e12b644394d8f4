"""Whole-volume validation during training."""

from dataclasses import dataclass

import torch
from torch import nn

from mlproject.data.preprocessing import PreparedCase
from mlproject.evaluation.metrics import case_metrics
from mlproject.evaluation.slice_picture import Picture, slice_picture
from mlproject.prediction.settings import PredictionSettings
from mlproject.prediction.sliding_window import predict_probability


@dataclass(frozen=True, eq=False)
class CaseValidation:
    """What the validation of one case found.

    Attributes:
        dice: in [0, 1], by ISLES-2022's definition: 1 where neither has a lesion.
        picture: of the case, where it is the one to be shown.
    """

    dice: float
    picture: Picture | None = None


@dataclass(frozen=True)
class WholeVolumeDice:
    """Dice of one case at a threshold of 0.5, on the prepared grid; a picklable function for the trainer.

    Attributes:
        patch_size: edge lengths of the sliding window, in voxels.
        prediction: the sliding window's settings.
        shown: name of the case of which a picture is drawn; none if empty.
    """

    patch_size: tuple[int, int, int]
    prediction: PredictionSettings
    shown: str = ""

    def __call__(self, network: nn.Module, case: PreparedCase, device: torch.device) -> CaseValidation:
        """Predict the whole case, and compare."""
        assert case.label is not None
        probability = predict_probability(network, case.image, self.patch_size, self.prediction, device, case.brain)
        mask = probability >= 0.5
        spacing_mm = case.geometry.spacing_mm
        dice = case_metrics(case.label, mask, spacing_mm)["dice"]
        if case.name != self.shown:
            return CaseValidation(dice)
        caption = f"Dice {dice:.3f} "
        return CaseValidation(dice, slice_picture(case.image[0], case.label, mask, spacing_mm, caption))
