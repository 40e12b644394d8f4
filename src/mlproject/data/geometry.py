"""Voxel grids in scanner space: what an affine says, whether two grids agree, moving values between them."""

# mypy: allow-untyped-calls

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Affine = NDArray[np.float64]

GRID_TOLERANCE_MM = 0.01
"""Grids that differ by less at every voxel are one grid: header rounding, far below any voxel's size."""


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in mm along I, J, K of a (4, 4) voxel to scanner (RAS, mm) affine."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return i, j, k


def largest_shift_mm(shape: Shape, affine: Affine, other: Affine) -> float:
    """The largest distance in mm between the places two affines give to one voxel of a grid of `shape`."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(shape) - 1  # the difference of two affine maps is largest at a corner
    return float(np.linalg.norm(corners @ (affine - other)[:3].T, axis=1).max())


def describe_grid(shape: Sequence[int], affine: Affine) -> str:
    """A grid in words, as "112x112x73 voxels of 2x2x2 mm, orientation LAS"."""
    voxels = "x".join(map(str, shape))
    spacing = "x".join(f"{size:.4g}" for size in spacing_of(affine))
    return f"{voxels} voxels of {spacing} mm, orientation {''.join(nib.aff2axcodes(affine))}"


def resample(values: NDArray[np.float32], affine: Affine, shape: Shape, target_affine: Affine) -> NDArray[np.float32]:
    """Linearly interpolate values (I, J, K) on the grid of `affine` at the voxels of another grid.

    Voxels of the target outside the source's field of view become 0.
    """
    copy = np.array(values[None], order="C")  # values may be a read-only memory map, of which PyTorch warns
    image = tio.ScalarImage(tensor=torch.from_numpy(copy), affine=affine)
    moved = tio.Resample((shape, target_affine), image_interpolation="linear")(image)
    return np.ascontiguousarray(moved.numpy()[0], dtype=np.float32)
