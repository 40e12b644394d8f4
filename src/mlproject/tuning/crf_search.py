"""The postprocessing that suits a network: threshold, smallest lesion and CRF, tuned on validation cases."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlproject.errors import DataError
from mlproject.evaluation.statistics import PairedDifference, paired_difference
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.case_workers import CaseWorkers, TaskFailed
from mlproject.tuning.crf_engine import CrfCase
from mlproject.tuning.crf_finalists import Candidate, native_dice_grid, pick, score
from mlproject.tuning.crf_settings import CrfChoiceSettings, CrfSearchSettings
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS, theta_ranges
from mlproject.tuning.crf_trials import FAILED, FINISHED, Report, run_trials
from mlproject.tuning.cutoffs import best_cutoffs

__all__ = ["CrfChoiceSettings", "CrfSearchSettings", "SearchResult", "tune"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What the search found. All Dice values are of the cases that it was tuned on, so they flatter.

    Attributes:
        network_only: Threshold 0.5 on the network's probability.
        best_threshold: Best threshold and smallest lesion without a CRF.
        with_crf: The best finalist: its CRF, and the threshold and smallest lesion that suit it best.
        chosen: with_crf if its mean Dice is higher than best_threshold's (and significantly so, where
            CrfChoiceSettings asks for it), else best_threshold.
        case_dice: Dice on the native grid, one row a case (index: its name), one column for each of
            network_only, best_threshold and with_crf, and with_crf_brain, which is with_crf with its CRF on the
            whole brain (NaN where that failed).
        difference: Dice of with_crf minus best_threshold, paired by case.
        trials: One row a trial: trial, state (finished or failed), the thetas, weight_gaussian, weight_bilateral,
            iterations and threshold that were best with them, dice (on the prepared grid, mean of the cases with a
            lesion, if there is one), seconds, reason (of a failure). The results of a failed trial are NaN.
        pairs: One row for each finished trial and pair of weights: trial, thetas, weights, and the iterations,
            threshold and dice that were best with them.
        finalists: One row a finalist, the best in the search first: state, the CRF's parameters, threshold,
            min_lesion_ml, dice (mean of the cases, on the native grid), dice_brain (with the CRF on the whole
            brain), reason.
    """

    network_only: Postprocessing
    best_threshold: Postprocessing
    with_crf: Postprocessing
    chosen: Postprocessing
    case_dice: pd.DataFrame
    difference: PairedDifference
    trials: pd.DataFrame
    pairs: pd.DataFrame
    finalists: pd.DataFrame

    @property
    def mean_dice(self) -> dict[str, float]:
        """Mean of each column of case_dice."""
        return {str(name): float(column.mean()) for name, column in self.case_dice.items()}


def tune(
    maps: Sequence[CaseProbability],
    settings: CrfSearchSettings,
    choice: CrfChoiceSettings = CrfChoiceSettings(),  # noqa: B008  (frozen)
    report: Report | None = None,
) -> SearchResult:
    """Search the postprocessing with the highest mean Dice on the native grid; deterministic by seed.

    A trial is one proposal of the CRF's three thetas by Optuna's TPE sampler (the first trial: the defaults), with
    every pair of weights, iteration count and threshold, on the uncertain region of the prepared grid. The best of
    them all are scored again as they are served, with every smallest lesion, and on the whole brain. A trial whose
    worker process dies, raises an exception or takes too long counts as failed, and the search goes on.

    Args:
        maps: The validation cases, with labels; memory maps are opened by the workers, not sent to them.
        settings: Trials, seed, limits and worker processes (whose number does not change the result).
        choice: Whether the CRF must show a significant gain.
        report: Called after each trial with its number and its row of SearchResult.trials.

    Raises:
        DataError: There is no case, or one without a label; or every trial, or every finalist, failed.
    """
    _check(maps)
    network_only = Postprocessing()
    grids = np.stack([native_dice_grid(entry.probability, entry) for entry in maps])
    at_half = grids[:, THRESHOLDS.index(network_only.threshold), MIN_LESION_ML.index(network_only.min_lesion_ml)]
    row, column = best_cutoffs(grids.mean(axis=0))
    best_threshold, best_dice = Postprocessing(THRESHOLDS[row], MIN_LESION_ML[column]), grids[:, row, column]

    cases = [crf_case_of(entry) for entry in maps]
    names, sizes = [case.name for case in cases], [float(np.count_nonzero(case.probability > 0.01)) for case in cases]
    with CaseWorkers(cases, names, sizes, settings.processes) as workers:
        trials, pairs = run_trials(workers, theta_ranges(cases), settings, report, _counted(cases))
        if pairs.empty:
            raise DataError(
                f"all {len(trials)} trials of the CRF search failed, the first one: {trials['reason'][0]}; raise "
                "crf_search.trial_seconds if time was short, lower crf_search.processes if memory was"
            )
        best, finalists = _best_finalist(workers, maps, pairs, settings)

    difference = paired_difference(best_dice, best.dice, settings.seed)
    crf_is_better = difference.mean > 0 and (difference.significant or not choice.require_gain)
    return SearchResult(
        network_only=network_only,
        best_threshold=best_threshold,
        with_crf=best.postprocessing,
        chosen=best.postprocessing if crf_is_better else best_threshold,
        case_dice=pd.DataFrame(
            {
                "network_only": at_half,
                "best_threshold": best_dice,
                "with_crf": best.dice,
                "with_crf_brain": best.dice_brain,
            },
            index=pd.Index(names, name="case"),
        ),
        difference=difference,
        trials=trials,
        pairs=pairs,
        finalists=finalists,
    )


def _check(maps: Sequence[CaseProbability]) -> None:
    if not maps:
        raise DataError("no validation case to tune the postprocessing on: put at least one into the split")
    unlabelled = [entry.case.name for entry in maps if entry.case.native_label is None]
    if unlabelled:
        raise DataError(f"the postprocessing is tuned on labelled cases only, without a label: {unlabelled}")


def crf_case_of(entry: CaseProbability) -> CrfCase:
    """A labelled case as the workers take it."""
    case = entry.case
    assert case.label is not None  # it has one where it has a native label
    return CrfCase(case.name, entry.probability, case.image, case.brain, case.label, case.geometry.spacing_mm)


def _counted(cases: Sequence[CrfCase]) -> list[int] | None:
    """The cases with a lesion, for the search's Dice; all of them where there is none.

    The Dice of a case without a lesion is 0 or 1 and hangs on single voxels, which the smallest lesion removes
    later: with it in the mean, CRFs that erase most of a lesion win.
    """
    return [index for index, case in enumerate(cases) if case.lesion_voxels] or None


def _best_finalist(
    workers: CaseWorkers[CrfCase], maps: Sequence[CaseProbability], pairs: pd.DataFrame, settings: CrfSearchSettings
) -> tuple[Candidate, pd.DataFrame]:
    """The finalist with the highest mean Dice as served, and the table `finalists`."""
    candidates: list[Candidate] = []
    rows: list[dict[str, Any]] = []
    for crf in pick(pairs, settings.finalists):
        row: dict[str, Any] = {"state": FINISHED, **asdict(crf)}
        del row["region"]
        try:
            candidate = score(workers, maps, crf, settings.trial_seconds)
        except TaskFailed as failure:
            logger.warning("CRF search: the finalist %s failed: %s", crf, failure)
            row |= {"state": FAILED, "reason": str(failure)}
        else:
            candidates.append(candidate)
            cutoffs, dice = candidate.postprocessing, candidate.dice.mean()
            row |= {"threshold": cutoffs.threshold, "min_lesion_ml": cutoffs.min_lesion_ml, "dice": dice}
            row |= {"dice_brain": candidate.dice_brain.mean(), "reason": ""}
        rows.append(row)
    if not candidates:
        raise DataError(f"all {len(rows)} finalists of the CRF search failed, the first one: {rows[0]['reason']}")
    return max(candidates, key=lambda candidate: candidate.dice.mean()), pd.DataFrame(rows)
