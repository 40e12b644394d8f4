import dataclasses

import numpy as np
import pytest
from pydensecrf.densecrf import DenseCRF

from mlproject.errors import DataError
from mlproject.evaluation.metrics import case_metrics
from mlproject.prediction.crf import CrfSettings, Nodes, refine
from mlproject.tuning.crf_engine import CrfCase, dice_table, mean_field, refine_case
from mlproject.tuning.crf_space import THRESHOLDS

SPACING_MM = (2.0, 1.5, 3.0)
WEIGHTS = [(1.0, 3.0), (0.3, 0.0), (0.0, 10.0), (3.0, 1.0), (0.0, 0.0)]
THETAS = CrfSettings(theta_gamma_mm=3, theta_alpha_mm=8, theta_beta=0.8)


def crf_case(seed=0, shape=(24, 16, 12), lesion=True):
    """A soft lesion near one corner, bright in one channel; false positives, some of them outside the brain."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    if lesion:
        label[3:7, 3:7, 3:6] = 1
        label[-2, -2, -2] = 1  # in the brain, beyond the uncertain region
        label[0, 5, 5] = 1  # outside the brain, with a high probability
    probability = np.full(shape, 0.004, np.float32)
    probability[1:9, 1:9, 1:8] = np.clip(0.2 + 0.35 * label[1:9, 1:9, 1:8] + random.normal(0, 0.15, (8, 8, 7)), 0, 1)
    brain = np.ones(shape, bool)
    brain[0] = False
    probability[0, 5, 5] = 0.62
    image = (1.5 * label + random.normal(0, 0.4, (2, *shape))).astype(np.float32)
    return CrfCase("case", probability, image, brain, label, SPACING_MM)


def single(weights, iterations, **changes):
    gaussian, bilateral = weights
    return dataclasses.replace(
        THETAS, weight_gaussian=gaussian, weight_bilateral=bilateral, iterations=iterations, **changes
    )


@pytest.mark.parametrize("pairs", [WEIGHTS, [(1.0, 0.0), (3.0, 0.0)], [(0.0, 3.0)]])
def test_every_weight_and_iteration_is_the_plain_crf_on_the_same_nodes(pairs):
    case = crf_case()
    assert 0.1 < case.region.mean() < 0.9
    for iteration, magnetisation in enumerate(mean_field(case.nodes, THETAS, pairs, 6), 1):
        for column, weights in enumerate(pairs):
            plain = refine_case(case, single(weights, iteration))
            np.testing.assert_allclose((1 + magnetisation[:, column]) / 2, plain[case.region], rtol=0, atol=1e-5)
            np.testing.assert_array_equal(plain[~case.region], case.probability[~case.region])


def test_it_is_what_pydensecrf_itself_says():
    """Called as its documentation does, with features and energies of this test's own making."""
    case, weights, iterations = crf_case(), (1.0, 3.0), 4
    position_mm = np.argwhere(case.region) * np.array(SPACING_MM)
    p = np.clip(case.probability[case.region], 1e-6, 1 - 1e-6)
    field = DenseCRF(len(p), 2)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.stack([1 - p, p])), dtype=np.float32))
    near = (position_mm - position_mm.mean(axis=0)).T
    alike = case.image[:, case.region] / THETAS.theta_beta
    for features, weight in (
        (near / THETAS.theta_gamma_mm, weights[0]),
        (np.concatenate([near / THETAS.theta_alpha_mm, alike]), weights[1]),
    ):
        field.addPairwiseEnergy(np.ascontiguousarray(features, dtype=np.float32), compat=weight)
    expected = np.array(field.inference(iterations))[1]
    *_, magnetisation = mean_field(case.nodes, THETAS, [weights, (0.0, 0.0)], iterations)
    np.testing.assert_allclose((1 + magnetisation[:, 0]) / 2, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_dense_crf_of_all_pairs_within_the_error_of_the_lattice(seed):
    random = np.random.default_rng(seed)
    shape = (7, 6, 6)
    lesion = np.zeros(shape, bool)
    lesion[2:5, 2:5, 2:4] = True
    image = (lesion + random.normal(0, 0.4, (2, *shape))).astype(np.float32)
    probability = np.clip(np.where(lesion, 0.65, 0.25) + random.normal(0, 0.15, shape), 0.02, 0.98).astype(np.float32)
    nodes = Nodes.of(np.ones(shape, bool), probability, image, SPACING_MM)
    thetas = CrfSettings(theta_gamma_mm=3, theta_alpha_mm=6, theta_beta=1)
    weights = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0)]

    position, z_scores = np.argwhere(np.ones(shape)) * SPACING_MM, image.reshape(2, -1).T
    kernels = []
    for features in (position / 3, np.hstack([position / 6, z_scores])):
        pairs = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        norm = 1 / np.sqrt(pairs.sum(1))
        kernels.append(norm[:, None] * pairs * norm[None])
    p = probability.ravel().astype(np.float64)
    exact = np.repeat(p[:, None], len(weights), axis=1)
    for magnetisation in mean_field(nodes, thetas, weights, 4):
        for column, (gaussian, bilateral) in enumerate(weights):
            pairwise = (gaussian * kernels[0] + bilateral * kernels[1]) @ (2 * exact[:, column] - 1)
            exact[:, column] = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + pairwise)))
        moved = np.abs(exact - p[:, None]).mean(axis=0)
        error = np.abs((1 + magnetisation) / 2 - exact)
        assert (moved > 0.03).all()
        assert (error.mean(axis=0) < 0.1 * moved).all()
        assert error.max() < 0.06


@pytest.mark.parametrize(("seed", "lesion"), [(0, True), (1, True), (2, False)])
def test_the_table_holds_the_dice_of_the_masks_of_the_whole_volume(seed, lesion):
    case = crf_case(seed, lesion=lesion)
    table = dice_table(case, THETAS, WEIGHTS, 3)
    assert table.shape == (len(WEIGHTS), 3, len(THRESHOLDS))
    for pair, weights in enumerate(WEIGHTS):
        for iteration in range(3):
            refined = refine_case(case, single(weights, iteration + 1))
            for column, threshold in enumerate(THRESHOLDS):
                dice = case_metrics(case.label, (refined >= threshold).astype(np.uint8), SPACING_MM)["dice"]
                assert table[pair, iteration, column] == pytest.approx(dice, abs=1e-12), (weights, threshold)
    assert len(np.unique(table)) > (30 if lesion else 1)


def test_without_weights_nothing_changes():
    case = crf_case()
    for magnetisation in mean_field(case.nodes, THETAS, [(0.0, 0.0)], 2):
        np.testing.assert_allclose((1 + magnetisation[:, 0]) / 2, case.probability[case.region], atol=2e-6)


def test_a_case_in_which_the_network_sees_nothing_has_no_region_and_a_dice_of_its_own():
    case = crf_case()
    nothing = np.full_like(case.probability, 0.001)
    assert (dice_table(dataclasses.replace(case, probability=nothing), THETAS, WEIGHTS, 2) == 0).all()
    healthy = dataclasses.replace(case, probability=nothing, label=np.zeros_like(case.label))
    assert (dice_table(healthy, THETAS, WEIGHTS, 2) == 1).all()


def test_what_would_end_the_process_is_refused():
    case = crf_case()
    image = case.image.copy()
    image[1, 4, 4, 4] = np.nan
    with pytest.raises(DataError, match="finite and below 1000"):
        dice_table(dataclasses.replace(case, image=image), THETAS, WEIGHTS, 1)


def test_refining_a_case_is_refining_its_arrays():
    case, crf = crf_case(), CrfSettings(region="brain")
    expected = refine(case.probability, case.image, case.brain, SPACING_MM, crf)
    np.testing.assert_array_equal(refine_case(case, crf), expected)
