"""The postprocessing that suits a network: threshold, smallest lesion and CRF, tuned on validation cases."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from mlproject.errors import DataError, SettingsError
from mlproject.evaluation.statistics import PairedDifference, paired_difference
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing, native_probability
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.cutoffs import best_cutoffs, dice_grid
from mlproject.tuning.space import MIN_LESION_ML, THRESHOLDS, start_parameters, suggest_crf

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrfSearchSettings:
    """The search for threshold, smallest lesion and CRF on the validation cases.

    Attributes:
        trials: CRFs to try; each with every threshold and smallest lesion.
        seed: Seed of the proposals (Optuna's TPE) and of the bootstrap.
        timeout_minutes: No trial starts after this time, the first excepted; none if null.
    """

    trials: int = 40
    seed: int = 0
    timeout_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise SettingsError(f"trials of the CRF search is {self.trials}: it must be at least 1")
        if self.seed < 0:
            raise SettingsError(f"seed of the CRF search is {self.seed}: it must be 0 or more")
        if self.timeout_minutes is not None and not self.timeout_minutes > 0:
            raise SettingsError(
                f"timeout_minutes of the CRF search is {self.timeout_minutes}: it must be above 0, or null"
            )


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What the search found. All Dice values are of the cases that it was tuned on, so they flatter.

    Attributes:
        network_only: Threshold 0.5 on the network's probability.
        best_threshold: Best threshold and smallest lesion without a CRF.
        with_crf: Best threshold and smallest lesion with the best CRF.
        chosen: with_crf if its mean Dice is higher than best_threshold's, else best_threshold.
        case_dice: Dice on the native grid, one row a case (index: its name), one column for each of
            network_only, best_threshold and with_crf.
        difference: Dice of with_crf minus best_threshold, paired by case.
        trials: One row a trial: trial, the CRF's parameters, threshold, min_lesion_ml, dice (mean of cases).
    """

    network_only: Postprocessing
    best_threshold: Postprocessing
    with_crf: Postprocessing
    chosen: Postprocessing
    case_dice: pd.DataFrame
    difference: PairedDifference
    trials: pd.DataFrame

    @property
    def mean_dice(self) -> dict[str, float]:
        """Mean of each column of case_dice."""
        return {str(name): float(column.mean()) for name, column in self.case_dice.items()}


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A postprocessing and its Dice (cases,) on the native grid."""

    postprocessing: Postprocessing
    dice: NDArray[np.float64]


def tune(
    maps: Sequence[CaseProbability],
    settings: CrfSearchSettings,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> SearchResult:
    """Search the postprocessing with the highest mean Dice on the native grid; deterministic by seed.

    A CRF with its parameters from Optuna's TPE sampler (the first trial: the defaults) is one trial. The
    thresholds and smallest lesions are tried exhaustively with each, which costs little beside the CRF. One
    case is in memory at a time, if `maps` hold memory maps.

    Args:
        maps: The validation cases, with labels.
        settings: Trials, seed and time limit.
        report: Called after each trial with its number and its row of SearchResult.trials.

    Raises:
        DataError: There is no case, or one without a label.
    """
    _check(maps)
    grids = _dice_grids(maps, None)
    best_threshold = _best(grids, None)
    network_only = Postprocessing()
    at_half = grids[:, THRESHOLDS.index(network_only.threshold), MIN_LESION_ML.index(network_only.min_lesion_ml)]
    with_crf, trials = _search_crf(maps, settings, report)
    case_dice = pd.DataFrame(
        {"network_only": at_half, "best_threshold": best_threshold.dice, "with_crf": with_crf.dice},
        index=pd.Index([entry.case.name for entry in maps], name="case"),
    )
    crf_is_better = with_crf.dice.mean() > best_threshold.dice.mean()
    return SearchResult(
        network_only=network_only,
        best_threshold=best_threshold.postprocessing,
        with_crf=with_crf.postprocessing,
        chosen=with_crf.postprocessing if crf_is_better else best_threshold.postprocessing,
        case_dice=case_dice,
        difference=paired_difference(best_threshold.dice, with_crf.dice, settings.seed),
        trials=trials,
    )


def _check(maps: Sequence[CaseProbability]) -> None:
    if not maps:
        raise DataError("no validation case to tune the postprocessing on: put at least one into the split")
    unlabelled = [entry.case.name for entry in maps if entry.case.native_label is None]
    if unlabelled:
        raise DataError(f"the postprocessing is tuned on labelled cases only, without a label: {unlabelled}")


def _search_crf(
    maps: Sequence[CaseProbability],
    settings: CrfSearchSettings,
    report: Callable[[int, dict[str, float]], None] | None,
) -> tuple[_Candidate, pd.DataFrame]:
    """The best candidate with a CRF, and the table of all trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
    study.enqueue_trial(start_parameters())
    started = time.monotonic()
    candidates: list[_Candidate] = []
    rows: list[dict[str, float]] = []
    while len(rows) < settings.trials:
        minutes = (time.monotonic() - started) / 60
        if rows and settings.timeout_minutes is not None and minutes >= settings.timeout_minutes:
            logger.warning("CRF search: time is up after %d of %d trials", len(rows), settings.trials)
            break
        trial = study.ask()
        crf = suggest_crf(trial)
        candidate = _best(_dice_grids(maps, crf), crf)
        dice = float(candidate.dice.mean())
        study.tell(trial, dice)
        cutoffs = candidate.postprocessing
        row = {"threshold": cutoffs.threshold, "min_lesion_ml": cutoffs.min_lesion_ml, "dice": dice}
        rows.append(trial.params | row)
        candidates.append(candidate)
        if report is not None:
            report(trial.number, rows[-1])
    table = pd.DataFrame(rows)
    table.insert(0, "trial", range(len(rows)))
    return candidates[study.best_trial.number], table


def _dice_grids(maps: Sequence[CaseProbability], crf: CrfSettings | None) -> NDArray[np.float64]:
    """Dice (cases, thresholds, smallest lesions) on the native grid."""
    grids = []
    for entry in maps:
        label = entry.case.native_label
        assert label is not None  # _check has seen to it
        voxel_ml = float(np.prod(entry.case.geometry.native_spacing_mm)) / 1000
        grids.append(dice_grid(native_probability(entry.probability, entry.case, crf), label, voxel_ml))
    return np.stack(grids)


def _best(grids: NDArray[np.float64], crf: CrfSettings | None) -> _Candidate:
    row, column = best_cutoffs(grids.mean(axis=0))
    return _Candidate(Postprocessing(THRESHOLDS[row], MIN_LESION_ML[column], crf), grids[:, row, column])
