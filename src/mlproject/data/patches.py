"""Training patches: where they lie (TorchIO's sampler), in which order they come, and how each is changed."""

# mypy: allow-untyped-calls

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mlproject.data.affine import Voxels
from mlproject.data.augmentation import Augmentation, draw_augmentation
from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError

CENTRES_AT_ONCE = 128
"""Patches of a case whose centres are drawn together: the sampler's set-up costs as much as a hundred draws."""

_GLOBAL_GENERATOR = threading.Lock()
"""Held while TorchIO's sampler draws from torch's global generator, which is put back afterwards."""


@dataclass(frozen=True, eq=False)
class PatchPlan:
    """Where a patch is cut and how it is changed; plain values, so that it travels between processes at no cost.

    Attributes:
        case: position of the case among all.
        start: first voxel, which may lie before the volume.
        shape: voxels along each axis, margin included.
        margin: voxels around the patch along each axis.
        augmentation: the changes.
    """

    case: int
    start: Voxels
    shape: Voxels
    margin: Voxels
    augmentation: Augmentation


class PatchDataset(Dataset[PatchPlan]):
    """An endless row of patches and their changes, each a pure function of (seed, index).

    Indices 0 to epoch_length - 1 are the first epoch, and so on without end. An epoch goes `per_case` times
    through all cases, in an order of its own, so that neighbouring patches come from different cases. Neither
    the number of workers nor the global generators of torch and NumPy matter, and those are left as they were
    (only another thread that draws from torch's at the same moment can notice the sampler).

    A case without lesion gives brain-centred patches for its lesion-centred share too. Along an axis that is no longer
    than the patch, the patch lies around the whole volume. What a patch holds beyond the volume is 0.
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
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.empty(0, np.intp))  # an epoch, and its order of cases
        self._centres: dict[int, tuple[int, list[list[int]]]] = {}  # case: its latest block and the centres

    def __len__(self) -> int:
        """Patches in one epoch; larger indices are valid too and belong to later epochs."""
        return self.epoch_length

    def __getitem__(self, index: int) -> PatchPlan:
        """The patch at `index`, 0 or more."""
        epoch, position = divmod(index, self.epoch_length)
        turn, place = divmod(position, len(self.cases))
        number = self._case(epoch, place)
        case, settings = self.cases[number], self.settings
        augmentation = draw_augmentation(settings.augmentation, len(case.image), self._generator(1, epoch, position))
        margin = augmentation.margin(settings.size, case.geometry.spacing_mm)
        centre = self._centre(number, epoch * settings.per_case + turn)
        axes = list(zip(centre, settings.size, case.geometry.shape, margin, strict=True))
        i, j, k = (
            (middle - size // 2 if size < length else (length - size) // 2) - around
            for middle, size, length, around in axes
        )
        a, b, c = (size + 2 * around for _, size, _, around in axes)
        return PatchPlan(number, (i, j, k), (a, b, c), margin, augmentation)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _case(self, epoch: int, place: int) -> int:
        kept_epoch, order = self._order
        if kept_epoch != epoch:
            order = self._generator(0, epoch).permutation(len(self.cases))
            self._order = (epoch, order)
        return int(order[place])

    def _centre(self, number: int, visit: int) -> list[int]:
        """Centre voxel of the case's patch number `visit`, counted over all epochs."""
        block, position = divmod(visit, CENTRES_AT_ONCE)
        kept_block, centres = self._centres.get(number, (-1, []))
        if kept_block != block:
            seed = int(self._generator(2, block, number).integers(2**63))
            centres = sample_centres(self.cases[number], self.settings.lesion_share, CENTRES_AT_ONCE, seed)
            self._centres[number] = (block, centres)
        return centres[position]


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
