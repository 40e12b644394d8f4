"""What a predicted mask is worth: overlap, lesions found, volume and surface distances, case by case.

The definitions are those of ISLES 2022 (https://github.com/ezequieldlrosa/isles22, utils/eval_utils.py)
for Dice, lesion-wise F1, volume difference and lesion count difference. The surface distances are MONAI's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage
from scipy.spatial import KDTree

from mlproject.evaluation.statistics import bootstrap_interval

UNDEFINED = float("nan")
ALL_CASES = "all cases"
LESION_CASES = "cases with a lesion"
SIZE_LIMITS_ML = (1.0, 10.0, 50.0)
"""Between small, medium, large and very large lesion loads of a case."""


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: column of the per-case table.
        title: what people call it.
        unit: "" for a ratio between 0 and 1.
        better: which way is better.
        no_reference: the value where the reference alone is empty (NaN: undefined); text where the
            definition needs no special case.
        no_prediction: the same where the prediction alone is empty.
        neither: the same where both are empty.
        description: the definition.
    """

    name: str
    title: str
    unit: Literal["", "ml", "mm", "lesions"]
    better: Literal["higher", "lower"]
    no_reference: float | str
    no_prediction: float | str
    neither: float | str
    description: str


# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("dice", "Dice", "", "higher", 0.0, 0.0, 1.0,
           "2·|R∩P| / (|R|+|P|) over the voxels of reference R and prediction P"),
    Metric("precision", "Precision", "", "higher", 0.0, UNDEFINED, UNDEFINED,
           "|R∩P| / |P|: the share of the prediction that is lesion"),
    Metric("sensitivity", "Sensitivity", "", "higher", UNDEFINED, 0.0, UNDEFINED,
           "|R∩P| / |R|: the share of the lesion that is predicted"),
    Metric("lesion_f1", "Lesion-wise F1", "", "higher", 0.0, 0.0, 1.0,
           "TP / (TP + (FP+FN)/2) over 26-connected components: one common voxel finds a lesion of the "
           "reference (TP, else FN); a predicted component that touches none is a false alarm (FP)"),
    Metric("volume_difference_ml", "Volume difference", "ml", "lower",
           "prediction's volume", "reference's volume", 0.0,
           "absolute difference of the total volumes"),
    Metric("lesion_count_difference", "Count difference", "lesions", "lower",
           "prediction's count", "reference's count", 0.0,
           "absolute difference of the numbers of 26-connected components"),
    Metric("hd95_mm", "HD95", "mm", "lower", UNDEFINED, UNDEFINED, UNDEFINED,
           "Hausdorff distance, 95 %: the larger of the two 95th percentiles of the distances from one "
           "surface to the other (surface: voxels with a face to the outside)"),
    Metric("assd_mm", "ASSD", "mm", "lower", UNDEFINED, UNDEFINED, UNDEFINED,
           "average symmetric surface distance: mean distance to the other surface over the surface voxels "
           "of both"),
)
# fmt: on

Mask = npt.NDArray[np.bool_]


def case_metrics(
    reference: npt.NDArray[Any], prediction: npt.NDArray[Any], spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """All of METRICS for one case, and the volumes `reference_ml` and `prediction_ml`; NaN = undefined.

    Args:
        reference: (I, J, K) expert mask, bool or {0, 1}.
        prediction: (I, J, K) predicted mask on the same grid.
        spacing_mm: voxel size along I, J and K.

    Raises:
        ValueError: the arrays are not 3-D, differ in shape, or hold something other than 0 and 1.
    """
    if reference.ndim != 3 or reference.shape != prediction.shape:
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} must be (I, J, K) on one grid")
    r, p = _as_mask(reference, "reference"), _as_mask(prediction, "prediction")
    for box in ndimage.find_objects((r | p).astype(np.uint8)):  # one, or none where both are empty
        r, p = r[box], p[box]  # what follows then costs milliseconds
    reference_lesions, reference_count = ndimage.label(r, np.ones((3, 3, 3)))
    predicted_lesions, predicted_count = ndimage.label(p, np.ones((3, 3, 3)))
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    reference_ml, prediction_ml = float(r.sum()) * voxel_ml, float(p.sum()) * voxel_ml
    values = {
        "volume_difference_ml": abs(reference_ml - prediction_ml),
        "lesion_count_difference": float(abs(reference_count - predicted_count)),
    }
    if reference_count and predicted_count:
        common = r & p
        values["dice"] = float(2 * common.sum() / (r.sum() + p.sum()))
        values["precision"] = float(common.sum() / p.sum())
        values["sensitivity"] = float(common.sum() / r.sum())
        found = len(np.unique(reference_lesions[common]))
        missed = reference_count - found
        false_alarms = predicted_count - len(np.unique(predicted_lesions[common]))
        values["lesion_f1"] = found / (found + (false_alarms + missed) / 2)
        values["hd95_mm"], values["assd_mm"] = _surface_distances_mm(r, p, spacing_mm)
    else:
        for metric in METRICS:
            value = _when_empty(metric, bool(reference_count), bool(predicted_count))
            if isinstance(value, float):
                values[metric.name] = value
    ordered = {metric.name: values[metric.name] for metric in METRICS}
    return ordered | {"reference_ml": reference_ml, "prediction_ml": prediction_ml}


def _as_mask(array: npt.NDArray[Any], what: str) -> Mask:
    mask: Mask = array == 1
    if not (mask | (array == 0)).all():
        raise ValueError(f"{what} must hold 0 and 1 alone, got values between {array.min()} and {array.max()}")
    return mask


def _when_empty(metric: Metric, has_reference: bool, has_prediction: bool) -> float | str:
    if has_reference:
        return metric.no_prediction
    return metric.no_reference if has_prediction else metric.neither


def _surface_distances_mm(
    reference: Mask, prediction: Mask, spacing_mm: tuple[float, float, float]
) -> tuple[float, float]:
    """HD95 and ASSD in mm of two masks with at least one voxel each.

    MONAI's definition and its results (a test compares), but MONAI takes ten times as long on small boxes.
    A voxel at the array's border lies on the surface.
    """
    a, b = (np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing_mm for mask in (reference, prediction))
    a_to_b, b_to_a = KDTree(b).query(a)[0], KDTree(a).query(b)[0]
    hd95 = max(np.percentile(a_to_b, 95), np.percentile(b_to_a, 95))
    return float(hd95), float(np.concatenate([a_to_b, b_to_a]).mean())


def summarise(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Summarise a per-case table (one row a case, a column for each of METRICS).

    Returns:
        One row a metric, with the columns mean, median, low and high (95 % bootstrap interval of the mean
        over the cases), cases (those with a value, which the others are about) and undefined (those without).
    """
    rows = {}
    for metric in METRICS:
        values = table[metric.name].dropna().to_numpy(dtype=np.float64)
        low, high = bootstrap_interval(values, seed)
        rows[metric.name] = {
            "mean": values.mean() if len(values) else UNDEFINED,
            "median": np.median(values) if len(values) else UNDEFINED,
            "low": low,
            "high": high,
            "cases": len(values),
            "undefined": len(table) - len(values),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index").astype({"cases": int, "undefined": int})
    return summary.rename_axis("metric")


def summarise_groups(tables: Mapping[str, pd.DataFrame], seed: int = 0) -> dict[str, dict[str, pd.DataFrame]]:
    """Summaries of every variant's per-case table, over ALL_CASES and over LESION_CASES alone.

    Dice is 0 or 1 where the reference is empty, so a few lesion-free cases move the first mean much.

    Returns:
        Group of cases → variant → what `summarise` returns.
    """
    return {
        ALL_CASES: {variant: summarise(table, seed) for variant, table in tables.items()},
        LESION_CASES: {variant: summarise(table[table["reference_ml"] > 0], seed) for variant, table in tables.items()},
    }


def groups_to_show(summaries: Mapping[str, Mapping[str, pd.DataFrame]]) -> Mapping[str, Mapping[str, pd.DataFrame]]:
    """What `summarise_groups` returns, without LESION_CASES where these are all cases or none: it would say no more."""
    all_cases, with_lesion = (
        next(iter(summaries[group].values())).loc["dice", ["cases", "undefined"]].sum()
        for group in (ALL_CASES, LESION_CASES)
    )
    return summaries if 0 < with_lesion < all_cases else {ALL_CASES: summaries[ALL_CASES]}


def summarise_by_size(table: pd.DataFrame, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Summaries of a per-case table by the case's lesion load (`reference_ml`), cut at SIZE_LIMITS_ML.

    Returns:
        Name of the group, smallest load first ("no lesion", "below 1 ml", "1 to 10 ml" ...) → what `summarise`
        returns; groups without a case are left out.
    """
    groups = load_groups(table["reference_ml"].to_numpy(dtype=np.float64))
    return {name: summarise(table[inside], seed) for name, inside in groups.items() if inside.any()}


def load_groups(load_ml: npt.NDArray[np.float64]) -> dict[str, Mask]:
    """Which cases have a lesion load in each group, smallest first; groups may be empty."""
    edges = [0.0, *SIZE_LIMITS_ML, math.inf]
    names = [
        f"below {edges[1]:g} ml",
        *(f"{a:g} to {b:g} ml" for a, b in pairwise(edges[1:-1])),
        f"{edges[-2]:g} ml or more",
    ]
    groups = {"no lesion": load_ml == 0}
    for name, (low, high) in zip(names, pairwise(edges), strict=True):
        groups[name] = (load_ml > 0) & (load_ml >= low) & (load_ml < high)
    return groups
