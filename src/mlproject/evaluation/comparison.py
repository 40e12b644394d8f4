"""Models on the same cases, or variants of one: how they differ, and which differences are significant."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from mlproject.evaluation.metrics import METRICS, Metric
from mlproject.evaluation.statistics import PairedDifference, corrected_together, paired_difference
from mlproject.evaluation.wording import heading, number

A, B = "A", "B"


@dataclass(frozen=True)
class MetricDifference:
    """How A differs from B in one metric.

    Attributes:
        metric: which.
        mean_a: mean of A over the pairs; NaN without pairs.
        mean_b: the same of B.
        difference: A minus B, over the cases where both are defined; p corrected for the number of metrics.
        undefined: cases left out because the metric is undefined for A or for B.
    """

    metric: Metric
    mean_a: float
    mean_b: float
    difference: PairedDifference
    undefined: int

    @property
    def better(self) -> str:
        """A, B, or "" where the difference is not significant."""
        if not self.difference.significant:
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
            "corrected_p": found.corrected_p,
            "significant": found.significant,
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
    each_alone = {
        metric: paired_difference(b.loc[both, metric.name].to_numpy(), a.loc[both, metric.name].to_numpy())
        for metric, both in pairs.items()
    }
    differences = corrected_together(each_alone)
    return [
        MetricDifference(
            metric=metric,
            mean_a=float(a.loc[both, metric.name].mean()),
            mean_b=float(b.loc[both, metric.name].mean()),
            difference=differences[metric],
            undefined=int(np.count_nonzero(~both)),
        )
        for metric, both in pairs.items()
    ]


def dice_differences(tables: Mapping[str, pd.DataFrame]) -> dict[str, PairedDifference]:
    """Such as "with CRF against network": every two variants in Dice, which is defined in all cases.

    Args:
        tables: variant → per-case table, the same cases in the same order.
    """
    each_alone = {
        f"{b} against {a}": paired_difference(tables[a]["dice"].to_numpy(), tables[b]["dice"].to_numpy())
        for a, b in combinations(tables, 2)
    }
    return corrected_together(each_alone)


def in_words(found: list[MetricDifference]) -> list[str]:
    """What is significant and what is not, in sentences."""
    most = max((one.difference for one in found), key=lambda difference: difference.cases)
    if most.cases < 2:
        return [f"{most.cases} case(s): too few to judge."]
    if all(one.difference.too_few for one in found):
        return [
            f"With {most.cases} cases and {most.tests} metrics tested at once no difference can be significant: the "
            f"smallest corrected p that Wilcoxon's test can give is {most.smallest_p:.3g}."
        ]
    sentences = [
        f"{one.better} is significantly better in {one.metric.title}: {_values(one)}." for one in found if one.better
    ]
    too_few = [one.metric.title for one in found if one.difference.too_few]
    others = [one.metric.title for one in found if not one.better and not one.difference.too_few]
    if others:
        sentences.append(f"No significant difference in {', '.join(others)}.")
    if too_few:
        sentences.append(f"Too few cases for any difference to be significant in {', '.join(too_few)}.")
    return sentences


def disagreement(tables: Mapping[str, pd.DataFrame]) -> pd.Series:
    """Dice of A minus Dice of B, by case, the largest disagreement first."""
    a, b = (tables[name].set_index("case")["dice"] for name in (A, B))
    gap = a - b.loc[a.index]
    return gap.sort_values(key=lambda values: -values.abs(), kind="stable")


def _values(one: MetricDifference) -> str:
    metric, difference = one.metric, one.difference
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{number(one.mean_a, metric)} (A) against {number(one.mean_b, metric)} (B){unit}, difference "
        f"{signed(difference.mean, metric)} (95 % interval {signed(difference.low, metric)} to "
        f"{signed(difference.high, metric)}; corrected p = {difference.corrected_p:.2g}; {difference.cases} cases)"
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
        meaning = "too few cases" if difference.too_few else "not significant"
        left_out = f"{difference.cases} cases" + (f", undefined in {one.undefined}" if one.undefined else "")
        interval = f"({signed(difference.low, metric)} to {signed(difference.high, metric)})"
        lines.append(
            [
                (heading(metric), left_out),
                number(one.mean_a, metric),
                number(one.mean_b, metric),
                (signed(difference.mean, metric), interval),
                f"{difference.wilcoxon_p:.2g}" if difference.cases else "–",
                f"{difference.corrected_p:.2g}" if difference.cases else "–",
                f"{one.better} is better" if one.better else meaning,
            ]
        )
    return lines
