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
from mlproject.tuning.case_workers import TaskFailed
from mlproject.tuning.crf_engine import CrfCase
from mlproject.tuning.crf_finalists import pick
from mlproject.tuning.crf_search import CrfChoiceSettings, CrfSearchSettings, tune
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS, WEIGHTS, ThetaRanges, theta_ranges
from mlproject.tuning.crf_trials import run_trials
from mlproject.tuning.cutoffs import best_cutoffs, dice_grid

SHAPE = (26, 16, 14)
SPACING_MM = (3.0, 3.0, 3.0)
AFFINE = tuple(map(tuple, np.diag([*SPACING_MM, 1.0]).tolist()))
ONE_TRIAL = CrfSearchSettings(trials=1, processes=1, finalists=1)
RANGES = ThetaRanges((1.0, 8.0), (10.0, 60.0), (0.1, 1.0))
CRF_NAMES = ("theta_gamma_mm", "theta_alpha_mm", "theta_beta", "weight_gaussian", "weight_bilateral", "iterations")


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
    """A lesion of 6x6x6 voxels, plain in the image, noisy and below 0.5 in the probability; the far third is sure."""
    random = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    if lesion:
        i, j, k = random.integers(2, 8, 3)
        label[i : i + 6, j : j + 6, k : k + 6] = 1
    probability = np.clip(0.1 + 0.35 * label + random.normal(0, 0.12, SHAPE), 0, 1)
    probability[15:] = 0.001
    image = (2 * label + random.normal(0, 0.2, (2, *SHAPE))).astype(np.float32)
    return case_probability(f"case{seed}", label, probability, image)


def crf_case(entry):
    case = entry.case
    return CrfCase(case.name, entry.probability, case.image, case.brain, case.label, SPACING_MM)


@pytest.fixture(scope="module")
def maps():
    return [noisy_case(0), noisy_case(1), noisy_case(2, lesion=False)]


@pytest.fixture(scope="module")
def result(maps):
    return tune(maps, CrfSearchSettings(trials=5, processes=2))


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
    assert list(result.case_dice) == ["network_only", "best_threshold", "with_crf", "with_crf_brain"]
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
    assert result.with_crf.crf.region == "uncertain"


def test_a_gain_that_three_cases_cannot_show_is_not_enough_where_a_significant_one_is_required(maps, result):
    strict = tune(maps, ONE_TRIAL, CrfChoiceSettings(require_gain=True))
    assert strict.difference.mean > 0
    assert not strict.difference.significant
    assert strict.chosen is strict.best_threshold


def test_a_significant_gain_is_kept_where_it_is_required():
    many = [noisy_case(seed) for seed in range(7)]
    strict = tune(many, ONE_TRIAL, CrfChoiceSettings(require_gain=True))
    assert strict.difference.significant
    assert strict.chosen is strict.with_crf


def test_the_crf_is_not_chosen_where_the_network_is_perfect():
    label = np.zeros(SHAPE, np.uint8)
    label[4:10, 4:10, 4:10] = 1
    result = tune([case_probability("perfect", label, 0.1 + 0.8 * label)], ONE_TRIAL)
    assert result.chosen == result.best_threshold == Postprocessing(threshold=0.5)
    assert result.mean_dice["best_threshold"] == 1


def test_cases_without_a_lesion_alone_can_be_searched_too():
    result = tune([noisy_case(3, lesion=False)], ONE_TRIAL)
    assert result.mean_dice["best_threshold"] == 1
    assert result.trials["dice"].tolist() == [1.0]


def test_the_table_has_all_trials_starting_with_the_defaults(maps, result):
    trials = result.trials
    assert list(trials["trial"]) == [0, 1, 2, 3, 4]
    assert set(trials["state"]) == {"finished"}
    for name, start in theta_ranges([crf_case(entry) for entry in maps]).start().items():
        assert trials.loc[0, name] == pytest.approx(start)
    for _, row in trials.iterrows():
        pairs = result.pairs[result.pairs["trial"] == row["trial"]]
        assert sorted(zip(pairs["weight_gaussian"], pairs["weight_bilateral"], strict=True)) == sorted(WEIGHTS)
        best = pairs.loc[pairs["dice"].idxmax()]
        for name in ("weight_gaussian", "weight_bilateral", "iterations", "threshold", "dice", "theta_beta"):
            assert row[name] == best[name]


def test_a_pair_of_weights_has_the_best_of_its_iterations_and_thresholds_on_the_cases_with_a_lesion(maps, result):
    row = result.pairs.iloc[WEIGHTS.index((1.0, 0.0))]
    thetas = {name: float(row[name]) for name in ("theta_gamma_mm", "theta_alpha_mm", "theta_beta")}
    weights = {name: float(row[name]) for name in ("weight_gaussian", "weight_bilateral")}
    dice = {
        (iterations, threshold): np.mean(
            [
                dice_of(entry, Postprocessing(threshold, 0, CrfSettings(**thetas, **weights, iterations=iterations)))
                for entry in maps[:2]
            ]
        )
        for iterations in range(1, 9)
        for threshold in THRESHOLDS
    }
    assert row["dice"] == pytest.approx(max(dice.values()))
    assert row["dice"] < 0.99
    assert dice[int(row["iterations"]), float(row["threshold"])] == pytest.approx(row["dice"])


def test_without_the_bilateral_term_the_gaussian_one_alone_is_tried(maps):
    result = tune(maps, dataclasses.replace(ONE_TRIAL, trials=2, bilateral=False))
    assert result.with_crf.crf.weight_bilateral == 0 and result.with_crf.crf.weight_gaussian > 0
    assert set(result.pairs["weight_bilateral"]) == {0} and len(result.pairs) == 2 * sum(b == 0 for _, b in WEIGHTS)
    assert result.trials["theta_gamma_mm"].nunique() == 2


def test_the_finalists_are_the_best_pairs_scored_as_they_are_served_and_on_the_whole_brain(maps, result):
    finalists = result.finalists
    assert len(finalists) == 5
    first = result.pairs.loc[result.pairs["dice"].idxmax()]
    assert finalists.loc[0, list(CRF_NAMES)].tolist() == first[list(CRF_NAMES)].tolist()
    assert finalists.groupby("theta_beta").size().max() == 2  # of the same trial
    assert result.mean_dice["with_crf"] == pytest.approx(finalists["dice"].max())
    for _, row in finalists.iterrows():
        crf = CrfSettings(**{name: float(row[name]) for name in CRF_NAMES[:-1]}, iterations=int(row["iterations"]))
        for column, region in (("dice", "uncertain"), ("dice_brain", "brain")):
            served = Postprocessing(row["threshold"], row["min_lesion_ml"], dataclasses.replace(crf, region=region))
            assert row[column] == pytest.approx(np.mean([dice_of(entry, served) for entry in maps])), region
    assert (finalists["dice"] != finalists["dice_brain"]).any()
    best = finalists.loc[finalists["dice"].idxmax()]
    assert result.mean_dice["with_crf_brain"] == pytest.approx(best["dice_brain"])


def test_the_seed_decides_and_the_number_of_processes_does_not(maps, result):
    again = tune(maps, CrfSearchSettings(trials=5, processes=1))
    pd.testing.assert_frame_equal(*(one.trials.drop(columns="seconds") for one in (again, result)))
    pd.testing.assert_frame_equal(again.pairs, result.pairs)
    assert again.chosen == result.chosen
    other = tune(maps, CrfSearchSettings(trials=2, processes=2, seed=1, finalists=1))
    assert other.trials.loc[1, "theta_beta"] != result.trials.loc[1, "theta_beta"]


def test_each_trial_is_reported_and_the_time_limit_ends_the_search_after_the_first(maps):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    reported = []
    settings = CrfSearchSettings(trials=9, timeout_minutes=1e-9, processes=1, finalists=1)
    result = tune(maps, settings, report=lambda *arguments: reported.append(arguments))
    assert len(result.trials) == len(reported) == 1
    assert reported == [(0, result.trials.drop(columns="trial").loc[0].to_dict())]
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR  # or it prints a line a trial


def test_a_trial_that_fails_is_in_the_table_with_its_reason_and_the_search_goes_on(maps, caplog, monkeypatch):
    study = optuna.create_study(direction="maximize")
    monkeypatch.setattr(optuna, "create_study", lambda **_: study)
    trials, pairs = run_trials(StandIn(fails=[1]), RANGES, CrfSearchSettings(trials=3), None)
    assert trials["state"].tolist() == ["finished", "failed", "finished"]
    assert trials["reason"].tolist() == ["", "case b: ended by SIGKILL", ""]
    assert trials["dice"].isna().tolist() == [False, True, False]
    assert trials["theta_beta"].notna().all()
    assert set(pairs["trial"]) == {0, 2}
    for word in ("trial 1", "SIGKILL", "theta_beta"):
        assert word in caplog.text
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert len(study.trials[2].user_attrs["pairs"]) == len(WEIGHTS)


def test_among_equals_the_fewest_iterations_and_the_threshold_nearest_to_a_half_win():
    trials, pairs = run_trials(StandIn(dice=0.7), RANGES, CrfSearchSettings(trials=1), None)
    assert trials.loc[0, ["iterations", "threshold", "dice"]].tolist() == [1, 0.5, 0.7]
    assert set(pairs["threshold"]) == {0.5}


def test_finalists_are_distinct_and_at_most_two_of_a_trial():
    row = {"theta_gamma_mm": 2.0, "theta_alpha_mm": 20.0, "theta_beta": 0.5, "weight_gaussian": 1.0, "iterations": 3}
    table = pd.DataFrame(
        [
            {**row, "trial": trial, "theta_beta": beta, "weight_bilateral": weight, "dice": dice}
            for trial, beta, weight, dice in [
                (0, 0.5, 1.0, 0.6),
                (1, 0.7, 1.0, 0.9),
                (1, 0.7, 2.0, 0.8),
                (1, 0.7, 3.0, 0.7),
                (2, 0.7, 1.0, 0.9),  # proposed a second time
                (3, 0.9, 4.0, 0.5),
            ]
        ]
    )
    assert [(crf.theta_beta, crf.weight_bilateral) for crf in pick(table, 3)] == [(0.7, 1), (0.7, 2), (0.5, 1)]
    assert len(pick(table, 9)) == 4


class StandIn:
    """Workers of one case, with a table of Dice (random if None) for each task, and tasks that fail."""

    def __init__(self, dice=None, fails=()):
        self.dice, self.fails, self.tasks = dice, fails, 0

    def run(self, task, seconds):
        self.tasks += 1
        if self.tasks - 1 in self.fails:
            raise TaskFailed("case b: ended by SIGKILL")
        shape = (len(WEIGHTS), 8, len(THRESHOLDS))
        yield 0, np.random.default_rng(self.tasks).random(shape) if self.dice is None else np.full(shape, self.dice)


def test_where_every_trial_fails_the_search_says_why(maps):
    with pytest.raises(DataError, match=r"all 2 trials .* the first one: not done within 1e-09 s"):
        tune(maps, CrfSearchSettings(trials=2, trial_seconds=1e-9, processes=1))


def test_no_case_or_one_without_a_label_is_refused(maps):
    with pytest.raises(DataError, match="no validation case"):
        tune([], CrfSearchSettings())
    unlabelled = dataclasses.replace(maps[0], case=dataclasses.replace(maps[0].case, native_label=None))
    with pytest.raises(DataError, match="case0"):
        tune([unlabelled, maps[1]], CrfSearchSettings())


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 0},
        {"seed": -1},
        {"timeout_minutes": 0.0},
        {"processes": -1},
        {"iterations": 0},
        {"iterations": 51},
        {"trial_seconds": 0.0},
        {"trial_seconds": float("nan")},
        {"finalists": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes):
    with pytest.raises(SettingsError, match=next(iter(changes))):
        CrfSearchSettings(**changes)
