"""Confidence intervals over cases, and the paired comparison of two variants on the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = Sequence[float] | npt.NDArray[np.floating]
Key = TypeVar("Key")
LEVEL = 0.05


def bootstrap_interval(
    values: Values, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, resampling cases (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: one finite number a case. Leaving undefined cases out, and saying how many, is the caller's.
        seed: the same seed gives the same interval.
        resamples: how often the cases are drawn with replacement.
        level: probability that the interval holds, between 0 and 1.

    Returns:
        Its lower and upper end; (nan, nan) for fewer than two cases, which say nothing about their spread.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("bootstrap_interval got NaN or infinite values: leave undefined cases out and count them")
    if len(values) < 2:
        return (float("nan"), float("nan"))
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        batch=1000,  # bounds the memory for thousands of cases
        rng=seed,
    ).confidence_interval
    return (float(interval.low), float(interval.high))


@dataclass(frozen=True)
class PairedDifference:
    """How much better (or worse) a second variant does than a first one on the same cases.

    Attributes:
        cases: number of pairs.
        mean: mean of second minus first; NaN without cases.
        low: lower end of the 95 % bootstrap interval of the mean; NaN for fewer than two cases.
        high: upper end of that interval.
        wilcoxon_p: two-sided p of Wilcoxon's signed-rank test, pairs without a difference left out;
            1 where no pair differs, NaN without cases.
        tests: how many differences are tested at once, this one included.
        corrected_p: wilcoxon_p corrected for that number by Holm's method.
    """

    cases: int
    mean: float
    low: float
    high: float
    wilcoxon_p: float
    tests: int
    corrected_p: float

    @property
    def significant(self) -> bool:
        """Whether both say so: zero lies outside the interval, and the corrected p is below 0.05.

        The bootstrap alone is too sure of itself on a handful of cases; five pairs that all agree have an
        exact p of 0.0625.
        """
        return (self.low > 0 or self.high < 0) and self.corrected_p < LEVEL

    @property
    def smallest_p(self) -> float:
        """The corrected p if all cases agreed, and no other of the tests had a smaller one."""
        return min(self.tests * 2.0 ** (1 - self.cases), 1.0)

    @property
    def too_few(self) -> bool:
        """Whether so few cases could not show any difference to be significant, however large."""
        return not self.significant and self.smallest_p >= LEVEL


def paired_difference(a: Values, b: Values, seed: int = 0) -> PairedDifference:
    """Compare variant `b` with variant `a`: positive where `b` is larger.

    Args:
        a: one finite number a case.
        b: the same cases in the same order.
        seed: of the bootstrap over the differences.

    Raises:
        ValueError: the two differ in length, or a difference is NaN or infinite.
    """
    if len(a) != len(b):
        raise ValueError(f"paired_difference needs the same cases on both sides, got {len(a)} and {len(b)}")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    low, high = bootstrap_interval(differences, seed)
    p = _wilcoxon_p(differences) if len(differences) else float("nan")
    return PairedDifference(
        cases=len(differences),
        mean=float(differences.mean()) if len(differences) else float("nan"),
        low=low,
        high=high,
        wilcoxon_p=p,
        tests=1,
        corrected_p=p,
    )


def _wilcoxon_p(differences: npt.NDArray[np.float64]) -> float:
    # Zeros are left out here: among them, scipy takes the normal approximation for even a handful of differences.
    differing = differences[differences != 0]
    return float(stats.wilcoxon(differing).pvalue) if len(differing) else 1.0


def paired_t_p(a: Values, b: Values) -> float:
    """Two-sided p of the paired t-test (Student 1908): for the few repetitions of a training, one pair a seed.

    It takes the differences for normally distributed, which a handful of them cannot show; a test without that
    assumption cannot come below 0.25 on three pairs. 1 where no pair differs, NaN for fewer than two pairs.

    Raises:
        ValueError: the two differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"paired_t_p needs pairs, got {len(a)} and {len(b)} numbers")
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    if len(differences) < 2:
        return float("nan")
    spread = differences.std(ddof=1) / np.sqrt(len(differences))
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(2 * stats.t.sf(abs(differences.mean() / spread), len(differences) - 1))


def t_interval(values: Values, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean (1908), for the few repetitions of a training; it takes them for normal.

    (nan, nan) for fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return (float("nan"), float("nan"))
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return (float(values.mean() - reach), float(values.mean() + reach))


def corrected_together(differences: Mapping[Key, PairedDifference]) -> dict[Key, PairedDifference]:
    """The same differences, their p values corrected for each other; one without cases is no test."""
    tested = [key for key, difference in differences.items() if difference.cases]
    adjusted = dict(zip(tested, holm([differences[key].wilcoxon_p for key in tested]).tolist(), strict=True))
    return {
        key: replace(difference, tests=len(tested), corrected_p=adjusted.get(key, float("nan")))
        for key, difference in differences.items()
    }


def holm(p_values: Values) -> npt.NDArray[np.float64]:
    """P values adjusted for being several tests at once (Holm 1979): compare them with the level of one test.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than the one before
    it, or larger than 1. The chance of any false alarm among the tests is then at most the level.

    Args:
        p_values: one p a test, in [0, 1].

    Returns:
        The adjusted p values in the same order.

    Raises:
        ValueError: a value is not a number in [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"holm got {p.tolist()}: p values lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
