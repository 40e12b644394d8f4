"""The trials of the CRF search: Optuna proposes thetas, the engine tries everything else with them."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import TrialState

from mlproject.prediction.crf import CrfSettings
from mlproject.tuning.case_workers import CaseWorkers, TaskFailed
from mlproject.tuning.crf_engine import CrfCase, dice_table
from mlproject.tuning.crf_settings import CrfSearchSettings
from mlproject.tuning.crf_space import GAUSSIAN_WEIGHTS, THRESHOLDS, WEIGHTS, ThetaRanges

logger = logging.getLogger(__name__)

FINISHED, FAILED = "finished", "failed"
# Among equals the threshold nearest to 0.5 wins, then the lower one.
_MIDDLE_FIRST = sorted(range(len(THRESHOLDS)), key=lambda row: round(abs(THRESHOLDS[row] - 0.5), 6))
_BEST = ("weight_gaussian", "weight_bilateral", "iterations", "threshold", "dice")

Row = dict[str, Any]
Pairs = Sequence[tuple[float, float]]
Report = Callable[[int, Row], None]


def run_trials(
    workers: CaseWorkers[CrfCase],
    ranges: ThetaRanges,
    settings: CrfSearchSettings,
    report: Report | None,
    counted: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `trials` and `pairs` of crf_search.SearchResult; `report` is that of `tune`.

    The Dice of a trial is the mean over the cases with the indices `counted`; over all if None.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
    study.enqueue_trial(ranges.start())
    weights = WEIGHTS if settings.bilateral else GAUSSIAN_WEIGHTS
    started = time.monotonic()
    rows: list[Row] = []
    pairs: list[Row] = []
    while len(rows) < settings.trials:
        minutes = (time.monotonic() - started) / 60
        if rows and settings.timeout_minutes is not None and minutes >= settings.timeout_minutes:
            logger.warning("CRF search: time is up after %d of %d trials", len(rows), settings.trials)
            break
        trial, begun = study.ask(), time.monotonic()
        thetas = ranges.suggest(trial, settings.bilateral)
        values = {name: getattr(thetas, name) for name in vars(ranges)}
        row: Row = {"trial": trial.number, "state": FINISHED, **values, **dict.fromkeys(_BEST, np.nan)}
        try:
            best = _best_of_each_pair(weights, _mean_dice(workers, thetas, weights, settings, counted))
        except TaskFailed as failure:
            study.tell(trial, state=TrialState.FAIL)
            row |= {"state": FAILED, "seconds": time.monotonic() - begun, "reason": str(failure)}
            logger.warning("CRF search: trial %d with %s failed: %s", trial.number, values, failure)
        else:
            trial.set_user_attr("pairs", best)
            row |= max(best, key=lambda pair: pair["dice"])
            row |= {"seconds": time.monotonic() - begun, "reason": ""}
            pairs.extend({"trial": trial.number, **values, **pair} for pair in best)
            study.tell(trial, row["dice"])
        rows.append(row)
        if report is not None:
            report(trial.number, {name: value for name, value in row.items() if name != "trial"})
    return pd.DataFrame(rows), pd.DataFrame(pairs)


def _mean_dice(
    workers: CaseWorkers[CrfCase],
    thetas: CrfSettings,
    weights: Pairs,
    settings: CrfSearchSettings,
    counted: Sequence[int] | None,
) -> NDArray[np.float64]:
    """Mean of the engine's Dice (weight pairs, iterations, thresholds)."""
    task = partial(dice_table, thetas=thetas, weights=weights, iterations=settings.iterations)
    tables = dict(workers.run(task, settings.trial_seconds))
    in_order = sorted(tables) if counted is None else counted  # so that sums are the same to the last digit
    mean: NDArray[np.float64] = np.mean([tables[index] for index in in_order], axis=0)
    return mean


def _best_of_each_pair(weights: Pairs, dice: NDArray[np.float64]) -> list[Row]:
    """The best iterations, threshold and Dice of each weight pair; the fewest iterations among equals."""
    best = []
    for pair, table in zip(weights, dice[..., _MIDDLE_FIRST], strict=True):
        iteration, place = np.unravel_index(table.argmax(), table.shape)
        values = (*pair, int(iteration) + 1, THRESHOLDS[_MIDDLE_FIRST[place]], float(table.max()))
        best.append(dict(zip(_BEST, values, strict=True)))
    return best
