"""Reading and checking the volumes of a case."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from mlproject.data.image_files import ImageFile, read_image_volumes
from mlproject.errors import DataError


@dataclass(frozen=True, eq=False)
class Volume:
    """One case in memory, on its own grid: that of its reference (first) channel.

    Attributes:
        case: the case's name.
        image: float32 (C, I, J, K), raw intensities, channels in the case's order.
        label: uint8 (I, J, K) of 0 and 1, or None.
        affine: float64 (4, 4), voxel to scanner space (RAS, mm).
        channel_digests: SHA-256 (hex) of each channel's decoded voxels and grid, before resampling; without the
            channels that are missing.
        missing: channels that the case lacks, and where in `image` they would be; 0 stands there.
    """

    case: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    affine: Affine
    channel_digests: dict[str, str]
    missing: dict[str, int] = field(default_factory=dict)

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
    Channels that the case lacks are 0.

    Raises:
        DataError: all faults of the case, one line each.
    """
    faults: list[str] = []
    channels = _read_channels(case, faults)
    label = None
    if labelled and case.label is None:
        faults.append(f"{case.name}: has no label file")
    elif labelled and case.label is not None:
        what = f"{case.name}: label {case.label}"
        (label,) = _read(what, case.label, [None], faults)
        if label is not None and (fault := _label_fault(label.voxels, case.lesion_labels)):
            faults.append(f"{what}: {fault}")

    reference = next(iter(channels.values()))
    if reference is None:
        raise DataError("\n".join(faults))
    aligned: dict[str, NDArray[np.float32]] = {}
    for name, channel in channels.items():
        if channel is not None:
            aligned[name] = _on_grid_of(reference, channel)
            if np.ptp(channel.voxels) > 0 and np.ptp(aligned[name]) == 0:
                faults.append(
                    f"{case.name}: {name} {case.images[name]}: shows nothing where the reference channel is "
                    f"({describe_grid(reference.shape, reference.affine)}); are both of the same scan?"
                )
    if label is not None and (difference := _grid_difference(reference, label)):
        faults.append(f"{case.name}: label {case.label}: {difference}; resample it onto the reference channel")
    if faults:
        raise DataError("\n".join(faults))
    empty = np.zeros(reference.shape, np.float32)
    return Volume(
        case=case.name,
        image=np.stack([aligned.get(name, empty) for name in case.channels]),
        label=None if label is None else _lesion(label.voxels, case.lesion_labels),
        affine=reference.affine,
        channel_digests={name: channel.digest() for name, channel in channels.items() if channel is not None},
        missing=case.places_of_missing,
    )


def _read_channels(case: Case, faults: list[str]) -> dict[str, ImageFile | None]:
    """The case's channels as stored, each file read once; None, and a fault, for those that cannot be read."""
    channels: dict[str, ImageFile | None] = dict.fromkeys(case.images)
    for path in dict.fromkeys(case.images.values()):
        in_file = [name for name in case.images if case.images[name] == path]
        components = [case.components.get(name) for name in in_file]
        volumes = _read(f"{case.name}: {', '.join(in_file)} {path}", path, components, faults)
        channels |= zip(in_file, volumes, strict=True)
    for name, channel in channels.items():
        if channel is not None and not np.ptp(channel.voxels) > 0:
            faults.append(
                f"{case.name}: {name} {case.images[name]}: every voxel is {channel.voxels.flat[0]:g}: the channel is "
                "constant, there is nothing to see in it"
            )
    return channels


def _read(what: str, path: Path, components: Sequence[int | None], faults: list[str]) -> Sequence[ImageFile | None]:
    """Read volumes of one file; None for each, and a fault more, if that fails."""
    try:
        return read_image_volumes(path, components)
    except DataError as error:
        faults.append(f"{what}: {error}")
        return [None] * len(components)


def _label_fault(voxels: NDArray[np.float32], lesion_labels: tuple[int, ...] | None) -> str | None:
    """What makes these voxels no lesion mask. Values within 1e-3 of a whole number are header scaling, and pass."""
    if ((voxels == 0) | (voxels == 1)).all():
        return None
    values = np.unique(voxels)
    whole = np.allclose(values, np.rint(values), rtol=0, atol=1e-3)
    if whole and (lesion_labels is not None or np.isin(np.rint(values), (0, 1)).all()):
        return None
    shown = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if values.size > 8 else "")
    if lesion_labels is not None:
        return f"is no label: it holds values that are no whole numbers ({shown})"
    advice = "give 0 for background and 1 for lesion"
    if whole:
        advice += ", or say which values are lesion, as data.lesion_labels=[1]"
    return f"is not binary: it holds {values.size} values ({shown}); {advice}"


def _lesion(voxels: NDArray[np.float32], lesion_labels: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """1 in the lesion, 0 elsewhere."""
    return np.isin(np.rint(voxels), lesion_labels or (1,)).astype(np.uint8)


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
