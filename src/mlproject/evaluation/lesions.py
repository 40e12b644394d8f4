"""Lesion by lesion: which lesions of the reference are found, and which predicted ones are false alarms, by size."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats

SIZES_ML = (0.1, 1.0, 10.0)
"""Between the groups of single lesions by volume."""
REFERENCE, PREDICTION = "reference", "prediction"
COLUMNS = ["variant", "case", "side", "volume_ml", "touched", "overlap"]


def lesion_rows(
    reference: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8], voxel_ml: float
) -> list[dict[str, Any]]:
    """One row for each 26-connected component of either mask.

    Args:
        reference: (I, J, K) expert mask {0, 1}.
        prediction: (I, J, K) predicted mask {0, 1} on the same grid.
        voxel_ml: volume of a voxel.

    Returns:
        For each: side (reference or prediction), volume_ml, touched (it has a voxel in common with the other
        mask: a lesion of the reference is then found, and a predicted one is no false alarm), and overlap (the
        share of its voxels that the other mask has, too).
    """
    rows = []
    for box in ndimage.find_objects(((reference == 1) | (prediction == 1)).astype(np.uint8)):
        for side, mask, other in ((REFERENCE, reference, prediction), (PREDICTION, prediction, reference)):
            labels, count = ndimage.label(mask[box] == 1, np.ones((3, 3, 3)))
            voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            common = np.bincount(labels[other[box] == 1], minlength=count + 1)[1:]
            rows += [
                {"side": side, "volume_ml": size * voxel_ml, "touched": bool(shared), "overlap": shared / size}
                for size, shared in zip(voxels.tolist(), common.tolist(), strict=True)
            ]
    return rows


def size_names() -> list[str]:
    """The groups of lesions by size, smallest first."""
    between = [f"{low:g} to {high:g} ml" for low, high in pairwise(SIZES_ML)]
    return [f"below {SIZES_ML[0]:g} ml", *between, f"{SIZES_ML[-1]:g} ml or more"]


def by_size(lesions: pd.DataFrame, variants: Sequence[str], cases: int) -> pd.DataFrame:
    """How many lesions of each size are found, and how many false alarms of each size there are.

    Args:
        lesions: a row a component, with the columns COLUMNS.
        variants: in the order in which to list them.
        cases: number of cases, those without any component included.

    Returns:
        A row for each variant and size, with the columns variant, size, lesions (of the reference), found, share,
        low and high (95 % Wilson interval of the share, as if lesions were independent; NaN without lesions),
        false_alarms and false_alarms_per_case.
    """
    edges = [0.0, *SIZES_ML, math.inf]
    rows = []
    for variant in variants:
        own = lesions[lesions["variant"] == variant]
        for name, (smallest, largest) in zip(size_names(), pairwise(edges), strict=True):
            inside = own[(own["volume_ml"] >= smallest) & (own["volume_ml"] < largest)]
            found = inside.loc[inside["side"] == REFERENCE, "touched"].astype(bool)
            predicted = inside.loc[inside["side"] == PREDICTION, "touched"].astype(bool)
            share, low, high = _share(int(found.sum()), len(found))
            false_alarms = int((~predicted).sum())
            rows.append(
                {
                    "variant": variant,
                    "size": name,
                    "lesions": len(found),
                    "found": int(found.sum()),
                    "share": share,
                    "low": low,
                    "high": high,
                    "false_alarms": false_alarms,
                    "false_alarms_per_case": false_alarms / cases,
                }
            )
    return pd.DataFrame(rows)


def _share(found: int, of: int) -> tuple[float, float, float]:
    """A share with its 95 % Wilson interval (Wilson 1927); NaN of none."""
    if of == 0:
        return math.nan, math.nan, math.nan
    interval = stats.binomtest(found, of).proportion_ci(method="wilson")
    return found / of, float(interval.low), float(interval.high)
