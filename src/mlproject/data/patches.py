"""Training patches: where they lie (TorchIO's sampler), in which order they come, and how they are cut."""

# mypy: allow-untyped-calls

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mlproject.data.augmentation import draw_augmentation
from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError

_GLOBAL_GENERATOR = threading.Lock()
"""Held while TorchIO's sampler draws from torch's global generator, which is put back afterwards."""


class PatchDataset(Dataset[dict[str, Any]]):
    """An endless row of augmented patches, each a pure function of (seed, index).

    Indices 0 to epoch_length - 1 are the first epoch, and so on without end. An epoch goes `per_case` times
    through all cases, in an order of its own, so that neighbouring patches come from different cases. Neither
    the number of workers nor the global generators of torch and NumPy matter, and those are left as they were
    (only another thread that draws from torch's at the same moment can notice the sampler).

    A case without lesion gives brain-centred patches for its lesion-centred share too. What a patch holds
    beyond the volume is 0.
    """

    def __init__(self, cases: Sequence[PreparedCase], settings: PatchSettings, seed: int) -> None:
        """Take patches of `cases`: at least one, all with labels, or DataError is raised."""
        if not cases:
            raise DataError("no case to take training patches from: the training split is empty")
        unlabelled = [case.name for case in cases if case.label is None]
        if unlabelled:
            raise DataError(f"training needs a label for every case; none for {', '.join(unlabelled)}")
        self.cases, self.settings, self.seed = cases, settings, seed
        self.epoch_length = len(cases) * settings.per_case
        self._centres: dict[int, tuple[int, list[list[int]]]] = {}  # case: its latest epoch and the centres

    def __len__(self) -> int:
        """Patches in one epoch; larger indices are valid too and belong to later epochs."""
        return self.epoch_length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The patch at `index`, 0 or more.

        Returns:
            "image": float32 (C, *size), z-scores, 0 outside the brain and in channels that the case lacks;
            "label": float32 (1, *size), 0 or 1; "case": position in `cases`.
        """
        epoch, position = divmod(index, self.epoch_length)
        turn, place = divmod(position, len(self.cases))
        number = int(self._generator(0, epoch).permutation(len(self.cases))[place])
        case, settings = self.cases[number], self.settings
        generator = self._generator(1, epoch, position)
        augmentation = draw_augmentation(settings.augmentation, len(case.image), generator)
        margin = augmentation.margin(settings.size, case.geometry.spacing_mm)
        shape = np.array(settings.size) + 2 * np.array(margin)
        start = np.array(self._centre(number, epoch, turn)) - np.array(settings.size) // 2 - margin
        image = torch.from_numpy(cut(case.image, start, shape))
        brain, label = (cut(np.asarray(mask)[None], start, shape) for mask in (case.brain, case.label))
        masks = torch.from_numpy(np.concatenate([brain, label], dtype=np.uint8))
        image, masks = augmentation.apply(image, masks, margin, case.geometry.spacing_mm)
        image[list(case.missing.values())] = 0  # as in prediction, not 0 with noise and another brightness
        return {"image": image, "label": masks[1:].float(), "case": number}

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _centre(self, number: int, epoch: int, turn: int) -> list[int]:
        """Centre voxel of the case's patch number `turn` of an epoch.

        The sampler's set-up costs 10 to 20 ms a case, so an epoch's centres are drawn at once and kept.
        """
        kept_epoch, centres = self._centres.get(number, (-1, []))
        if kept_epoch != epoch:
            seed = int(self._generator(2, epoch, number).integers(2**63))
            settings = self.settings
            centres = sample_centres(self.cases[number], settings.lesion_share, settings.per_case, seed)
            self._centres[number] = (epoch, centres)
        return centres[turn]


def sample_centres(case: PreparedCase, lesion_share: float, count: int, seed: int) -> list[list[int]]:
    """Draw `count` patch centres (i, j, k) with TorchIO's weighted sampler.

    The sampler is asked for patches of one voxel: it cannot centre a larger one within half a patch of the
    volume's border, where cortical lesions lie.
    """
    brain, lesion = np.asarray(case.brain), np.asarray(case.label) > 0
    share = lesion_share if lesion.any() else 0.0
    weights = brain * np.float32((1 - share) / brain.sum())
    if share > 0:
        weights[lesion] += share / lesion.sum()
    subject = tio.Subject(weights=tio.Image(tensor=weights[None], type=tio.SAMPLING_MAP))
    sampler = tio.data.WeightedSampler(1, "weights")
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        patches = list(sampler(subject, count))
    return [torch.as_tensor(patch[tio.LOCATION])[:3].tolist() for patch in patches]


def cut(values: NDArray[Any], start: NDArray[np.intp], shape: NDArray[np.intp]) -> NDArray[Any]:
    """A copy of the box of `shape` from voxel `start` of (C, I, J, K), 0 beyond it; the two must overlap."""
    low, high = np.maximum(start, 0), np.minimum(start + shape, values.shape[1:])
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return np.pad(values[:, *inside], [(0, 0), *zip(low - start, start + shape - high, strict=True)])
