"""The prepared grid: chosen around the brain, and the way there and back to the case's own grid."""

# mypy: allow-untyped-calls

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import nibabel.orientations as orientations
import numpy as np
from numpy.typing import NDArray

from mlproject.data.geometry import Affine, Shape, resample, spacing_of

SAME_SPACING_MM = 1e-3
"""A target spacing nearer than this to the case's own is the case's own: resampling would only blur."""

T = TypeVar("T", bound=np.generic)
AffineRows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """A case's own (native) grid and its prepared grid; both affines are voxel to scanner space (RAS, mm).

    Attributes:
        native_shape: voxels along I, J, K as stored on disk.
        native_affine: four rows of four.
        shape: voxels along the prepared grid's axes, those nearest to left-right, back-front and down-up.
        affine: four rows of four.
    """

    native_shape: Shape
    native_affine: AffineRows
    shape: Shape
    affine: AffineRows

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the prepared grid in mm."""
        return spacing_of(np.array(self.affine))

    @property
    def native_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the case's own grid in mm."""
        return spacing_of(np.array(self.native_affine))

    @property
    def native_voxel_ml(self) -> float:
        """Volume of a voxel of the case's own grid."""
        return float(np.prod(self.native_spacing_mm)) / 1000

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Geometry":
        """From what `to_dict` gave, also after a round through JSON, which knows no tuples."""
        return cls(
            native_shape=_shape(values["native_shape"]),
            native_affine=_rows(values["native_affine"]),
            shape=_shape(values["shape"]),
            affine=_rows(values["affine"]),
        )


def choose_geometry(
    brain: NDArray[np.bool_], affine: Affine, margin_mm: float, spacing_mm: tuple[float, float, float] | None
) -> Geometry:
    """Choose the prepared grid: the brain's bounding box and a margin, in RAS order, at the target spacing.

    Args:
        brain: (I, J, K) on the case's own grid, with at least one voxel.
        affine: the case's own.
        margin_mm: added around the bounding box, as far as the volume reaches.
        spacing_mm: target voxel size along left-right, back-front, down-up; None keeps the case's own.
    """
    planes = [np.flatnonzero(brain.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    margin = np.ceil(margin_mm / np.array(spacing_of(affine)) - 1e-3).astype(int)
    start = np.maximum([along[0] for along in planes] - margin, 0)
    size = np.minimum([along[-1] + 1 for along in planes] + margin, brain.shape) - start

    # Rows stored front to back or back to front, in axial or in sagittal slices, must look the same to the
    # network. Axes are swapped and flipped, never interpolated.
    crop_affine = affine @ _translation(start)
    turn = orientations.io_orientation(crop_affine)
    grid_affine = crop_affine @ orientations.inv_ornt_aff(turn, size)
    shape = size[np.argsort(turn[:, 0])]

    spacing = np.array(spacing_of(grid_affine))
    target = spacing if spacing_mm is None else np.array(spacing_mm)
    if (abs(target - spacing) > SAME_SPACING_MM).any():
        new_shape = np.ceil(shape * spacing / target - 1e-3).astype(int)  # covers the old grid, on the same centre
        centre = grid_affine @ [*(shape - 1) / 2, 1]
        grid_affine = grid_affine @ np.diag([*target / spacing, 1])
        grid_affine[:3, 3] += (centre - grid_affine @ [*(new_shape - 1) / 2, 1])[:3]
        shape = new_shape
    return Geometry(_shape(brain.shape), _rows(affine), _shape(shape), _rows(grid_affine))


def to_prepared(values: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Values (I, J, K) on the case's own grid, brought onto the prepared grid.

    Without a change of spacing each voxel keeps its value; otherwise linear interpolation.
    """
    if (kept := _without_interpolation(values, geometry)) is not None:
        return kept
    return resample(values, np.array(geometry.native_affine), geometry.shape, np.array(geometry.affine))


def mask_to_prepared(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """The same of a mask; where it is interpolated, what is at least one half stays."""
    if (kept := _without_interpolation(mask, geometry)) is not None:
        return kept
    return to_prepared(mask.astype(np.float32), geometry) >= 0.5


def _without_interpolation(values: NDArray[T], geometry: Geometry) -> NDArray[T] | None:
    """A copy on the prepared grid of what is on the case's own, where the one only crops, swaps and flips the other."""
    step = _prepared_to_native(geometry)
    if (box := _box_without_interpolation(geometry, step)) is None:
        return None
    turn = orientations.io_orientation(np.linalg.inv(step))
    return np.array(orientations.apply_orientation(values[box], turn), order="C")


def to_native(values: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Values (I, J, K) on the prepared grid, brought back to the case's own grid; 0 outside the crop.

    Without a change of spacing each voxel keeps its value; otherwise linear interpolation, which stays within
    the range of the values and 0.
    """
    if values.shape != geometry.shape:
        raise ValueError(f"values have shape {values.shape}, the prepared grid {geometry.shape}")
    step = _prepared_to_native(geometry)
    if (box := _box_without_interpolation(geometry, step)) is not None:
        native = np.zeros(geometry.native_shape, dtype=np.float32)
        native[box] = orientations.apply_orientation(values, orientations.io_orientation(step))
        return native
    moved = resample(values, np.array(geometry.affine), geometry.native_shape, np.array(geometry.native_affine))
    return np.clip(moved, min(values.min(), 0), max(values.max(), 0))


def _prepared_to_native(geometry: Geometry) -> Affine:
    """The (4, 4) map from prepared to native voxel indices."""
    step: Affine = np.linalg.inv(np.array(geometry.native_affine)) @ np.array(geometry.affine)
    return step


def _box_without_interpolation(geometry: Geometry, step: Affine) -> tuple[slice, ...] | None:
    """The native voxels that the prepared grid holds where it only crops, swaps and flips; None otherwise."""
    turn = np.rint(step[:3, :3])
    swaps_and_flips = (abs(turn).sum(axis=0) == 1).all() and (abs(turn).sum(axis=1) == 1).all()
    if not swaps_and_flips or not np.allclose(step[:3, :3], turn, rtol=0, atol=1e-6):
        return None
    ends = np.rint([step[:3, 3], step[:3, :3] @ (np.array(geometry.shape) - 1) + step[:3, 3]]).astype(int)
    return tuple(slice(low, high + 1) for low, high in zip(ends.min(axis=0), ends.max(axis=0), strict=True))


def _translation(voxels: NDArray[np.integer[Any]]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def _shape(values: Any) -> Shape:
    i, j, k = (int(value) for value in values)
    return i, j, k


def _rows(affine: Any) -> AffineRows:
    return tuple(tuple(float(value) for value in row) for row in affine)
