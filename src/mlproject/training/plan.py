"""What a data set and a machine suggest: target spacing, patch size, batch size, each with its reason.

The rules are those of nnU-Net (Isensee et al., Nature Methods 2021) where they fit: one spacing for all cases, and
the largest patch that the data, the memory and the time allow.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Voxels = tuple[int, int, int]
Millimetres = tuple[float, float, float]

SAME_SPACING_SHARE = 0.02
"""Spacings that differ by less are one spacing: resampling would only blur."""
ANISOTROPY = 3.0
"""nnU-Net's bound: from this ratio on, one axis is so coarse that it is treated apart."""
CPU_PATCH_VOXELS = 64**3
"""On a CPU larger patches make steps of several seconds."""
GPU_PATCH_VOXELS = 128**3
"""What nnU-Net trains with on GPUs of 8 to 11 GB."""
MEMORY_SHARE = 0.8
"""Of the free memory; the rest is for what else happens meanwhile (whole-volume validation, fragments)."""


def choose_spacing(spacings_mm: Sequence[Millimetres], shapes: Sequence[Voxels]) -> tuple[Millimetres | None, str]:
    """Target spacing (left-right, back-front, down-up) by nnU-Net's rule; None keeps each case's own.

    It is the median over the cases on each axis. Where that is strongly anisotropic (one axis over three times as
    coarse as the others, with less than a third of their voxels), the coarse axis takes the 10th percentile: cases
    with thin slices then keep most of their resolution, though never finer than the other axes.

    Args:
        spacings_mm: of each case, one at least.
        shapes: voxels along the same axes.

    Returns:
        The spacing in mm, and the reason in words.
    """
    spacings = np.array(spacings_mm, dtype=float)
    median = np.median(spacings, axis=0)
    if (abs(spacings - median) <= SAME_SPACING_SHARE * median).all():
        return None, f"all cases have voxels of {in_mm(median)}: nothing is resampled"
    target = median.copy()
    extent = np.median(spacings * np.array(shapes), axis=0)
    coarse = int(np.argmax(median))
    others = np.delete(np.arange(3), coarse)
    voxels = extent / median
    reason = f"spacings differ ({in_mm(spacings.min(axis=0))} to {in_mm(spacings.max(axis=0))}): their median"
    if median[coarse] > ANISOTROPY * median[others].max() and ANISOTROPY * voxels[coarse] < voxels[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), median[others].max())
        reason += ", and the 10th percentile across the thick slices, so that thin ones are not lost"
    i, j, k = (round(float(size), 3) for size in target)
    return (i, j, k), reason


def choose_patch(shape: Sequence[float], spacing_mm: Sequence[float], divisor: int, most_voxels: int) -> Voxels:
    """The largest patch, about as long in mm on each axis, of at most `most_voxels` voxels.

    Args:
        shape: median number of voxels of the prepared cases; no axis of the patch is longer than the multiple of
            `divisor` nearest to it.
        spacing_mm: of the prepared cases.
        divisor: each axis of the patch is a multiple of it; one is a larger one, as the networks demand.
        most_voxels: the smallest patch is given even where that has more.
    """
    steps = [max(1, math.floor(length / divisor + 0.5)) for length in shape]
    while math.prod(steps) * divisor**3 > most_voxels and sum(steps) > 4:
        longest = max((axis for axis in range(3) if steps[axis] > 1), key=lambda axis: steps[axis] * spacing_mm[axis])
        steps[longest] -= 1
    if max(steps) == 1:
        steps[int(np.argmax(shape))] = 2
    i, j, k = (step * divisor for step in steps)
    return i, j, k


def choose_batch(patch: Voxels, most_voxels: int) -> int:
    """2 patches a step, as nnU-Net takes at least; 4 where so many fit."""
    return 4 if 4 * math.prod(patch) <= most_voxels else 2


def in_mm(sizes: Sequence[float] | NDArray[np.floating]) -> str:
    """Three sizes in words, as "2 x 2 x 5 mm"."""
    return " x ".join(f"{float(size):.3g}" for size in sizes) + " mm"
