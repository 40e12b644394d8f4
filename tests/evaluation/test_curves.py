import math

import numpy as np
import pytest

from mlproject.evaluation.curves import (
    BINS,
    count_probabilities,
    dice_at_thresholds,
    expected_calibration_error,
    reliability,
    threshold_curve,
)
from mlproject.evaluation.metrics import case_metrics


def counts_of(probability, label, brain=None):
    """Counts of a row of voxels."""
    shape = (len(probability), 1, 1)
    p = np.array(probability, np.float32).reshape(shape)
    reference = np.array(label, np.uint8).reshape(shape)
    inside = np.ones(shape, bool) if brain is None else np.array(brain, bool).reshape(shape)
    return count_probabilities(p, reference, inside)


def random_case(seed, lesion=True):
    generator = np.random.default_rng(seed)
    probability = generator.random((6, 7, 8), dtype=np.float32) ** 3
    reference = (generator.random((6, 7, 8)) < probability).astype(np.uint8) * lesion
    return probability, reference


def test_each_voxel_is_counted_in_its_bin_by_label():
    counts = counts_of([0.0, 0.004, 0.01, 0.255, 0.99, 1.0], [0, 1, 0, 1, 0, 1])
    expected = {0: (1, 1), 1: (1, 0), 25: (0, 1), 99: (1, 1)}
    for b in range(BINS):
        assert (counts.healthy[b], counts.lesion[b]) == expected.get(b, (0, 0))
    assert counts.probability_sum[[0, 1, 25, 99]] == pytest.approx([0.004, 0.01, 0.255, 1.99])


def test_voxels_outside_the_brain_count_only_where_there_is_something():
    counts = counts_of([0.0, 0.0, 0.3, 0.0], [0, 1, 0, 0], brain=[0, 0, 0, 1])
    assert counts.healthy.sum() == 2  # the brain's own, and the one of probability 0.3
    assert counts.lesion.sum() == 1


def test_dice_at_a_threshold_is_that_of_the_mask():
    cases = [random_case(1), random_case(2), random_case(3, lesion=False)]
    thresholds, dice = dice_at_thresholds([count_probabilities(p, r, np.ones_like(r, bool)) for p, r in cases])
    assert thresholds[[0, -1]].tolist() == [0.01, 0.99]
    for row, (probability, reference) in zip(dice, cases, strict=True):
        for at in (0, 28, 49, 98):
            mask = (probability >= float(thresholds[at])).astype(np.uint8)
            assert row[at] == pytest.approx(case_metrics(reference, mask, (1, 1, 1))["dice"])


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_probability_of_the_threshold_itself_is_lesion(percent):
    # As a mask is cut: float32 values, compared with a float.
    thresholds, dice = dice_at_thresholds([counts_of([percent / 100, 0], [1, 0])])
    assert dice[0, :percent].tolist() == [1.0] * percent
    assert not dice[0, percent:].any()
    assert thresholds[percent - 1] == percent / 100


def test_threshold_curve_is_the_mean_over_cases_within_its_interval():
    half, none = counts_of([0.9, 0.4, 0.4, 0.0], [1, 1, 0, 0]), counts_of([0.2, 0.0], [0, 0])
    curve = threshold_curve([half, none]).set_index("threshold")
    assert curve.loc[0.1, "dice"] == pytest.approx((0.8 + 0.0) / 2)  # a false alarm in the case without a lesion
    assert curve.loc[0.5, "dice"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert curve.loc[0.5, ["low", "high"]].tolist() == pytest.approx([2 / 3, 1.0])
    assert threshold_curve([half])["low"].isna().all()


def test_reliability_by_hand():
    # Tenth 2: four voxels of 0.25, one is lesion. Tenth 8: two of 0.85, both are.
    counts = counts_of([0.25] * 4 + [0.85] * 2, [1, 0, 0, 0, 1, 1])
    curve = reliability([counts])
    assert curve["voxels"].tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 2, 0]
    assert curve.loc[2, ["mean_probability", "lesion_share"]].tolist() == pytest.approx([0.25, 0.25])
    assert curve.loc[8, ["mean_probability", "lesion_share"]].tolist() == pytest.approx([0.85, 1.0])
    assert curve.loc[[0, 9], "lesion_share"].isna().all()
    assert expected_calibration_error([counts]) == pytest.approx(2 * 0.15 / 6)


def test_calibration_pools_the_voxels_of_all_cases():
    a, b = counts_of([0.25] * 3, [1, 0, 0]), counts_of([0.25, 0.85, 0.85], [0, 1, 1])
    assert expected_calibration_error([a, b]) == pytest.approx(2 * 0.15 / 6)
    assert reliability([a, b]).loc[2, "lesion_share"] == pytest.approx(1 / 4)


def test_calibration_has_an_interval_where_at_least_five_cases_have_voxels():
    # Four cases with 3 voxels of 0.25, one of them lesion; one with a healthy one; one of these with the only 0.85.
    third = counts_of([0.25] * 3, [1, 0, 0])
    alone = counts_of([0.25] * 3 + [0.85] * 5, [1, 0, 0, 1, 1, 1, 0, 0])
    curve = reliability([alone, third, third, third, counts_of([0.25], [0])])
    assert curve.loc[2, "low"] == pytest.approx(0.25, abs=0.05)  # the healthy one drawn often
    assert curve.loc[2, "high"] == pytest.approx(1 / 3)  # never drawn
    assert curve.loc[8, "lesion_share"] == pytest.approx(0.6)
    assert curve.loc[8, ["low", "high"]].isna().all()
    assert reliability([third] * 4)[["low", "high"]].isna().all(axis=None)


def test_calibration_error_of_the_suspicious_voxels_alone():
    counts = counts_of([0.0] * 1000 + [0.5, 0.5], [0] * 1000 + [1, 1])
    assert expected_calibration_error([counts]) == pytest.approx(1 / 1002)
    assert expected_calibration_error([counts], at_least=0.01) == pytest.approx(0.5)
    assert math.isnan(expected_calibration_error([counts_of([0.0], [0])], at_least=0.01))


def test_true_probabilities_are_calibrated():
    generator = np.random.default_rng(0)
    p = generator.random(200_000, dtype=np.float32)
    counts = counts_of(p, generator.random(p.size) < p)
    assert expected_calibration_error([counts]) < 0.01
    assert expected_calibration_error([counts_of(p, generator.random(p.size) < p / 2)]) == pytest.approx(0.25, abs=0.01)
