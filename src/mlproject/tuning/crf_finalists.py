"""The best settings of the CRF search once more, as they are served: native grid, every cut-off, whole brain too."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlproject.data.preprocessing import to_native
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.case_workers import CaseWorkers, TaskFailed
from mlproject.tuning.crf_engine import CrfCase, refine_case
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS
from mlproject.tuning.cutoffs import best_cutoffs, dice_grid

logger = logging.getLogger(__name__)

PER_TRIAL = 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A postprocessing and its Dice on the native grid.

    Attributes:
        postprocessing: What is done to the network's probability.
        dice: (cases,) as served.
        dice_brain: (cases,) with the CRF on the whole brain and the same cut-offs; NaN where that failed.
    """

    postprocessing: Postprocessing
    dice: NDArray[np.float64]
    dice_brain: NDArray[np.float64]


def pick(pairs: pd.DataFrame, count: int) -> list[CrfSettings]:
    """The `count` best distinct settings of the table `pairs`, at most two of the same trial; the best first."""
    names = ["theta_gamma_mm", "theta_alpha_mm", "theta_beta", "weight_gaussian", "weight_bilateral", "iterations"]
    best = pairs.sort_values("dice", ascending=False, kind="stable").drop_duplicates(names)
    best = best[best.groupby("trial").cumcount() < PER_TRIAL].head(count)
    return [CrfSettings(**{str(name): value for name, value in row.items()}) for row in best[names].to_dict("records")]


def score(
    workers: CaseWorkers[CrfCase], maps: Sequence[CaseProbability], crf: CrfSettings, seconds: float
) -> Candidate:
    """This CRF with its best threshold and smallest lesion.

    Args:
        workers: They hold the same cases in the same order.
        maps: The cases.
        crf: As served, which is on the uncertain region.
        seconds: Time limit of each of the two runs over all cases.

    Raises:
        TaskFailed: It could not be applied as served. Where only the whole brain fails, it is a warning.
    """
    grids = _dice_grids(workers, maps, crf, seconds)
    row, column = best_cutoffs(grids.mean(axis=0))
    try:
        brain = _dice_grids(workers, maps, replace(crf, region="brain"), seconds)[:, row, column]
    except TaskFailed as failure:
        logger.warning("CRF search: on the whole brain, %s failed: %s", crf, failure)
        brain = np.full(len(maps), np.nan)
    postprocessing = Postprocessing(THRESHOLDS[row], MIN_LESION_ML[column], crf)
    return Candidate(postprocessing, grids[:, row, column], brain)


def native_dice_grid(probability: NDArray[np.float32], entry: CaseProbability) -> NDArray[np.float64]:
    """Dice (thresholds, smallest lesions) on the native grid of a probability (I, J, K) on the prepared grid."""
    geometry, label = entry.case.geometry, entry.case.native_label
    assert label is not None  # tune has seen to it
    return dice_grid(to_native(probability, geometry), label, geometry.native_voxel_ml)


def _dice_grids(
    workers: CaseWorkers[CrfCase], maps: Sequence[CaseProbability], crf: CrfSettings, seconds: float
) -> NDArray[np.float64]:
    """Dice (cases, thresholds, smallest lesions); this process scores a case while the workers refine the next."""
    refined = workers.run(partial(refine_case, crf=crf), seconds)
    grids = {index: native_dice_grid(probability, maps[index]) for index, probability in refined}
    return np.stack([grids[index] for index in range(len(maps))])
