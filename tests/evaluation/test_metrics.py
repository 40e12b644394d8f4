import math

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_distance import compute_average_surface_distance
from scipy import ndimage

from mlproject.evaluation.metrics import (
    ALL_CASES,
    LESION_CASES,
    METRICS,
    case_metrics,
    groups_to_show,
    summarise,
    summarise_by_size,
    summarise_groups,
)

NAN = float("nan")
SPACING = (1.0, 2.0, 5.0)  # a voxel of 0.01 ml


def volume(*voxels, shape=(8, 8, 8)):
    mask = np.zeros(shape, np.uint8)
    for voxel in voxels:
        mask[voxel] = 1
    return mask


def blobs(seed, shape=(14, 12, 9)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2) > 0.15


def monai_distances(reference, prediction, spacing):
    y, y_pred = (torch.from_numpy(mask)[None, None] for mask in (reference, prediction))
    settings = {"include_background": True, "spacing": spacing}
    return (
        compute_hausdorff_distance(y_pred, y, percentile=95, **settings).item(),
        compute_average_surface_distance(y_pred, y, symmetric=True, **settings).item(),
    )


# What each metric is with two voxels (0.02 ml, two lesions) on the side that is not empty:
# reference empty, prediction empty, both empty.
WHEN_EMPTY = {
    "dice": (0, 0, 1),
    "precision": (0, NAN, NAN),
    "sensitivity": (NAN, 0, NAN),
    "lesion_f1": (0, 0, 1),
    "volume_difference_ml": (0.02, 0.02, 0),
    "lesion_count_difference": (2, 2, 0),
    "hd95_mm": (NAN, NAN, NAN),
    "assd_mm": (NAN, NAN, NAN),
}
TEXTS = {
    "prediction's volume": 0.02,
    "reference's volume": 0.02,
    "prediction's count": 2,
    "reference's count": 2,
}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_table_of_empty_cases_is_what_is_computed(metric):
    nothing, something = volume(), volume((1, 1, 1), (5, 5, 5))
    computed = [
        case_metrics(reference, prediction, SPACING)[metric.name]
        for reference, prediction in ((nothing, something), (something, nothing), (nothing, nothing))
    ]
    stated = [TEXTS.get(v, v) for v in (metric.no_reference, metric.no_prediction, metric.neither)]
    assert computed == pytest.approx(WHEN_EMPTY[metric.name], nan_ok=True)
    assert stated == pytest.approx(WHEN_EMPTY[metric.name], nan_ok=True)


def test_overlap_and_volume_by_hand():
    reference = volume(np.s_[0:4, 0, 0])
    prediction = volume(np.s_[1:7, 0, 0])  # 3 of its 6 voxels are right, 3 of the lesion's 4 are found
    values = case_metrics(reference, prediction, SPACING)
    assert values["dice"] == pytest.approx(2 * 3 / (4 + 6))
    assert values["precision"] == pytest.approx(3 / 6)
    assert values["sensitivity"] == pytest.approx(3 / 4)
    assert values["reference_ml"] == pytest.approx(0.04)
    assert values["prediction_ml"] == pytest.approx(0.06)
    assert values["volume_difference_ml"] == pytest.approx(0.02)
    assert list(values) == [metric.name for metric in METRICS] + ["reference_ml", "prediction_ml"]


@pytest.mark.parametrize(
    ("reference", "prediction", "f1", "count_difference"),
    [
        # One voxel of four is enough; the second lesion is missed; the second prediction is false: 1/(1+1).
        (volume(np.s_[0:4, 0, 0], (7, 7, 7)), volume((0, 0, 0), (0, 7, 0)), 0.5, 0),
        # Voxels that share a corner alone are one lesion.
        (volume((0, 0, 0), (1, 1, 1)), volume((0, 0, 0)), 1.0, 0),
        # One prediction over two lesions finds both.
        (volume((0, 0, 0), (4, 0, 0)), volume(np.s_[0:5, 0, 0]), 1.0, 1),
        # Two pieces within one lesion find it once, and neither is false.
        (volume(np.s_[0:5, 0, 0]), volume((0, 0, 0), (4, 0, 0)), 1.0, 1),
        # Two false alarms, one lesion missed.
        (volume((0, 0, 0)), volume((4, 0, 0), (7, 7, 7)), 0.0, 1),
        # Two found, one missed, no false alarm: 2/(2+0.5).
        (volume((0, 0, 0), (3, 0, 0), (6, 0, 0)), volume((0, 0, 0), (3, 0, 0)), 0.8, 1),
    ],
)
def test_lesion_f1_and_count_by_hand(reference, prediction, f1, count_difference):
    values = case_metrics(reference, prediction, SPACING)
    assert values["lesion_f1"] == pytest.approx(f1)
    assert values["lesion_count_difference"] == count_difference


@pytest.mark.parametrize(
    ("voxel", "distance_mm"),
    [((3, 0, 0), 3), ((0, 3, 0), 6), ((0, 0, 3), 15), ((3, 2, 0), 5), ((7, 7, 7), math.sqrt(49 * 30))],
)
def test_surface_distance_between_two_voxels_at_the_border_is_in_mm(voxel, distance_mm):
    values = case_metrics(volume((0, 0, 0)), volume(voxel), SPACING)
    assert values["hd95_mm"] == pytest.approx(distance_mm)
    assert values["assd_mm"] == pytest.approx(distance_mm)


def test_surface_distances_of_slabs_that_touch_the_border():
    # Slabs of 4 and 5 layers, 6 x 6 each, that fill the volume's cross-section; a layer is 3 mm thick.
    # Surface voxels: 4*36 - 2*16 = 112 and 5*36 - 3*16 = 132. From the reference: the inner 4 x 4 of its last
    # layer lie 1 mm (12 voxels) and 2 mm (4) from the prediction's side, 20 mm together. From the
    # prediction: its last layer, 36 voxels (over a quarter), 3 mm each.
    reference, prediction = volume(shape=(6, 6, 6)), volume(shape=(6, 6, 6))
    reference[:4], prediction[:5] = 1, 1
    values = case_metrics(reference, prediction, (3.0, 1.0, 1.0))
    assert values["hd95_mm"] == pytest.approx(3.0)
    assert values["assd_mm"] == pytest.approx((20 + 36 * 3) / (112 + 132))


def test_hd95_is_the_larger_of_the_two_directions():
    # 21 voxels in a row, and the same without the last 5: seen from the longer one, distances 1 to 5.
    reference, prediction = volume(shape=(21, 3, 3)), volume(shape=(21, 3, 3))
    reference[:, 1, 1], prediction[:16, 1, 1] = 1, 1
    expected = np.percentile([0] * 16 + [1, 2, 3, 4, 5], 95)
    assert case_metrics(reference, prediction, (1, 1, 1))["hd95_mm"] == pytest.approx(expected)
    assert case_metrics(prediction, reference, (1, 1, 1))["hd95_mm"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_surface_distances_are_monai_s(seed):
    reference, prediction, spacing = blobs(seed), blobs(seed + 100), (0.5, 2.0, 6.0)
    values = case_metrics(reference, prediction, spacing)
    expected = monai_distances(reference, prediction, spacing)
    assert (values["hd95_mm"], values["assd_mm"]) == pytest.approx(expected, rel=1e-5)


def test_perfect_prediction_and_swapped_sides():
    a, b = blobs(0), blobs(1)
    perfect = case_metrics(a, a, SPACING)
    for metric in METRICS:
        assert perfect[metric.name] == (1 if metric.better == "higher" else 0)
    forth, back = case_metrics(a, b, SPACING), case_metrics(b, a, SPACING)
    for name in ("dice", "volume_difference_ml", "lesion_count_difference", "hd95_mm", "assd_mm"):
        assert forth[name] == pytest.approx(back[name])
    assert forth["precision"] == back["sensitivity"]


def test_more_background_changes_nothing():
    a, b = blobs(0), blobs(1)
    assert case_metrics(np.pad(a, 4), np.pad(b, 4), SPACING) == pytest.approx(case_metrics(a, b, SPACING))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_the_type_of_the_arrays_does_not_matter(dtype):
    a, b = blobs(0), blobs(1)
    values = case_metrics(a.astype(dtype), b.astype(dtype), tuple(np.array(SPACING, np.float32)))
    assert values == pytest.approx(case_metrics(a, b, SPACING))


@pytest.mark.parametrize(
    ("reference", "prediction", "message"),
    [
        (volume(shape=(4, 4, 4)), volume(shape=(4, 4, 5)), r"\(4, 4, 4\) and prediction \(4, 4, 5\)"),
        (np.zeros((4, 4)), np.zeros((4, 4)), "must be"),
        (volume() + 2, volume(), "reference must hold 0 and 1 alone"),
        (volume(), np.full((8, 8, 8), 0.5), "prediction must hold 0 and 1 alone"),
        (volume(), np.full((8, 8, 8), NAN), "prediction must hold 0 and 1 alone"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(reference, prediction, message):
    with pytest.raises(ValueError, match=message):
        case_metrics(reference, prediction, SPACING)


def per_case_table(**columns):
    cases = len(next(iter(columns.values())))
    default = {metric.name: [0.5] * cases for metric in METRICS} | {"reference_ml": [1.0] * cases}
    return pd.DataFrame({"case": [f"case{i}" for i in range(cases)]} | default | columns)


def test_summary_counts_undefined_cases_and_leaves_them_out_of_the_rest():
    summary = summarise(per_case_table(dice=[0.2, 0.4, 0.9, 0.5], hd95_mm=[NAN, 3.0, 6.0, NAN]))
    assert list(summary.index) == [metric.name for metric in METRICS]
    assert list(summary.columns) == ["mean", "median", "low", "high", "cases", "undefined"]
    dice, hd95 = summary.loc["dice"], summary.loc["hd95_mm"]
    assert (dice["mean"], dice["median"], dice["cases"], dice["undefined"]) == pytest.approx((0.5, 0.45, 4, 0))
    assert 0.2 <= dice["low"] < 0.5 < dice["high"] <= 0.9
    assert (hd95["mean"], hd95["median"], hd95["cases"], hd95["undefined"]) == pytest.approx((4.5, 4.5, 2, 2))


def test_summary_of_nothing_is_undefined():
    summary = summarise(per_case_table(dice=[NAN, NAN]))
    assert summary.loc["dice", ["mean", "median", "low", "high"]].isna().all()
    assert summary.loc["dice", "cases"] == 0
    assert summary.loc["dice", "undefined"] == 2
    assert (summarise(per_case_table(dice=[])).loc[:, "cases"] == 0).all()


def test_lesion_free_cases_stand_in_one_group_only():
    table = per_case_table(dice=[0.0, 0.6, 0.8], reference_ml=[0.0, 1.0, 2.0])
    groups = summarise_groups({"network": table})
    assert groups[ALL_CASES]["network"].loc["dice", "cases"] == 3
    assert groups[LESION_CASES]["network"].loc["dice", "cases"] == 2
    assert groups[LESION_CASES]["network"].loc["dice", "mean"] == pytest.approx(0.7)


@pytest.mark.parametrize(("reference_ml", "groups"), [([0.0, 2.0], 2), ([1.0, 2.0], 1), ([0.0, 0.0], 1)])
def test_a_group_that_says_what_another_says_is_not_shown(reference_ml, groups):
    table = per_case_table(reference_ml=reference_ml)
    assert list(groups_to_show(summarise_groups({"network": table}))) == [ALL_CASES, LESION_CASES][:groups]


def test_cases_are_grouped_by_their_lesion_load():
    loads = [0.0, 0.2, 0.99, 1.0, 9.9, 50.0, 300.0]
    table = pd.DataFrame([{m.name: load for m in METRICS} | {"reference_ml": load} for load in loads])
    groups = summarise_by_size(table)
    assert {name: group["cases"]["dice"] for name, group in groups.items()} == {
        "no lesion": 1,
        "below 1 ml": 2,
        "1 to 10 ml": 2,
        "50 ml or more": 2,
    }
    assert groups["1 to 10 ml"]["mean"]["dice"] == pytest.approx(5.45)
