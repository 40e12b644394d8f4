import dataclasses

import numpy as np
import optuna
import pandas as pd
import pytest

from mlproject.data.preprocessing import Geometry, PreparedCase
from mlproject.errors import DataError, SettingsError
from mlproject.evaluation.metrics import case_metrics
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing, apply, to_mask
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.crf_search import CrfSearchSettings, tune
from mlproject.tuning.cutoffs import best_cutoffs, dice_grid
from mlproject.tuning.space import MIN_LESION_ML, THRESHOLDS, suggest_crf

SHAPE = (20, 18, 16)
SPACING_MM = (3.0, 3.0, 3.0)
AFFINE = tuple(map(tuple, np.diag([*SPACING_MM, 1.0]).tolist()))


def case_probability(name, label, probability, image=None):
    shape = label.shape
    case = PreparedCase(
        name=name,
        image=np.zeros((2, *shape), np.float32) if image is None else image,
        brain=np.ones(shape, bool),
        label=label,
        native_label=label,
        geometry=Geometry(shape, AFFINE, shape, AFFINE),
        channel_digests={},
    )
    return CaseProbability(case, probability.astype(np.float32))


def noisy_case(seed, lesion=True):
    """A lesion of 6x6x6 voxels, plain in the image, noisy and below 0.5 in the probability."""
    random = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    if lesion:
        i, j, k = random.integers(2, 9, 3)
        label[i : i + 6, j : j + 6, k : k + 6] = 1
    probability = np.clip(0.1 + 0.35 * label + random.normal(0, 0.12, SHAPE), 0, 1)
    image = (2 * label + random.normal(0, 0.2, (2, *SHAPE))).astype(np.float32)
    return case_probability(f"case{seed}", label, probability, image)


@pytest.fixture(scope="module")
def maps():
    return [noisy_case(0), noisy_case(1), noisy_case(2, lesion=False)]


@pytest.fixture(scope="module")
def result(maps):
    return tune(maps, CrfSearchSettings(trials=5))


def dice_of(entry, postprocessing):
    mask, _ = apply(entry.probability, entry.case, postprocessing)
    return case_metrics(entry.case.native_label, mask, SPACING_MM)["dice"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lesion", [True, False])
def test_the_grid_holds_the_dice_of_the_metrics(seed, lesion):
    random = np.random.default_rng(seed)
    label = (random.random((9, 8, 7)) > 0.9).astype(np.uint8) * lesion
    probability = np.clip(0.3 * label + 0.8 * random.random(label.shape) ** 4, 0, 0.85).astype(np.float32)
    voxel_ml = 0.05
    grid = dice_grid(probability, label, voxel_ml)
    for row, threshold in enumerate(THRESHOLDS):
        for column, min_lesion_ml in enumerate(MIN_LESION_ML):
            mask = to_mask(probability, threshold, min_lesion_ml, voxel_ml)
            dice = case_metrics(label, mask, (5.0, 5.0, 2.0))["dice"]
            assert grid[row, column] == pytest.approx(dice, abs=1e-12), (threshold, min_lesion_ml)
    assert len(np.unique(grid)) > 10 or not lesion


def test_among_equals_the_threshold_nearest_to_a_half_and_the_smallest_volume_win():
    grid = np.full((len(THRESHOLDS), len(MIN_LESION_ML)), 0.7)
    assert best_cutoffs(grid) == (THRESHOLDS.index(0.5), 0)
    grid[THRESHOLDS.index(0.5)] = 0.6
    assert best_cutoffs(grid) == (THRESHOLDS.index(0.45), 0)  # as near as 0.55
    grid[:, 0] = 0.6
    assert best_cutoffs(grid) == (THRESHOLDS.index(0.45), 1)
    grid[0, 6] = 0.71
    assert best_cutoffs(grid) == (0, 6)


def test_each_candidate_scores_on_the_cases_what_is_said(maps, result):
    assert list(result.case_dice.index) == ["case0", "case1", "case2"]
    for name in ("network_only", "best_threshold", "with_crf"):
        expected = [dice_of(entry, getattr(result, name)) for entry in maps]
        np.testing.assert_allclose(result.case_dice[name], expected)
        assert result.mean_dice[name] == pytest.approx(np.mean(expected))
    gain = result.case_dice["with_crf"] - result.case_dice["best_threshold"]
    assert result.difference.mean == pytest.approx(gain.mean())
    assert result.difference.cases == 3


def test_the_best_cutoffs_beat_all_others_and_so_the_network_alone(maps, result):
    assert result.network_only == Postprocessing(threshold=0.5)
    assert result.best_threshold.crf is None
    every = [
        np.mean([dice_of(entry, Postprocessing(threshold, min_lesion_ml)) for entry in maps])
        for threshold in THRESHOLDS
        for min_lesion_ml in MIN_LESION_ML
    ]
    assert result.mean_dice["best_threshold"] == pytest.approx(max(every))
    assert result.mean_dice["best_threshold"] > result.mean_dice["network_only"] + 0.1


def test_the_crf_is_chosen_where_it_helps(result):
    assert result.mean_dice["with_crf"] > result.mean_dice["best_threshold"]
    assert result.chosen is result.with_crf
    assert isinstance(result.with_crf.crf, CrfSettings)


def test_the_crf_is_not_chosen_where_the_network_is_perfect():
    label = np.zeros(SHAPE, np.uint8)
    label[4:10, 4:10, 4:10] = 1
    result = tune([case_probability("perfect", label, 0.1 + 0.8 * label)], CrfSearchSettings(trials=2))
    assert result.chosen == result.best_threshold == Postprocessing(threshold=0.5)
    assert result.mean_dice["best_threshold"] == 1


def test_the_table_has_all_trials_starting_with_the_defaults(result):
    assert list(result.trials["trial"]) == [0, 1, 2, 3, 4]
    start = dataclasses.asdict(CrfSettings())
    del start["region"]
    assert result.trials.loc[0, list(start)].to_dict() == start
    best = result.trials.loc[result.trials["dice"].idxmax()]
    assert result.mean_dice["with_crf"] == best["dice"]
    assert result.with_crf.threshold == best["threshold"]
    assert result.with_crf.crf.theta_beta == best["theta_beta"]


def test_the_seed_decides(maps, result):
    again, other = (tune(maps, CrfSearchSettings(trials=5, seed=seed)) for seed in (0, 1))
    pd.testing.assert_frame_equal(again.trials, result.trials)
    assert again.chosen == result.chosen
    assert not other.trials.equals(result.trials)


def test_each_trial_is_reported_and_the_time_limit_ends_the_search_after_the_first(maps):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    reported = []
    result = tune(
        maps, CrfSearchSettings(trials=9, timeout_minutes=1e-9), lambda *arguments: reported.append(arguments)
    )
    assert len(result.trials) == 1
    assert reported == [(0, result.trials.drop(columns="trial").loc[0].to_dict())]
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING  # or it prints a line a trial


def test_no_case_or_one_without_a_label_is_refused(maps):
    with pytest.raises(DataError, match="no validation case"):
        tune([], CrfSearchSettings())
    unlabelled = dataclasses.replace(maps[0], case=dataclasses.replace(maps[0].case, native_label=None))
    with pytest.raises(DataError, match="case0"):
        tune([unlabelled, maps[1]], CrfSearchSettings())


@pytest.mark.parametrize("changes", [{"trials": 0}, {"seed": -1}, {"timeout_minutes": 0.0}])
def test_settings_out_of_range_are_refused_by_name(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        CrfSearchSettings(**changes)


def test_the_search_space_lies_within_what_the_crf_accepts():
    trial = optuna.create_study().ask()
    suggest_crf(trial)
    for end in ("low", "high"):
        fixed = {name: getattr(distribution, end) for name, distribution in trial.distributions.items()}
        suggest_crf(optuna.trial.FixedTrial(fixed))
