"""What a fit needs to know: one picklable value, the same for every process that takes part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing import PreparedCase
from mlproject.evaluation.validation import CaseValidation
from mlproject.network.settings import LossSettings, NetworkSettings
from mlproject.training.settings import TrainingSettings

LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class FitJob:
    """Everything that training needs, and nothing that only one process can hold.

    Attributes:
        training, network, loss, patches: the settings of each part.
        channels: number of image channels.
        training_cases: loads the cases to train on (a picklable callable, called once in each process).
        validation_cases: loads the cases to validate on.
        validate: Dice (and perhaps a picture) of one case, predicted whole by the network given, on the device given.
        folder: where LAST and BEST are written; a LAST found there is resumed.
        settings: what the checkpoint says of how it was made, as nested plain values.
        isolated: train in a worker process even where one process is enough, so that what kills it (memory) leaves
            the caller alive.
    """

    training: TrainingSettings
    network: NetworkSettings
    loss: LossSettings
    patches: PatchSettings
    channels: int
    training_cases: Callable[[], Sequence[PreparedCase]]
    validation_cases: Callable[[], Sequence[PreparedCase]]
    validate: Callable[[nn.Module, PreparedCase, torch.device], CaseValidation]
    folder: Path
    settings: dict[str, Any]
    isolated: bool = False
