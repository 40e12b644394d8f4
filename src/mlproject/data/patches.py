"""Training patches: where they lie (TorchIO's sampler), in which order they come, and how they are cut."""

# mypy: allow-untyped-calls

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mlproject.data.augmentation import Augmentation, Millimetres, Voxels, draw_augmentation
from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError

CPU = torch.device("cpu")
CENTRES_AT_ONCE = 128
"""Patches of a case whose centres are drawn together: the sampler's set-up costs as much as a hundred draws."""

_GLOBAL_GENERATOR = threading.Lock()
"""Held while TorchIO's sampler draws from torch's global generator, which is put back afterwards."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A patch as it was cut from its case, with what it takes to change it; whoever has the device does the change.

    Attributes:
        image: float32 (C, I, J, K) z-scores, margin included, 0 outside the brain and beyond the volume; a copy.
        masks: uint8 (2, I, J, K), brain and lesions, margin included.
        margin: voxels around the patch along each axis.
        spacing_mm: voxel size.
        augmentation: the changes.
        missing: channels that the case lacks; they stay 0.
        case: position of the case among all.
    """

    image: Tensor
    masks: Tensor
    margin: Voxels
    spacing_mm: Millimetres
    augmentation: Augmentation
    missing: tuple[int, ...]
    case: int

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which it goes to a GPU without waiting; for PyTorch's DataLoader."""
        return replace(self, image=self.image.pin_memory(), masks=self.masks.pin_memory())

    def changed(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The patch, changed on `device`: image float32 (C, *size), and masks uint8 (2, *size)."""
        image, masks = (tensor.to(device, non_blocking=True) for tensor in (self.image, self.masks))
        image, masks = self.augmentation.apply(image, masks, self.margin, self.spacing_mm)
        for channel in self.missing:  # as in prediction, not 0 with noise and another brightness
            image[channel].zero_()
        return image, masks


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches that a step is made of, all on one device.

    Attributes:
        image: float32 (B, C, *size) in channels_last_3d; z-scores, 0 outside the brain and in missing channels.
        label: float32 (B, 1, *size), 0 or 1.
        cases: position of each patch's case among all.
    """

    image: Tensor
    label: Tensor
    cases: tuple[int, ...]


def batch_of(cuts: Sequence[Cut], device: torch.device | None = None) -> Batch:
    """Change each patch on `device` (where it lies, if none is given), and lay them side by side."""
    device = device or cuts[0].image.device
    size = [n - 2 * margin for n, margin in zip(cuts[0].image.shape[1:], cuts[0].margin, strict=True)]
    shape = (len(cuts), len(cuts[0].image), *size)
    image = torch.empty(shape, device=device, memory_format=torch.channels_last_3d)
    label = torch.empty((len(cuts), 1, *size), device=device)
    for number, cut in enumerate(cuts):
        changed, masks = cut.changed(image.device)
        image[number], label[number] = changed, masks[1:]
    return Batch(image, label, tuple(cut.case for cut in cuts))


class PatchDataset(Dataset[Cut]):
    """An endless row of patches and their changes, each a pure function of (seed, index).

    Indices 0 to epoch_length - 1 are the first epoch, and so on without end. An epoch goes `per_case` times
    through all cases, in an order of its own, so that neighbouring patches come from different cases. Neither
    the number of workers nor the global generators of torch and NumPy matter, and those are left as they were
    (only another thread that draws from torch's at the same moment can notice the sampler).

    A case without lesion gives brain-centred patches for its lesion-centred share too. What a patch holds
    beyond the volume is 0.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], settings: PatchSettings, seed: int, device: torch.device = CPU
    ) -> None:
        """Take patches of `cases`: at least one, all with labels, or DataError is raised.

        On another `device` than the CPU the volumes are copied there (bytes_of says how much that takes) and cut there.
        """
        if not cases:
            raise DataError("no case to take training patches from: the training split is empty")
        unlabelled = [case.name for case in cases if case.label is None]
        if unlabelled:
            raise DataError(f"training needs a label for every case; none for {', '.join(unlabelled)}")
        self.cases, self.settings, self.seed, self.device = cases, settings, seed, device
        self.epoch_length = len(cases) * settings.per_case
        self._volumes = [_volumes(case, device) for case in cases]
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.empty(0, np.intp))  # an epoch, and its order of cases
        self._centres: dict[int, tuple[int, list[list[int]]]] = {}  # case: its latest block and the centres

    def __len__(self) -> int:
        """Patches in one epoch; larger indices are valid too and belong to later epochs."""
        return self.epoch_length

    def __getitem__(self, index: int) -> Cut:
        """The patch at `index`, 0 or more, not changed yet."""
        epoch, position = divmod(index, self.epoch_length)
        turn, place = divmod(position, len(self.cases))
        number = self._case(epoch, place)
        case, settings = self.cases[number], self.settings
        augmentation = draw_augmentation(settings.augmentation, len(case.image), self._generator(1, epoch, position))
        margin = augmentation.margin(settings.size, case.geometry.spacing_mm)
        shape = np.array(settings.size) + 2 * np.array(margin)
        centre = self._centre(number, epoch * settings.per_case + turn)
        start = np.array(centre) - np.array(settings.size) // 2 - margin
        image, *masks = (cut(values, start, shape) for values in self._volumes[number])
        return Cut(
            image=image,
            masks=torch.cat(masks),
            margin=margin,
            spacing_mm=case.geometry.spacing_mm,
            augmentation=augmentation,
            missing=tuple(case.missing.values()),
            case=number,
        )

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


def bytes_of(cases: Sequence[PreparedCase]) -> int:
    """What the volumes of some cases take in memory: image, brain and label."""
    return sum(case.image.nbytes + 2 * case.brain.nbytes for case in cases)


def _volumes(case: PreparedCase, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Image (C, I, J, K), brain and lesions (1, I, J, K) uint8; on the CPU the case's own memory, not to be written."""
    arrays = (case.image, case.brain[None], np.asarray(case.label)[None])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        image, brain, label = (torch.from_numpy(array) for array in arrays)
    return image.to(device), brain.view(torch.uint8).to(device), label.to(device)


def cut(values: Tensor, start: NDArray[np.intp], shape: NDArray[np.intp]) -> Tensor:
    """A copy of the box of `shape` from voxel `start` of (C, I, J, K), 0 beyond it; the two must overlap."""
    low, high = np.maximum(start, 0), np.minimum(start + shape, values.shape[1:])
    inside = values[:, *(slice(a, b) for a, b in zip(low, high, strict=True))]
    if (high - low == shape).all():
        return inside.clone(memory_format=torch.contiguous_format)
    box = values.new_zeros(len(values), *shape)
    box[:, *(slice(a, b) for a, b in zip(low - start, high - start, strict=True))] = inside
    return box
