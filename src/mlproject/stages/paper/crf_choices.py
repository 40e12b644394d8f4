"""The ways of postprocessing that claim 3 compares, what of them was chosen, and how that is said."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data.preprocessing import to_native
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import NEIGHBOURS_26, Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper.measuring import Mask, metrics_of
from mlproject.tuning.crf_space import MIN_LESION_ML, THRESHOLDS, WEIGHTS

THRESHOLD, LARGEST = "best threshold", "largest component"
PUBLISHED, GAUSSIAN = "the paper's CRF, as published", "Gaussian term, tuned"
BILATERAL = "Gaussian + bilateral term, tuned"
PUBLISHED_VOXELS, PUBLISHED_WEIGHT, PUBLISHED_ITERATIONS = 2.0, 2.0, 5


def as_published(cases: list[CaseProbability]) -> Postprocessing:
    """The paper's CRF at test time: its Gaussian term alone, 2 voxels wide; of the cases' mean voxel size in mm."""
    voxel_mm = float(np.mean([entry.case.geometry.spacing_mm for entry in cases]))
    crf = CrfSettings(
        theta_gamma_mm=PUBLISHED_VOXELS * voxel_mm,
        weight_gaussian=PUBLISHED_WEIGHT,
        weight_bilateral=0.0,
        iterations=PUBLISHED_ITERATIONS,
    )
    return Postprocessing(crf=crf)


def best_threshold_for_largest(validation: list[CaseProbability]) -> float:
    """The threshold with the highest mean Dice of the largest component; among equals the one nearest to 0.5."""

    def dice(threshold: float) -> float:
        values = [metrics_of(entry, largest_above(entry, threshold))["dice"] for entry in validation]
        return float(np.mean(np.array(values, dtype=float)))

    return max(sorted(THRESHOLDS, key=lambda threshold: abs(threshold - 0.5)), key=dice)


def largest_above(entry: CaseProbability, threshold: float) -> Mask:
    """The largest component alone of what is at a threshold or above, on the case's own grid."""
    return largest(to_native(entry.probability, entry.case.geometry) >= threshold)


def largest(mask: NDArray[np.bool_]) -> Mask:
    """The largest 26-connected component alone, which Monteiro and Oliveira's later code keeps."""
    components, count = ndimage.label(mask, NEIGHBOURS_26)
    if count == 0:
        return mask.astype(np.uint8)
    return np.asarray(components == 1 + np.bincount(components.ravel())[1:].argmax(), dtype=np.uint8)


def choice_in_words(chosen: Postprocessing) -> str:
    """Weights, reach, iterations and cut-offs."""
    text = f"threshold {chosen.threshold:g}, smallest lesion {chosen.min_lesion_ml:g} ml"
    crf: CrfSettings | None = chosen.crf
    if crf is None:
        return text
    bilateral = (
        f", bilateral {crf.weight_bilateral:g} over {crf.theta_alpha_mm:.3g} mm and {crf.theta_beta:.3g} z-scores"
    )
    return (
        f"Gaussian {crf.weight_gaussian:g} over {crf.theta_gamma_mm:.3g} mm{bilateral * bool(crf.weight_bilateral)}, "
        f"{crf.iterations} iterations; {text}"
    )


def at_the_ends(chosen: Postprocessing, most_iterations: int) -> str:
    """Which cut-offs, weights and iterations are the lowest or highest tried, in words; "" where none is.

    A smallest lesion of 0 ml, which is none, does not count.
    """
    tried: dict[str, tuple[float, Sequence[float]]] = {
        "threshold": (chosen.threshold, THRESHOLDS),
        "smallest lesion in ml": (chosen.min_lesion_ml, MIN_LESION_ML[-1:]),
    }
    if crf := chosen.crf:
        beside = [pair for pair in WEIGHTS if bool(pair[1]) == bool(crf.weight_bilateral)]
        tried["Gaussian weight"] = (crf.weight_gaussian, [gaussian for gaussian, _ in beside])
        if crf.weight_bilateral:
            tried["bilateral weight"] = (crf.weight_bilateral, [bilateral for _, bilateral in beside])
        tried["iterations"] = (crf.iterations, [1, most_iterations])
    return ", ".join(f"{name} {value:g}" for name, (value, all_) in tried.items() if value in (min(all_), max(all_)))
