"""Reading and checking the volumes of a case."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlproject.data.case import Case
from mlproject.data.geometry import (
    GRID_TOLERANCE_MM,
    Affine,
    describe_grid,
    largest_shift_mm,
    resample,
    spacing_of,
)
from mlproject.data.image_files import ImageFile, read_image_file
from mlproject.errors import DataError


@dataclass(frozen=True, eq=False)
class Volume:
    """One case in memory, on its own grid: that of its reference (first) channel.

    Attributes:
        case: the case's name.
        image: float32 (C, I, J, K), raw intensities, channels in the case's order.
        label: uint8 (I, J, K) of 0 and 1, or None.
        affine: float64 (4, 4), voxel to scanner space (RAS, mm).
        channel_digests: SHA-256 (hex) of each channel's decoded voxels and grid, before resampling.
    """

    case: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    affine: Affine
    channel_digests: dict[str, str]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm along I, J, K."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def lesion_ml(self) -> float | None:
        """Volume of the lesion in ml, or None without a label."""
        return None if self.label is None else int(self.label.sum()) * self.voxel_ml


def read_volume(case: Case, labelled: bool = True) -> Volume:
    """Read the channels of a case, bring them onto the reference channel's grid, and read its label.

    Channels on another grid are interpolated linearly in scanner space; where they see nothing they become 0.
    The label must be on the reference channel's grid; it is never resampled, and not read if not `labelled`.

    Raises:
        DataError: all faults of the case, one line each.
    """
    faults: list[str] = []
    channels = {
        name: _read(f"{case.name}: {name} {path}", path, faults, _intensity_fault) for name, path in case.images.items()
    }
    label = None
    if labelled and case.label is None:
        faults.append(f"{case.name}: has no label file")
    elif labelled and case.label is not None:
        label = _read(f"{case.name}: label {case.label}", case.label, faults, _label_fault)

    reference = next(iter(channels.values()))
    if reference is None:
        raise DataError("\n".join(faults))
    aligned = []
    for name, channel in channels.items():
        if channel is not None:
            aligned.append(_on_grid_of(reference, channel))
            if np.ptp(channel.voxels) > 0 and np.ptp(aligned[-1]) == 0:
                faults.append(
                    f"{case.name}: {name} {case.images[name]}: shows nothing where the reference channel is "
                    f"({describe_grid(reference.shape, reference.affine)}); are both of the same scan?"
                )
    if label is not None and (difference := _grid_difference(reference, label)):
        faults.append(f"{case.name}: label {case.label}: {difference}; resample it onto the reference channel")
    if faults:
        raise DataError("\n".join(faults))
    return Volume(
        case=case.name,
        image=np.stack(aligned),
        label=None if label is None else np.rint(label.voxels).astype(np.uint8),
        affine=reference.affine,
        channel_digests={name: channel.digest() for name, channel in channels.items() if channel is not None},
    )


def _read(
    what: str, path: Path, faults: list[str], find_fault: Callable[[NDArray[np.float32]], str | None]
) -> ImageFile | None:
    """Read a file, None if that fails; add that, or what `find_fault` finds in its voxels, to `faults`."""
    try:
        image = read_image_file(path)
    except DataError as error:
        faults.append(f"{what}: {error}")
        return None
    if fault := find_fault(image.voxels):
        faults.append(f"{what}: {fault}")
    return image


def _intensity_fault(voxels: NDArray[np.float32]) -> str | None:
    """What makes these voxels no image channel."""
    if not np.ptp(voxels) > 0:
        return f"every voxel is {voxels.flat[0]:g}: the channel is constant, there is nothing to see in it"
    return None


def _label_fault(voxels: NDArray[np.float32]) -> str | None:
    """What makes these voxels no lesion mask. Values within 1e-3 of 0 or 1 are header scaling, and pass."""
    values = np.unique(voxels)
    if np.isin(np.rint(values), (0, 1)).all() and np.allclose(values, np.rint(values), rtol=0, atol=1e-3):
        return None
    shown = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if values.size > 8 else "")
    return f"is not binary: it holds {values.size} values ({shown}); give 0 for background and 1 for lesion"


def _grid_difference(reference: ImageFile, other: ImageFile) -> str | None:
    """How the grid of `other` differs from the reference channel's; None where they are one grid."""
    shift = largest_shift_mm(reference.shape, reference.affine, other.affine)
    if other.shape == reference.shape and shift <= GRID_TOLERANCE_MM:
        return None
    return (
        f"is on another grid ({describe_grid(other.shape, other.affine)}) than the reference channel "
        f"({describe_grid(reference.shape, reference.affine)}); voxels lie up to {shift:.3g} mm apart"
    )


def _on_grid_of(reference: ImageFile, channel: ImageFile) -> NDArray[np.float32]:
    """The channel's voxels on the reference channel's grid."""
    if _grid_difference(reference, channel) is None:
        return channel.voxels
    return resample(channel.voxels, channel.affine, reference.shape, reference.affine)
