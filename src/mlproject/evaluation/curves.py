"""Are the probabilities true, and what would another threshold do? Curves from counts that single cases leave.

A whole data set's probabilities do not fit into memory. So each case leaves a histogram of its voxels by
probability and label, and all curves, with their intervals over the cases, are made of these.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

BINS = 100
"""Of the histograms: as wide as one hundredth of probability."""
RELIABILITY_BINS = 10
FEWEST_CASES = 5
"""Fewer cases with voxels in a bin have no interval: drawn again and again, they only repeat themselves."""
SUSPICIOUS = 0.01
"""Most brain voxels are far from any lesion and easy; from this probability on, the network sees something."""
RESAMPLES = 1000
_EDGES = (np.arange(1, BINS) / BINS).astype(np.float32)  # as a mask compares: float32 with a float

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProbabilityCounts:
    """The voxels of one case by probability: bin b holds b/100 <= p < (b+1)/100, the last one p = 1, too.

    Attributes:
        healthy: (BINS,) voxels outside the reference.
        lesion: (BINS,) voxels of the reference.
        probability_sum: (BINS,) sum of the probabilities of both.
    """

    healthy: Counts
    lesion: Counts
    probability_sum: Floats


def count_probabilities(
    probability: npt.NDArray[np.float32], reference: npt.NDArray[np.uint8], brain: npt.NDArray[np.bool_]
) -> ProbabilityCounts:
    """Count the brain's voxels, and the few outside its mask that are lesion or have a probability above 0.

    Args:
        probability: (I, J, K) in [0, 1].
        reference: (I, J, K) expert mask {0, 1}.
        brain: (I, J, K).
    """
    lesion = reference == 1
    counted = brain | lesion | (probability > 0)
    healthy, positive = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    sums = np.zeros(BINS)
    for inside, counts in ((counted & ~lesion, healthy), (lesion, positive)):
        values = probability[inside]
        seen = values[values >= _EDGES[0]]  # few: the rest need not be sorted into bins
        bins = np.searchsorted(_EDGES, seen, side="right")
        counts += np.bincount(bins, minlength=BINS)
        counts[0] += len(values) - len(seen)
        sums += np.bincount(bins, weights=seen, minlength=BINS)
        sums[0] += float(values.sum(dtype=np.float64)) - float(seen.sum(dtype=np.float64))
    return ProbabilityCounts(healthy, positive, sums)


def dice_at_thresholds(counts: Sequence[ProbabilityCounts]) -> tuple[Floats, Floats]:
    """The Dice that each threshold would have given, without removal of small lesions.

    Returns:
        The thresholds 0.01 ... 0.99, and Dice (cases, thresholds); 1 where neither has a lesion, as in METRICS.
    """
    healthy, lesion = (np.array([getattr(case, name) for case in counts]) for name in ("healthy", "lesion"))
    overlap, wrong = (np.cumsum(part[:, ::-1], axis=1)[:, ::-1][:, 1:] for part in (lesion, healthy))
    voxels = overlap + wrong + lesion.sum(axis=1, keepdims=True)
    dice = np.where(voxels > 0, 2 * overlap / np.maximum(voxels, 1), 1.0)
    return np.arange(1, BINS) / BINS, dice


def threshold_curve(counts: Sequence[ProbabilityCounts]) -> pd.DataFrame:
    """Mean Dice over the cases at each threshold.

    Returns:
        The columns threshold, dice, low and high (95 % bootstrap interval over the cases, NaN for fewer than two).
    """
    thresholds, dice = dice_at_thresholds(counts)
    low, high = _interval(lambda draw: dice[draw].mean(axis=0), len(counts))
    return pd.DataFrame({"threshold": thresholds, "dice": dice.mean(axis=0), "low": low, "high": high})


def reliability(counts: Sequence[ProbabilityCounts]) -> pd.DataFrame:
    """The reliability curve: the share of lesion among the voxels called p (DeGroot and Fienberg 1983).

    Returns:
        One row for each of ten equal bins of probability, with the columns low_probability, high_probability,
        voxels, mean_probability, lesion_share, and low and high (95 % bootstrap interval of that share, drawing whole
        cases: the voxels of one case are not independent; NaN where fewer than FEWEST_CASES have voxels in the bin).
        NaN where a bin is empty.
    """
    voxels, lesion, sums = _pooled(counts)
    with np.errstate(invalid="ignore"):
        ends = _interval(lambda draw: lesion[draw].sum(axis=0) / voxels[draw].sum(axis=0), len(counts))
        enough = np.count_nonzero(voxels, axis=0) >= FEWEST_CASES
        low, high = (np.where(enough, end, np.nan) for end in ends)
        edges = np.arange(RELIABILITY_BINS + 1) / RELIABILITY_BINS
        return pd.DataFrame(
            {
                "low_probability": edges[:-1],
                "high_probability": edges[1:],
                "voxels": voxels.sum(axis=0),
                "mean_probability": sums.sum(axis=0) / voxels.sum(axis=0),
                "lesion_share": lesion.sum(axis=0) / voxels.sum(axis=0),
                "low": low,
                "high": high,
            }
        )


def expected_calibration_error(counts: Sequence[ProbabilityCounts], at_least: float = 0.0) -> float:
    """ECE (Guo et al. 2017): over ten equal bins, the mean of |share of lesion - mean probability|, weighted by voxels.

    Args:
        counts: of all cases, which are pooled.
        at_least: voxels below this probability are left out; a multiple of 0.01.

    Returns:
        Between 0 (the probabilities are true) and 1; NaN where no voxel is left.
    """
    kept = np.arange(BINS) >= round(at_least * BINS)
    kept_counts = [ProbabilityCounts(c.healthy * kept, c.lesion * kept, c.probability_sum * kept) for c in counts]
    voxels, lesion, sums = (part.sum(axis=0) for part in _pooled(kept_counts))
    return float(abs(lesion - sums).sum() / voxels.sum()) if voxels.sum() else float("nan")


def _pooled(counts: Sequence[ProbabilityCounts]) -> tuple[Floats, Floats, Floats]:
    """Voxels, lesion voxels and sums of probability, each (cases, RELIABILITY_BINS)."""

    def coarse(parts: list[npt.NDArray[np.generic]]) -> Floats:
        tenths: Floats = np.array(parts, dtype=np.float64).reshape(len(parts), RELIABILITY_BINS, -1).sum(axis=2)
        return tenths

    lesion = coarse([case.lesion for case in counts])
    return coarse([case.healthy for case in counts]) + lesion, lesion, coarse([c.probability_sum for c in counts])


def _interval(statistic: Callable[[Counts], Floats], cases: int) -> tuple[Floats | float, Floats | float]:
    """Ends of the 95 % percentile bootstrap interval of a curve, drawing cases with replacement."""
    if cases < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(cases, size=(RESAMPLES, cases))
    curves = np.array([statistic(draw) for draw in draws])
    with warnings.catch_warnings():  # a bin that is empty in every draw is NaN, which it may be
        warnings.simplefilter("ignore", RuntimeWarning)
        ends: Floats = np.nanpercentile(curves, (2.5, 97.5), axis=0)
    return ends[0], ends[1]
