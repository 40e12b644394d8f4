import dataclasses

import numpy as np
import pytest

from mlproject.errors import DataError, SettingsError
from mlproject.prediction.crf import CrfSettings, refine

SHAPE = (6, 7, 5)
SPACING_MM = (2.0, 1.5, 3.0)
GAUSSIAN_ONLY = CrfSettings(weight_gaussian=3, weight_bilateral=0, region="brain")


def tiny_case(seed=0, shape=SHAPE):
    """A soft lesion in the middle, bright in one noisy channel, dark in the other; a brain with a border."""
    random = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[1:, 1:, 1:] = True
    lesion = np.zeros(shape, bool)
    lesion[2:5, 2:5, 2:4] = True
    image = random.normal(0, 0.4, (2, *shape)) + np.where(lesion, 1.0, 0.0) * np.array([1, -1]).reshape(2, 1, 1, 1)
    probability = np.clip(np.where(lesion, 0.65, 0.25) + random.normal(0, 0.15, shape), 0.02, 0.98)
    return probability.astype(np.float32), image.astype(np.float32), brain


def brute_force(probability, image, brain, spacing_mm, settings):
    """The same mean field with every pair of voxels and exact Gaussians."""
    position = np.argwhere(brain) * spacing_mm
    z_score = image[:, brain].T
    kernel = 0.0
    for weight, features in (
        (settings.weight_gaussian, position / settings.theta_gamma_mm),
        (
            settings.weight_bilateral,
            np.hstack([position / settings.theta_alpha_mm, z_score / settings.theta_beta]),
        ),
    ):
        pairs = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        norm = 1 / np.sqrt(pairs.sum(1))
        kernel = kernel + weight * norm[:, None] * pairs * norm[None]
    p = probability[brain].astype(np.float64)
    logit, q = np.log(p / (1 - p)), p
    for _ in range(settings.iterations):
        q = 1 / (1 + np.exp(-(logit + kernel @ (2 * q - 1))))
    refined = probability.astype(np.float64)
    refined[brain] = q
    return refined


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_bilateral": 0.0, "weight_gaussian": 1.0, "theta_gamma_mm": 3.0},
        {"weight_gaussian": 0.0, "weight_bilateral": 1.0, "theta_alpha_mm": 6.0, "theta_beta": 1.0, "iterations": 1},
        {"weight_gaussian": 0.5, "weight_bilateral": 1.0, "theta_alpha_mm": 5.0, "theta_beta": 0.8},
    ],
)
def test_it_is_the_dense_crf_of_all_pairs_within_the_error_of_the_lattice(changes):
    settings = dataclasses.replace(CrfSettings(region="brain"), **changes)
    case = tiny_case()
    refined = refine(*case, SPACING_MM, settings)
    exact = brute_force(*case, SPACING_MM, settings)
    moved = np.abs(exact - case[0])[case[2]].mean()
    error = np.abs(refined - exact)[case[2]]
    assert error.mean() < 0.1 * moved
    assert error.max() < 0.06


@pytest.mark.parametrize("changes", [{"weight_gaussian": 0.0, "weight_bilateral": 0.0}, {"iterations": 0}])
def test_without_weights_or_iterations_nothing_changes(changes):
    probability, image, brain = tiny_case()
    refined = refine(probability, image, brain, SPACING_MM, dataclasses.replace(CrfSettings(), **changes))
    np.testing.assert_array_equal(refined, probability)
    assert refined is not probability


def test_vanishing_weights_give_back_the_probability():
    probability, image, brain = tiny_case()
    probability[2, 2, 2], probability[3, 3, 3] = 0, 1
    settings = CrfSettings(weight_gaussian=1e-7, weight_bilateral=1e-7)
    np.testing.assert_allclose(refine(probability, image, brain, SPACING_MM, settings), probability, atol=2e-6)


def test_the_gaussian_term_removes_a_speckle_and_fills_a_hole():
    probability = np.full((16, 16, 16), 0.1, np.float32)
    probability[9:14, 9:14, 9:14] = 0.9
    probability[11, 11, 11] = 0.4
    probability[3, 3, 3] = 0.6
    brain = np.ones(probability.shape, bool)
    refined = refine(probability, np.zeros((1, *brain.shape), np.float32), brain, (2.0, 2.0, 2.0), GAUSSIAN_ONLY)
    assert refined[11, 11, 11] > 0.5
    assert refined[3, 3, 3] < 0.5


def test_the_bilateral_term_follows_the_edge_in_the_image():
    image = np.zeros((1, 16, 8, 8), np.float32)
    image[:, 8:] = 2
    probability = np.full(image.shape[1:], 0.1, np.float32)
    probability[10:] = 0.9
    probability[8:10] = 0.45
    settings = CrfSettings(weight_gaussian=0, theta_alpha_mm=6, theta_beta=0.3)
    refined = refine(probability, image, np.ones(probability.shape, bool), (1.0, 1.0, 1.0), settings)
    np.testing.assert_array_equal(refined > 0.5, image[0] > 1)


def test_distances_are_in_mm():
    case = tiny_case()
    settings = CrfSettings(theta_gamma_mm=2, theta_alpha_mm=6)
    doubled = dataclasses.replace(settings, theta_gamma_mm=4, theta_alpha_mm=12)
    twice_mm = (2 * SPACING_MM[0], 2 * SPACING_MM[1], 2 * SPACING_MM[2])
    brain_only = {"region": "brain"}
    np.testing.assert_allclose(
        refine(*case, SPACING_MM, dataclasses.replace(settings, **brain_only)),
        refine(*case, twice_mm, dataclasses.replace(doubled, **brain_only)),
        atol=1e-6,
    )


@pytest.mark.parametrize("region", ["brain", "uncertain"])
def test_only_the_brain_is_touched_and_the_input_never(region):
    probability, image, brain = tiny_case()
    before = probability.copy()
    refined = refine(probability, image, brain, SPACING_MM, CrfSettings(region=region))
    np.testing.assert_array_equal(refined[~brain], probability[~brain])
    assert (refined[brain] != probability[brain]).mean() > 0.9
    np.testing.assert_array_equal(probability, before)
    assert refined.dtype == np.float32


def test_the_uncertain_region_ends_10_mm_from_the_last_probability_above_one_percent():
    probability = np.full((30, 12, 8), 0.005, np.float32)
    probability[4, 4, 4] = 0.9
    image, brain = np.zeros((1, *probability.shape), np.float32), np.ones(probability.shape, bool)
    settings = dataclasses.replace(GAUSSIAN_ONLY, region="uncertain")
    changed = refine(probability, image, brain, (2.0, 2.0, 2.0), settings) != probability
    assert changed[:10, 4, 4].all()
    assert not changed[10:].any()
    assert changed[7, 7, 4]
    assert not changed[8, 8, 4]  # 11.3 mm
    assert refine(probability, image, brain, (2.0, 2.0, 2.0), GAUSSIAN_ONLY)[29, 4, 4] != probability[29, 4, 4]


def test_a_probability_outside_the_brain_makes_no_region():
    probability, image, brain = tiny_case()
    probability = np.where(brain, 0.005, 0.9).astype(np.float32)
    np.testing.assert_array_equal(refine(probability, image, brain, SPACING_MM, CrfSettings()), probability)


@pytest.mark.parametrize("region", ["brain", "uncertain"])
def test_an_empty_brain_gives_the_probability_back(region):
    probability, image, brain = tiny_case()
    refined = refine(probability, image, np.zeros_like(brain), SPACING_MM, CrfSettings(region=region))
    np.testing.assert_array_equal(refined, probability)


def test_memory_layout_and_read_only_arrays_make_no_difference():
    probability, image, brain = tiny_case()
    expected = refine(probability, image, brain, SPACING_MM, CrfSettings())
    awkward = [np.asfortranarray(array) for array in (probability, image.astype(np.float64), brain)]
    for array in awkward:
        array.flags.writeable = False
    np.testing.assert_allclose(refine(*awkward, SPACING_MM, CrfSettings()), expected, atol=1e-6)


# Each of these ends the whole process, or spreads without a word, if it reaches pydensecrf.
@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_a_bad_probability_is_refused(bad):
    probability, image, brain = tiny_case()
    probability[3, 3, 3] = bad
    with pytest.raises(DataError, match="must be 0 to 1"):
        refine(probability, image, brain, SPACING_MM, CrfSettings())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 600.0, -1e9])
def test_a_bad_intensity_is_refused(bad):
    probability, image, brain = tiny_case()
    image[1, 3, 3, 3] = bad
    with pytest.raises(DataError, match="finite and below 1000"):
        refine(probability, image, brain, SPACING_MM, CrfSettings())


def test_a_volume_too_wide_for_theta_is_refused():
    probability, image, brain = tiny_case()
    with pytest.raises(DataError, match="finite and below 1000"):
        refine(probability, image, brain, (2000.0, 1.0, 1.0), CrfSettings(region="brain"))


def test_arrays_of_different_shapes_are_refused():
    probability, image, brain = tiny_case()
    with pytest.raises(ValueError, match="shapes differ"):
        refine(probability[1:], image, brain, SPACING_MM, CrfSettings())


@pytest.mark.parametrize(
    "changes",
    [
        {"theta_gamma_mm": 0.0},
        {"theta_alpha_mm": -1.0},
        {"theta_beta": 0.0},
        {"theta_beta": float("nan")},
        {"weight_gaussian": -0.1},
        {"weight_bilateral": 101.0},
        {"iterations": 51},
        {"region": "head"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        CrfSettings(**changes)
