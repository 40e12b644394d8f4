"""Whole-volume validation during training."""

from dataclasses import dataclass

import torch
from torch import nn

from mlproject.data.preprocessing import PreparedCase
from mlproject.evaluation.metrics import case_metrics
from mlproject.prediction.sliding_window import PredictionSettings, predict_probability


@dataclass(frozen=True)
class WholeVolumeDice:
    """Dice of one case at a threshold of 0.5, on the prepared grid; a picklable function for the trainer."""

    patch_size: tuple[int, int, int]
    prediction: PredictionSettings

    def __call__(self, network: nn.Module, case: PreparedCase, device: torch.device) -> float:
        """Dice in [0, 1], by ISLES-2022's definition: 1 where neither has a lesion."""
        assert case.label is not None
        probability = predict_probability(network, case.image, self.patch_size, self.prediction, device)
        mask = (probability >= 0.5) & case.brain
        return case_metrics(case.label, mask, case.geometry.spacing_mm)["dice"]
