"""Two models on the same cases: how they differ in each metric, and which differences are significant."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlproject.evaluation.metrics import METRICS, Metric
from mlproject.evaluation.statistics import PairedDifference, holm, paired_difference
from mlproject.evaluation.wording import heading, number

A, B = "A", "B"
LEVEL = 0.05


@dataclass(frozen=True)
class MetricDifference:
    """How A differs from B in one metric.

    Attributes:
        metric: which.
        mean_a: mean of A over the pairs; NaN without pairs.
        mean_b: the same of B.
        difference: A minus B, over the cases where both are defined.
        holm_p: its Wilcoxon p, adjusted for the number of metrics compared (Holm 1979); NaN without pairs.
        undefined: cases left out because the metric is undefined for A or for B.
    """

    metric: Metric
    mean_a: float
    mean_b: float
    difference: PairedDifference
    holm_p: float
    undefined: int

    @property
    def significant(self) -> bool:
        """Whether zero lies outside the bootstrap interval and the adjusted p is below 0.05."""
        return (self.difference.low > 0 or self.difference.high < 0) and self.holm_p < LEVEL

    @property
    def better(self) -> str:
        """A, B, or "" where the difference is not significant."""
        if not self.significant:
            return ""
        return A if (self.difference.mean > 0) == (self.metric.better == "higher") else B

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for tables and JSON."""
        found = self.difference
        return {
            "metric": self.metric.name,
            "cases": found.cases,
            "undefined": self.undefined,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "wilcoxon_p": found.wilcoxon_p,
            "holm_p": self.holm_p,
            "significant": self.significant,
            "better": self.better,
        }


def compare(tables: Mapping[str, pd.DataFrame]) -> list[MetricDifference]:
    """Compare the per-case tables of A and B in each of METRICS, paired by case.

    Raises:
        ValueError: the two do not hold the same cases.
    """
    a, b = (tables[name].set_index("case") for name in (A, B))
    if set(a.index) != set(b.index) or len(a) != len(b):
        raise ValueError("A and B do not hold the same cases")
    b = b.loc[a.index]
    pairs = {metric: (a[metric.name].notna() & b[metric.name].notna()).to_numpy() for metric in METRICS}
    differences = {
        metric: paired_difference(b.loc[both, metric.name].to_numpy(), a.loc[both, metric.name].to_numpy())
        for metric, both in pairs.items()
    }
    tested = [metric for metric in METRICS if pairs[metric].any()]
    adjusted = dict(zip(tested, holm([differences[m].wilcoxon_p for m in tested]).tolist(), strict=True))
    return [
        MetricDifference(
            metric=metric,
            mean_a=float(a.loc[both, metric.name].mean()),
            mean_b=float(b.loc[both, metric.name].mean()),
            difference=differences[metric],
            holm_p=adjusted.get(metric, math.nan),
            undefined=int(np.count_nonzero(~both)),
        )
        for metric, both in pairs.items()
    ]


def in_words(found: list[MetricDifference]) -> list[str]:
    """What is significant and what is not, in sentences."""
    cases = max((one.difference.cases for one in found), default=0)
    if cases < 2:
        return [f"{cases} case(s): too few to judge."]
    sentences = [
        f"{one.better} is significantly better in {one.metric.title}: {_values(one)}." for one in found if one.better
    ]
    others = [one.metric.title for one in found if not one.better]
    if others:
        sentences.append(f"No significant difference in {', '.join(others)}.")
    if cases < 6:
        sentences.append(
            f"With {cases} cases no difference can be significant: the smallest p of Wilcoxon's test is "
            f"{2 ** (1 - cases):.3g}."
        )
    return sentences


def disagreement(tables: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Dice of A minus Dice of B, by case, the largest disagreement first."""
    a, b = (tables[name].set_index("case")["dice"] for name in (A, B))
    gap = a - b.loc[a.index]
    return gap.sort_values(key=lambda values: -values.abs(), kind="stable")


def _values(one: MetricDifference) -> str:
    unit = f" {one.metric.unit}" if one.metric.unit else ""
    return (
        f"{number(one.mean_a, one.metric)} (A) against {number(one.mean_b, one.metric)} (B){unit}, difference "
        f"{signed(one.difference.mean, one.metric)} (95 % interval {signed(one.difference.low, one.metric)} to "
        f"{signed(one.difference.high, one.metric)}; corrected p = {one.holm_p:.2g}; {one.difference.cases} cases)"
    )


def signed(value: float, metric: Metric) -> str:
    """A difference with its sign and the metric's digits; a dash where it is undefined."""
    if math.isnan(value):
        return "–"
    return f"{value:+.2f}" if metric.unit else f"{value:+.3f}"


def rows(found: list[MetricDifference]) -> list[list[str | tuple[str, str]]]:
    """The table of all metrics: metric, A, B, difference with its interval, p, corrected p, and what that means."""
    lines: list[list[str | tuple[str, str]]] = []
    for one in found:
        metric, difference = one.metric, one.difference
        left_out = f"{difference.cases} cases" + (f", undefined in {one.undefined}" if one.undefined else "")
        interval = f"({signed(difference.low, metric)} to {signed(difference.high, metric)})"
        lines.append(
            [
                (heading(metric), left_out),
                number(one.mean_a, metric),
                number(one.mean_b, metric),
                (signed(difference.mean, metric), interval),
                "–" if math.isnan(one.holm_p) else f"{difference.wilcoxon_p:.2g}",
                "–" if math.isnan(one.holm_p) else f"{one.holm_p:.2g}",
                f"{one.better} is better" if one.better else "not significant",
            ]
        )
    return lines
