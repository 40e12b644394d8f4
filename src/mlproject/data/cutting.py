"""Patches cut from their cases and changed, on the CPU or where the network is."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mlproject.data.affine import Millimetres, Voxels
from mlproject.data.augmentation import Augmentation
from mlproject.data.patches import PatchPlan
from mlproject.data.preprocessing import PreparedCase

CPU = torch.device("cpu")


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


def changed_together(cuts: Sequence[Cut], device: torch.device) -> Batch:
    """Change each patch on `device`, and lay them side by side."""
    size = [n - 2 * margin for n, margin in zip(cuts[0].image.shape[1:], cuts[0].margin, strict=True)]
    shape = (len(cuts), len(cuts[0].image), *size)
    image = torch.empty(shape, device=device, memory_format=torch.channels_last_3d)
    label = torch.empty((len(cuts), 1, *size), device=device)
    for number, cut in enumerate(cuts):
        changed, masks = cut.changed(device)
        image[number], label[number] = changed, masks[1:]
    return Batch(image, label, tuple(cut.case for cut in cuts))


class CaseVolumes:
    """The volumes of some cases on a device, from which patches are cut; on the CPU the cases' own memory."""

    def __init__(self, cases: Sequence[PreparedCase], device: torch.device = CPU) -> None:
        """Copy the volumes to `device`, where it is not the CPU; `bytes_of` says how much they take."""
        self.cases, self.device = cases, device
        self._volumes = [_volumes(case, device) for case in cases]

    def cut(self, plan: PatchPlan) -> Cut:
        """A patch, not changed yet."""
        case = self.cases[plan.case]
        image, *masks = (_box(values, plan.start, plan.shape) for values in self._volumes[plan.case])
        return Cut(
            image=image,
            masks=torch.cat(masks),
            margin=plan.margin,
            spacing_mm=case.geometry.spacing_mm,
            augmentation=plan.augmentation,
            missing=tuple(case.missing.values()),
            case=plan.case,
        )

    def cuts(self, plans: Sequence[PatchPlan]) -> list[Cut]:
        """Patches, not changed yet."""
        return [self.cut(plan) for plan in plans]

    def batch(self, plans: Sequence[PatchPlan]) -> Batch:
        """Patches, cut and changed where the volumes are."""
        return changed_together(self.cuts(plans), self.device)


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


def _box(values: Tensor, start: Voxels, shape: Voxels) -> Tensor:
    """A copy of the box of `shape` from voxel `start` of (C, I, J, K), 0 beyond it; the two must overlap."""
    spans = list(zip(start, shape, values.shape[1:], strict=True))
    inside = values[:, *(slice(max(first, 0), min(first + n, size)) for first, n, size in spans)]
    if inside.shape[1:] == torch.Size(shape):
        return inside.clone(memory_format=torch.contiguous_format)
    box = values.new_zeros(len(values), *shape)
    box[:, *(slice(max(-first, 0), min(size - first, n)) for first, n, size in spans)] = inside
    return box
