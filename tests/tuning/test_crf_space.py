import dataclasses

import numpy as np
import optuna
import pytest

from mlproject.prediction.crf import LIMITS, CrfSettings, Nodes
from mlproject.tuning.crf_engine import CrfCase
from mlproject.tuning.crf_space import THRESHOLDS, WEIGHTS, ThetaRanges, theta_ranges, vertices_per_node

SHAPE = (16, 16, 16)


def crf_case(seed=0, spacing_mm=(2.0, 2.0, 2.0), noise=1.0, channels=2):
    random = np.random.default_rng(seed)
    image = (noise * random.normal(0, 1, (channels, *SHAPE))).astype(np.float32)
    zeros = np.zeros(SHAPE, np.float32)
    return CrfCase(f"case{seed}", zeros, image, np.ones(SHAPE, bool), zeros.astype(np.uint8), spacing_mm)


def test_the_weights_hold_the_defaults_each_term_alone_and_both_in_a_multiple_of_four():
    default = CrfSettings()
    assert (default.weight_gaussian, default.weight_bilateral) in WEIGHTS
    assert any(gaussian == 0 for gaussian, _ in WEIGHTS)
    assert any(bilateral == 0 for _, bilateral in WEIGHTS)
    assert len(set(WEIGHTS)) == len(WEIGHTS) >= 8
    assert len(WEIGHTS) % 4 == 0
    assert all(gaussian + bilateral > 0 for gaussian, bilateral in WEIGHTS)
    assert np.allclose(THRESHOLDS, np.arange(1, 20) / 20)


def test_on_one_axis_the_vertices_are_half_a_root_of_three_apart():
    # One axis: a factor of sqrt(2/3) * 2 / sqrt(2) makes the vertices the whole numbers (Adams et al. 2010, p. 5-6).
    step = np.sqrt(3) / 2
    features = (np.array([[0.1, 0.2, 0.9, 3.1, 3.2, 10.5]]) * step).astype(np.float32)
    assert vertices_per_node(features) == pytest.approx(len({0, 1, 3, 4, 10, 11}) / 6)


@pytest.mark.parametrize("axes", [2, 3, 5])
def test_points_far_apart_have_a_simplex_each_and_points_in_one_place_share_it(axes):
    random = np.random.default_rng(axes)
    far = random.uniform(-900, 900, (axes, 200)).astype(np.float32)
    assert vertices_per_node(far) == axes + 1
    assert vertices_per_node(np.full((axes, 200), 0.3, np.float32)) == (axes + 1) / 200


@pytest.mark.parametrize(("axes", "side"), [(2, 60.0), (3, 20.0)])
def test_a_densely_filled_cube_has_the_vertices_of_its_volume_and_some_at_its_faces(axes, side):
    points = np.random.default_rng(0).uniform(0, side, (axes, 150_000)).astype(np.float32)
    inside = side**axes * np.sqrt(axes + 1) / 1.5 ** (axes / 2)  # vertices of the lattice A*, Adams et al. 2010
    assert 1 < vertices_per_node(points) * 150_000 / inside < 1.25


def test_the_ends_of_theta_beta_keep_the_lattice_between_its_limits():
    ranges = theta_ranges([crf_case(seed) for seed in range(4)])
    low, high = ranges.theta_beta
    assert LIMITS["theta_beta"][0] < low < high < LIMITS["theta_beta"][1]
    case = crf_case(9)
    nodes = Nodes.of(case.brain, case.probability, case.image, case.spacing_mm)
    finest = CrfSettings(theta_alpha_mm=ranges.theta_alpha_mm[0], theta_beta=low)
    coarsest = CrfSettings(theta_alpha_mm=ranges.theta_alpha_mm[1], theta_beta=high)
    assert 3.5 < vertices_per_node(nodes.bilateral_features(finest)) < 4.5
    assert 0.02 < vertices_per_node(nodes.bilateral_features(coarsest)) < 0.05


def test_ranges_follow_the_spacing_and_the_contrast():
    fine, coarse = (theta_ranges([crf_case(spacing_mm=(side,) * 3)]) for side in (1.0, 4.0))
    assert coarse.theta_gamma_mm == (3.0, 16.0)
    assert coarse.theta_alpha_mm == (20.0, 120.0)
    assert fine.theta_alpha_mm == (5.0, 30.0)
    plain, noisy = (theta_ranges([crf_case(noise=noise)]).theta_beta for noise in (0.5, 2.0))
    np.testing.assert_allclose(noisy, np.array(plain) * 4, rtol=0.05)


@pytest.mark.parametrize("changes", [{"spacing_mm": (30.0, 30.0, 30.0)}, {"spacing_mm": (0.05,) * 3}, {"noise": 0.0}])
def test_the_ranges_lie_within_what_the_crf_accepts_whatever_the_data(changes):
    ranges = theta_ranges([crf_case(**changes)])
    for name, (low, high) in vars(ranges).items():
        assert LIMITS[name][0] <= low <= high <= LIMITS[name][1]
    for end in (0, 1):
        CrfSettings(**{name: ends[end] for name, ends in vars(ranges).items()})
    study = optuna.create_study()
    study.enqueue_trial(ranges.start())
    ranges.suggest(study.ask())


def test_the_ranges_are_deterministic():
    cases = [crf_case(seed) for seed in range(5)]
    assert theta_ranges(cases) == theta_ranges(cases)


def test_the_start_is_the_defaults_moved_into_the_ranges_and_is_tried_first():
    ranges = ThetaRanges((1.0, 8.0), (30.0, 60.0), (0.1, 0.3))
    assert ranges.start() == {"theta_gamma_mm": 2.0, "theta_alpha_mm": 30.0, "theta_beta": 0.3}
    study = optuna.create_study()
    study.enqueue_trial(ranges.start())
    expected = dataclasses.replace(CrfSettings(), theta_alpha_mm=30.0, theta_beta=0.3)
    assert ranges.suggest(study.ask()) == expected
