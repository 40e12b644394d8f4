import json

import numpy as np
import pytest

from mlproject.data.preprocessing import Geometry, PreparedCase, to_native
from mlproject.errors import ModelError, SettingsError
from mlproject.prediction.crf import CrfSettings, refine
from mlproject.prediction.postprocessing import Postprocessing, apply, to_mask


def affine(spacing_mm):
    return tuple(map(tuple, np.diag([spacing_mm] * 3 + [1.0]).tolist()))


def prepared_case(native_shape, shape, native_spacing_mm=2.0):
    """A case whose prepared grid has 2 mm and begins in the same corner as its native one."""
    return PreparedCase(
        name="case",
        image=np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32),
        brain=np.ones(shape, bool),
        label=None,
        native_label=None,
        geometry=Geometry(native_shape, affine(native_spacing_mm), shape, affine(2.0)),
        channel_digests={},
    )


def blobs():
    """Lesions of 27, 3 (joined by corners only) and 1 voxels, all at 0.6, and one voxel at 0.4."""
    probability = np.zeros((16, 12, 10), np.float32)
    probability[1:4, 1:4, 1:4] = 0.6
    probability[8, 8, 2] = probability[9, 9, 3] = probability[10, 10, 4] = 0.6
    probability[14, 2, 8] = 0.6
    probability[14, 10, 8] = 0.4
    return probability


@pytest.mark.parametrize(
    ("threshold", "min_lesion_ml", "voxels"),
    [
        (0.5, 0.0, 31),
        (0.3, 0.0, 32),
        (0.6, 0.0, 31),  # p >= threshold, in single precision
        (0.61, 0.0, 0),
        (0.5, 0.008, 31),  # exactly one voxel of 0.008 ml
        (0.5, 0.009, 30),
        (0.5, 0.024, 30),  # exactly three
        (0.5, 0.025, 27),
        (0.5, 0.216, 27),
        (0.5, 0.217, 0),
    ],
)
def test_the_mask_keeps_what_reaches_the_threshold_and_the_smallest_lesion(threshold, min_lesion_ml, voxels):
    mask = to_mask(blobs(), threshold, min_lesion_ml, voxel_ml=0.008)
    assert mask.sum() == voxels
    assert mask.dtype == np.uint8
    assert not (mask.astype(bool) & (blobs() < np.float32(threshold))).any()


def test_a_lesion_of_exactly_the_smallest_volume_stays():
    probability = np.zeros((9, 3, 3), np.float32)
    probability[:7, 1, 1] = 1
    assert to_mask(probability, 0.5, 0.035, voxel_ml=0.005).sum() == 7  # 0.035 / 0.005 > 7 in floating point


def test_without_a_crf_the_probability_goes_back_to_the_native_grid_as_it_is():
    case = prepared_case((16, 16, 16), (16, 12, 10))
    mask, probability = apply(blobs(), case, Postprocessing(min_lesion_ml=0.02))
    expected = np.zeros((16, 16, 16), np.float32)
    expected[:16, :12, :10] = blobs()
    np.testing.assert_array_equal(probability, expected)
    np.testing.assert_array_equal(mask, to_mask(expected, 0.5, 0.02, voxel_ml=0.008))
    assert mask.sum() == 30


@pytest.mark.parametrize(("min_lesion_ml", "lesions_left"), [(0.05, True), (0.1, False)])
def test_the_crf_works_on_the_prepared_and_the_smallest_lesion_on_the_native_grid(min_lesion_ml, lesions_left):
    case = prepared_case((32, 24, 20), (16, 12, 10), native_spacing_mm=1.0)
    crf = CrfSettings(weight_gaussian=0.5, weight_bilateral=0.5)
    mask, probability = apply(blobs(), case, Postprocessing(0.4, min_lesion_ml, crf))
    refined = refine(blobs(), case.image, case.brain, (2.0, 2.0, 2.0), crf)
    np.testing.assert_array_equal(probability, to_native(refined, case.geometry))
    np.testing.assert_array_equal(mask, to_mask(probability, 0.4, min_lesion_ml, voxel_ml=0.001))
    assert mask.shape == (32, 24, 20)
    assert mask.any() == lesions_left
    assert not np.array_equal(probability, to_native(blobs(), case.geometry))


@pytest.mark.parametrize("crf", [None, CrfSettings(theta_beta=0.3, iterations=7, region="brain")])
def test_it_survives_json(crf):
    postprocessing = Postprocessing(0.35, 0.1, crf)
    assert Postprocessing.from_dict(json.loads(json.dumps(postprocessing.to_dict()))) == postprocessing


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda stored: stored.update(smooth=1), "smooth"),
        (lambda stored: stored.pop("min_lesion_ml"), "min_lesion_ml"),
        (lambda stored: stored["crf"].update(theta=1), "theta"),
        (lambda stored: stored["crf"].pop("region"), "region"),
        (lambda stored: stored.update(crf=5), "CrfSettings"),
        (lambda stored: stored.update(threshold="0.5"), "threshold.*float"),
        (lambda stored: stored.update(threshold=True), "threshold.*float"),
        (lambda stored: stored.update(threshold=None), "threshold.*float"),
        (lambda stored: stored.update(threshold=1.5), "threshold is 1.5"),
        (lambda stored: stored["crf"].update(iterations=2.5), "iterations.*int"),
        (lambda stored: stored["crf"].update(theta_beta=0), "theta_beta"),
    ],
)
def test_a_stored_postprocessing_of_another_version_or_damaged_is_refused(change, text):
    stored = Postprocessing(crf=CrfSettings()).to_dict()
    change(stored)
    with pytest.raises(ModelError, match=text):
        Postprocessing.from_dict(stored)


@pytest.mark.parametrize(
    "changes", [{"threshold": 0.0}, {"threshold": 1.0}, {"threshold": float("nan")}, {"min_lesion_ml": -0.1}]
)
def test_settings_out_of_range_are_refused_by_name(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        Postprocessing(**changes)
