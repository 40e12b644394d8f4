"""The report's curves: made from what the cases left, drawn, and put into words and plain values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlproject.evaluation import curve_figures, curves, figures
from mlproject.evaluation.curves import ProbabilityCounts
from mlproject.evaluation.gathering import Gathered
from mlproject.evaluation.metrics import ALL_CASES, LESION_CASES
from mlproject.evaluation.palette import variant_colours
from mlproject.prediction.postprocessing import Postprocessing

Calibrations = Mapping[str, tuple[pd.DataFrame, float, float]]
"""Names of variants → reliability curve, ECE, and ECE of the suspicious voxels."""


def calibrations(counts: Mapping[str, list[ProbabilityCounts]]) -> Calibrations:
    """Reliability curve, ECE, and ECE of the suspicious voxels, of each probability there is.

    Variants that only cut the same probability at another threshold come once, under their names together.
    """
    groups: list[tuple[list[str], list[ProbabilityCounts]]] = []
    for variant, own in counts.items():
        for names, known in groups:
            if _same(own, known):
                names.append(variant)
                break
        else:
            groups.append(([variant], own))
    ece = curves.expected_calibration_error
    return {", ".join(names): (curves.reliability(own), ece(own), ece(own, curves.SUSPICIOUS)) for names, own in groups}


def _same(some: list[ProbabilityCounts], others: list[ProbabilityCounts]) -> bool:
    return all(np.array_equal(a.probability_sum, b.probability_sum) for a, b in zip(some, others, strict=True))


def calibration_words(calibration: Calibrations) -> str:
    """The expected calibration errors and what they are."""
    values = "; ".join(
        f"{name}: {everywhere:.4f} over all brain voxels, {suspicious:.3f} over those of probability "
        f"{curves.SUSPICIOUS:g} or more"
        for name, (_, everywhere, suspicious) in calibration.items()
    )
    return (
        f"Expected calibration error (Guo et al. 2017: voxels in ten equal bins of probability; the mean of |share of "
        f"lesion − mean probability|, weighted by the bins' voxels). {values}. Nearly all brain voxels are far from "
        "any lesion and easy, so the first number is small for every model."
    )


def threshold_curves(gathered: Gathered, chosen: str) -> dict[str, pd.DataFrame]:
    """Of both groups of cases for the chosen variant, and of those with a lesion for the first one, the network."""
    volumes = gathered.tables[chosen]["reference_ml"]

    def with_lesion(variant: str) -> list[ProbabilityCounts]:
        return [one for one, volume in zip(gathered.counts[variant], volumes, strict=True) if volume > 0]

    groups = {ALL_CASES: gathered.counts[chosen], LESION_CASES: with_lesion(chosen)}
    network = next(iter(gathered.counts))
    if not _same(gathered.counts[network], gathered.counts[chosen]):
        groups[f"{LESION_CASES}, {network}"] = with_lesion(network)
    return {name: curves.threshold_curve(own) for name, own in groups.items() if own}


def draw(
    gathered: Gathered,
    sizes: pd.DataFrame,
    thresholding: Mapping[str, pd.DataFrame],
    calibration: Calibrations,
    postprocessing: Postprocessing,
    chosen: str,
) -> dict[str, bytes]:
    """Title → PNG of each figure; `postprocessing` is that of the chosen variant."""
    table = gathered.tables[chosen]
    means = {ALL_CASES: table["dice"].mean(), LESION_CASES: table.loc[table["reference_ml"] > 0, "dice"].mean()}
    marked = [(name, postprocessing.threshold, float(means[name])) for name in means if name in thresholding]
    mark = "chosen, small lesions removed" if postprocessing.min_lesion_ml else "chosen"
    colours = variant_colours(list(gathered.tables), gathered.shown)
    drawn = {
        "Dice of each case": figures.paired_dots(gathered.tables),
        "Dice against lesion volume": figures.dice_against_volume(table),
        "Agreement of the volumes": curve_figures.bland_altman(table),
        "Lesions found by size": curve_figures.detection(sizes, colours),
        "Calibration": curve_figures.reliability({n: curve for n, (curve, _, _) in calibration.items()}, colours),
        "Dice over the threshold": curve_figures.threshold_curves(thresholding, marked, mark),
    }
    return {name: figures.to_png(figure) for name, figure in drawn.items()}


def as_dict(
    sizes: pd.DataFrame,
    thresholding: Mapping[str, pd.DataFrame],
    calibration: Calibrations,
    chosen: str,
) -> dict[str, Any]:
    """All curves as plain values, for curves.json."""
    return {
        "lesions_by_size": sizes.to_dict("records"),
        "dice_over_threshold": {"variant": chosen} | {n: curve.to_dict("list") for n, curve in thresholding.items()},
        "calibration": {
            name: {
                "reliability": curve.to_dict("records"),
                "expected_calibration_error": everywhere,
                "expected_calibration_error_suspicious": suspicious,
            }
            for name, (curve, everywhere, suspicious) in calibration.items()
        },
    }


def explanations(postprocessing: Postprocessing, origin: str) -> dict[str, str]:
    """Title of each figure → how to read it; `postprocessing` is that of the chosen variant, from `origin`."""
    mark = f"The mark is the one in use, {postprocessing.threshold:g}, {origin}"
    if postprocessing.min_lesion_ml:
        mark += f"; it includes the removal of lesions below {postprocessing.min_lesion_ml:g} ml, the curves do not"
    threshold = f"What another threshold would have given on these cases. {mark}. Bands: 95 % bootstrap interval."
    return EXPLANATIONS | {"Dice over the threshold": threshold}


EXPLANATIONS = {
    "Dice of each case": "A line joins the same case under each variant; the diamonds are the means.",
    "Dice of A against Dice of B": "Above the diagonal, A is better. Larger dots are larger lesions.",
    "Dice against lesion volume": "Small lesions lose Dice with every voxel that is wrong.",
    "Agreement of the volumes": "Bland and Altman (1986). Above zero, the model sees too much. The limits of agreement "
    "(bias ± 1.96 standard deviations) hold about 95 % of the cases where the differences are normally distributed.",
    "Lesions found by size": "A lesion of the reference (a 26-connected component) is found where the prediction has a "
    "voxel in common with it; a predicted one that touches none is a false alarm. Bars: 95 % Wilson interval, which "
    "takes lesions as independent; those of one patient are not quite.",
    "Calibration": "Of all brain voxels that the model calls p, the share that is lesion. Bars: 95 % bootstrap "
    f"interval over the cases; none where fewer than {curves.FEWEST_CASES} cases have such voxels.",
}
