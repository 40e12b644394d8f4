"""Tiny cases and settings, made in code, for tests of every part. Module-level, so that processes can import them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mlproject.data.augmentation import AugmentationSettings
from mlproject.data.patches import PatchSettings
from mlproject.data.preprocessing import PreparedCase, PreprocessingSettings, prepare
from mlproject.data.volumes import Volume
from mlproject.evaluation.validation import CaseValidation
from mlproject.network.architectures import DynUNetSettings, NetworkSettings
from mlproject.network.losses import LossSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import ModelDescription
from mlproject.prediction.settings import PredictionSettings
from mlproject.training.job import FitJob
from mlproject.training.settings import TrainingSettings

NETWORK = NetworkSettings(dynunet=DynUNetSettings(channels=(4, 8, 8), stem_stride=1))
PATCHES = PatchSettings(size=(16, 16, 16), per_case=4)
UNCHANGED = AugmentationSettings(
    flip_probability=0, affine_probability=0, intensity_probability=0, gamma_probability=0, noise_probability=0
)
TRAINING = TrainingSettings(
    steps=12, batch_size=2, warmup_steps=0, validate_every=1, log_every=2, workers=0, threads=1, accelerator="cpu"
)


def volume(name: str, seed: int, shape: tuple[int, int, int] = (18, 20, 16), lesion: bool = True) -> Volume:
    """Two channels: noise in a box-shaped brain, brighter in a cube that is the lesion."""
    generator = np.random.default_rng(seed)
    image = np.zeros((2, *shape), np.float32)
    image[:, 2:-2, 2:-2, 2:-2] = generator.normal(10, 1, (2, *(n - 4 for n in shape)))
    label = np.zeros(shape, np.uint8)
    if lesion:
        i, j, k = generator.integers(3, np.array(shape) - 8)
        label[i : i + 5, j : j + 5, k : k + 5] = 1
        image[0][label == 1] += 6
    return Volume(name, image, label, np.diag([2.0, 2.0, 2.0, 1.0]), {"dwi": f"{seed}d", "adc": f"{seed}a"})


def cases(seeds: Sequence[int]) -> list[PreparedCase]:
    """Prepared cases named case-SEED."""
    return [prepare(volume(f"case-{seed}", seed), PreprocessingSettings()) for seed in seeds]


def training_cases() -> list[PreparedCase]:
    return cases([1, 2, 3])


def validation_cases() -> list[PreparedCase]:
    return cases([11, 12, 13])


def soft_dice(network: nn.Module, case: PreparedCase, device: torch.device) -> CaseValidation:
    """A stand-in for whole-volume validation that changes with every step."""
    with torch.no_grad():
        shape = [n // 4 * 4 for n in case.image.shape[1:]]
        image = torch.from_numpy(case.image)[None, :, : shape[0], : shape[1], : shape[2]].to(device)
        network.eval()
        probability = torch.sigmoid(network(image))[0, 0]
        assert case.label is not None
        label = torch.from_numpy(case.label.astype(np.float32))[: shape[0], : shape[1], : shape[2]].to(device)
        return CaseValidation(float(2 * (probability * label).sum() / (probability.sum() + label.sum())))


def description(**changed: Any) -> ModelDescription:
    """What a model of NETWORK on two channels says of itself."""
    described = ModelDescription(
        channels=("dwi", "adc"),
        preprocessing=PreprocessingSettings(),
        network=NETWORK,
        patch_size=PATCHES.size,
        prediction=PredictionSettings(device="cpu"),
        postprocessing=Postprocessing(),
        candidates={"network": Postprocessing()},
        seen=(),
    )
    return replace(described, **changed)


def job(folder: Path, **training: object) -> FitJob:
    """A fit of 12 steps, 6 an epoch, on three tiny cases, with augmentation."""
    return FitJob(
        training=replace(TRAINING, **training),  # type: ignore[arg-type]
        network=NETWORK,
        loss=LossSettings(),
        patches=replace(PATCHES, augmentation=AugmentationSettings()),
        channels=2,
        training_cases=training_cases,
        validation_cases=validation_cases,
        validate=soft_dice,
        folder=folder,
        settings={"made": "by a test"},
    )
