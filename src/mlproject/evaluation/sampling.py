"""A case cut to the brain and sampled down to a number of bytes: what the report's viewer shows."""

# mypy: allow-untyped-calls

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Image
from scipy import ndimage

from mlproject.data.geometry import resample, spacing_of

GREY_STEP = 4  # 64 shades: what an eye tells apart, in three quarters of the bytes
BYTES_A_VOXEL = 0.7  # of brain, as base64; only where the search for the size begins
NEAR_ENOUGH = 0.85

Array = npt.NDArray[Any]
orientations: Any = nib.orientations  # has no types


@dataclass(frozen=True, eq=False)
class CutCase:
    """A case in RAS order, cut to what there is to see.

    Attributes:
        grey: (I, J, K) float32, 0 (black, outside the brain) to 1; I runs to the patient's right, J to the front, K up.
        masks: (I, J, K) uint8; bit n is set where the n-th mask is 1.
        affine: (4, 4) voxel to RAS mm.
    """

    grey: npt.NDArray[np.float32]
    masks: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ViewerData:
    """A case for the viewer: two gzipped NIfTI files of one grid, as base64.

    Attributes:
        grey: uint8 shades.
        masks: uint8, the bits of CutCase.masks.
        spacing_mm: voxel size on the sampled grid along left-right, back-front and down-up.
    """

    grey: str
    masks: str
    spacing_mm: tuple[float, float, float]


def cut(image: Array, masks: Sequence[Array], affine: Array) -> CutCase:
    """Cut a case to its brain and its masks, window its grey values, and bring its axes into RAS order.

    Args:
        image: (I, J, K) one channel in z-scores, 0 outside the brain.
        masks: at most eight of (I, J, K), {0, 1}.
        affine: (4, 4) voxel to RAS mm.
    """
    bits = np.zeros(image.shape, np.uint8)
    for n, mask in enumerate(masks):
        bits |= (mask == 1).astype(np.uint8) << n
    boxes = ndimage.find_objects(((image != 0) | (bits != 0)).astype(np.uint8))
    box = boxes[0] if boxes else tuple(slice(0, size) for size in image.shape)
    image, bits = image[box], bits[box]
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    turn = orientations.io_orientation(affine)
    ras_affine = affine @ corner @ orientations.inv_ornt_aff(turn, image.shape)
    brain = image[image != 0]
    low, high = np.percentile(brain, (0.5, 99.7)) if brain.size else (0.0, 1.0)
    grey = np.clip((image - low) / max(high - low, 1e-6), 0.02, 1, dtype=np.float32)  # the brain is never quite black
    grey = np.where(image != 0, grey, np.float32(0))
    return CutCase(
        np.ascontiguousarray(orientations.apply_orientation(grey, turn)),
        np.ascontiguousarray(orientations.apply_orientation(bits, turn)),
        ras_affine,
    )


def for_viewer(case: CutCase, budget_bytes: int) -> ViewerData:
    """Sample a case down until its two files take at most `budget_bytes` as base64; one that fits keeps its grid.

    The finest axes are sampled down first. A mask keeps the voxels of which it covers one half; a lesion that
    would vanish stays as one voxel.
    """
    spacing = np.array(spacing_of(case.affine))
    voxels = np.count_nonzero(case.grey)
    finest = float(spacing.min())
    target = max(finest, float(np.cbrt(voxels * np.prod(spacing) * BYTES_A_VOXEL / budget_bytes)))
    largest_that_fits: ViewerData | None = None
    for _ in range(6):
        data = _encode(case, np.maximum(spacing, target))
        share = (len(data.grey) + len(data.masks)) / budget_bytes
        if share <= 1:
            largest_that_fits = data
            if share > NEAR_ENOUGH or target <= finest:
                return data
        elif largest_that_fits is not None:
            return largest_that_fits
        target = max(finest, target * float(np.cbrt(share / 0.95)))
    while largest_that_fits is None:  # a case of little else than noise in its headers
        target *= 1.3
        data = _encode(case, np.maximum(spacing, target))
        if len(data.grey) + len(data.masks) <= budget_bytes or max(data.spacing_mm) > 100:
            largest_that_fits = data
    return largest_that_fits


def _encode(case: CutCase, spacing_mm: npt.NDArray[np.float64]) -> ViewerData:
    grey, affine = sample(case.grey, case.affine, spacing_mm)
    shades = (np.rint(grey * 63) * GREY_STEP).astype(np.uint8)
    masks = np.zeros(grey.shape, np.uint8)
    for n in range(8):
        if (bit := (case.masks >> n) & 1).any():
            masks |= _sample_mask(bit.astype(np.uint8), case.affine, spacing_mm) << n
    return ViewerData(_nifti(shades, affine), _nifti(masks, affine), spacing_of(affine))


def sample(
    values: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], spacing_mm: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Values (I, J, K) and their affine at voxels of `spacing_mm` (not finer): means of blocks, then linear."""
    ratio = spacing_mm / np.array(spacing_of(affine))
    block = np.floor(ratio + 1e-6).astype(int)
    shape = np.array(values.shape)
    blocks = -(-shape // block)
    if (block > 1).any():
        values = np.pad(values, [(0, int(n)) for n in blocks * block - shape])
        i, j, k = (int(n) for n in blocks)
        values = values.reshape(i, int(block[0]), j, int(block[1]), k, int(block[2])).mean(axis=(1, 3, 5))
    values, affine = values.astype(np.float32), affine @ _finer_or_coarser(block)
    rest = ratio / block
    if np.allclose(rest, 1, atol=1e-3):
        return values, affine
    target = affine @ _finer_or_coarser(rest)
    i, j, k = (int(n) for n in np.ceil(blocks / rest - 1e-3))
    return resample(values, affine, (i, j, k), target), target


def _finer_or_coarser(ratio: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The (4, 4) map from voxels that are `ratio` times as large, with the same outer corner, to those there are."""
    step = np.diag([*ratio.astype(float), 1.0])
    step[:3, 3] = (ratio - 1) / 2
    return step


def _sample_mask(
    mask: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], spacing_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    sampled = sample(mask.astype(np.float32), affine, spacing_mm)[0] >= 0.5
    ratio = spacing_mm / np.array(spacing_of(affine))
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        voxels = np.argwhere(labels[box] == number) + [part.start for part in box]
        there = np.minimum((voxels + 0.5) // ratio, np.array(sampled.shape) - 1).astype(int)
        if not sampled[tuple(there.T)].any():
            middle = there[len(there) // 2]
            sampled[tuple(middle)] = True
    return sampled.astype(np.uint8)


def _nifti(values: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64]) -> str:
    image = Nifti1Image(values, affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode("ascii")
