"""What the parts of a study measure networks with: cut-offs from the validation cases, Dice of the test cases."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlproject.evaluation.metrics import case_metrics
from mlproject.evaluation.statistics import PairedDifference, bootstrap_interval, corrected_together, paired_difference
from mlproject.prediction.postprocessing import Postprocessing, apply
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper.finding import interval
from mlproject.stages.progress import track
from mlproject.tuning.crf_finalists import native_dice_grid
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS
from mlproject.tuning.cutoffs import best_cutoffs

Mask = NDArray[np.uint8]


def with_best_cutoffs(maps: Iterable[CaseProbability]) -> tuple[Postprocessing, float]:
    """Threshold and smallest lesion with the highest mean Dice on these cases, and that Dice."""
    grids = np.stack([native_dice_grid(entry.probability, entry) for entry in maps])
    row, column = best_cutoffs(grids.mean(axis=0))
    return Postprocessing(THRESHOLDS[row], MIN_LESION_ML[column]), float(grids[:, row, column].mean())


def measured(name: str, maps: list[CaseProbability], postprocessing: Postprocessing) -> pd.DataFrame:
    """One row a case: case, and all that `case_metrics` returns."""
    rows = []
    for entry in track(f"measuring {name}", maps, len(maps)):
        mask, _ = apply(entry.probability, entry.case, postprocessing)
        rows.append(metrics_of(entry, mask))
    return pd.DataFrame(rows)


def metrics_of(entry: CaseProbability, mask: Mask) -> dict[str, float | str]:
    """The row of one case: its name, and what `case_metrics` says of a mask on its own grid."""
    label = entry.case.native_label
    assert label is not None
    return {"case": entry.case.name, **case_metrics(label, mask, entry.case.geometry.native_spacing_mm)}


def dice_interval(table: pd.DataFrame) -> str:
    """Mean Dice of a table of cases with its bootstrap interval."""
    return interval(table["dice"].mean(), *bootstrap_interval(table["dice"].to_numpy()))


def differences(
    tables: Mapping[str, pd.DataFrame], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], PairedDifference]:
    """Dice of the second minus the first of each pair of variants, corrected for being several tests."""
    return corrected_together(
        {
            (against, name): paired_difference(tables[against]["dice"].to_numpy(), tables[name]["dice"].to_numpy())
            for against, name in pairs
        }
    )
