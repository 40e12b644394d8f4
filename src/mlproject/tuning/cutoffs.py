"""Dice of every pair of threshold and smallest lesion at once, and the choice among them."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.prediction.postprocessing import NEIGHBOURS_26, min_voxels
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS


def dice_grid(probability: NDArray[np.float32], reference: NDArray[np.uint8], voxel_ml: float) -> NDArray[np.float64]:
    """Dice (1 where both are empty) of to_mask's result for THRESHOLDS (rows) and MIN_LESION_ML (columns).

    The components of a threshold are labelled once; their sizes and their overlaps with the reference give
    the Dice of every column without making its mask.

    Args:
        probability: (I, J, K), in [0, 1].
        reference: (I, J, K), expert mask {0, 1}.
        voxel_ml: Volume of a voxel.
    """
    limits = [min_voxels(volume_ml, voxel_ml) for volume_ml in MIN_LESION_ML]
    lesion = reference == 1
    lesion_voxels = int(lesion.sum())
    grid = np.full((len(THRESHOLDS), len(MIN_LESION_ML)), 0.0 if lesion_voxels else 1.0)
    for row, threshold in enumerate(THRESHOLDS):
        mask = probability >= threshold
        boxes = ndimage.find_objects(mask.astype(np.uint8))
        if not boxes:
            break  # higher thresholds find nothing either
        mask, probability, lesion = mask[boxes[0]], probability[boxes[0]], lesion[boxes[0]]
        components, count = ndimage.label(mask, NEIGHBOURS_26)
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        overlaps = np.bincount(components[lesion], minlength=count + 1)[1:]
        for column, limit in enumerate(limits):
            kept = sizes >= limit
            if kept.any():
                grid[row, column] = 2 * overlaps[kept].sum() / (sizes[kept].sum() + lesion_voxels)
    return grid


def best_cutoffs(mean_dice: NDArray[np.float64]) -> tuple[int, int]:
    """Row and column of the highest mean Dice.

    Among equals it is the threshold nearest to 0.5, then the smallest volume, then the lower threshold: a few
    validation cases say nothing about the difference, and extremes generalise worst.
    """
    rows, columns = np.nonzero(mean_dice >= mean_dice.max() - 1e-9)
    return min(
        ((int(row), int(column)) for row, column in zip(rows, columns, strict=True)),
        key=lambda pair: (round(abs(THRESHOLDS[pair[0]] - 0.5), 6), MIN_LESION_ML[pair[1]], pair[0]),
    )
