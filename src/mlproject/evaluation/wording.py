"""How results are put into words and numbers, for the page and the terminal alike."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from mlproject.evaluation.metrics import METRICS, Metric
from mlproject.evaluation.statistics import PairedDifference


def verdict(name: str, difference: PairedDifference) -> str:
    """The paired difference in one sentence: how much, how sure, and whether it is significant."""
    if difference.cases < 2:
        return f"{name}: {difference.mean:+.3f} Dice on {difference.cases} case(s), too few to judge."
    judgement = "not statistically significant"
    if difference.significant:
        judgement = "significantly " + ("better" if difference.mean > 0 else "worse")
    elif difference.too_few:
        judgement = f"too few to be significant (p cannot be below {difference.smallest_p:.2g})"
    p = f"Wilcoxon p = {difference.corrected_p:.2g}"
    if difference.tests > 1:
        p += f", corrected for {difference.tests} comparisons"
    return (
        f"{name}: {difference.mean:+.3f} Dice "
        f"(95 % interval {difference.low:+.3f} to {difference.high:+.3f}; "
        f"{p}; {difference.cases} cases), {judgement}."
    )


def false_alarms(tables: Mapping[str, pd.DataFrame]) -> str:
    """How often, and how much, each variant predicts in the cases without a lesion, in one sentence."""
    parts = []
    for variant, table in tables.items():
        free = table[table["reference_ml"] == 0]
        if free.empty:
            return "Every case has a lesion."
        alarms = free.loc[free["prediction_ml"] > 0, "prediction_ml"]
        volume = f" (up to {alarms.max():.2f} ml)" if len(alarms) else ""
        parts.append(f"{variant} {len(alarms)}{volume}")
    return f"False alarms in the {len(free)} case(s) without a lesion: {', '.join(parts)}."


def missing_channels(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What single variants had to do without, a sentence for each that lacked a channel in any case."""
    sentences = []
    for variant, table in tables.items():
        lacking = table.loc[table["missing"] != "", "missing"] if "missing" in table else pd.Series(dtype=str)
        if len(lacking):
            which = ", ".join(f"{count} without {channels}" for channels, count in lacking.value_counts().items())
            sentences.append(
                f"{variant} lacked channels in {len(lacking)} of {len(table)} cases ({which}): they were zero to it."
            )
    return sentences


def seen_cases(seen: Mapping[str, int], cases: int) -> list[str]:
    """That a result is no estimate, where any of the models measured has seen any of the cases.

    Args:
        seen: what a model is called in a sentence → how many of the cases it was trained or tuned on.
        cases: how many were measured.
    """
    parts = [f"{model} was trained or tuned on {count}" for model, count in seen.items() if count]
    if not parts:
        return []
    return [f"Not an estimate for new patients: {' and '.join(parts)} of the {cases} cases measured."]


def scans_of_one_patient(patients: Sequence[str]) -> list[str]:
    """That intervals and p values are too sure of themselves, where patients have several of the cases measured.

    Args:
        patients: whom each of the cases shows.
    """
    if (count := len(set(patients))) == len(patients):
        return []
    return [
        f"The {len(patients)} cases are of {count} patient{'s' if count > 1 else ''}: intervals and p values take "
        "cases for independent, which scans of one patient are not, so the intervals are too narrow and the p values "
        "too small."
    ]


def summary_table(summaries: Mapping[str, pd.DataFrame], title: str = "") -> Table:
    """The table for the terminal: one row a variant, mean and 95 % interval of the three main metrics.

    Args:
        summaries: variant → what `summarise` returns; one group of what `summarise_groups` returns.
        title: printed above, such as the group's name and the number of cases.
    """
    metrics = [m for m in METRICS if m.name in ("dice", "lesion_f1", "volume_difference_ml")]
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for metric in metrics:
        table.add_column(Text(heading(metric)), justify="right")
    for variant, summary in summaries.items():
        pairs = (mean_and_interval(summary, metric) for metric in metrics)
        # To fit into 80 columns.
        cells = [f"{mean} {interval.replace(' to ', '–')}".rstrip() for mean, interval in pairs]
        table.add_row(Text(variant), *cells)
    return table


def heading(metric: Metric) -> str:
    """The metric's title with its unit."""
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def number(value: float, metric: Metric) -> str:
    """A value with the digits that its unit deserves; a dash where it is undefined."""
    if math.isnan(value):
        return "–"
    if metric.unit == "lesions":
        return f"{round(value, 2):g}"
    return f"{value:.2f}" if metric.unit else f"{value:.3f}"


def mean_and_interval(summary: pd.DataFrame, metric: Metric) -> tuple[str, str]:
    """The mean, and its interval in brackets ("" where there is none), of one row of what `summarise` returns."""
    row = summary.to_dict("index")[metric.name]
    interval = f"({number(row['low'], metric)} to {number(row['high'], metric)})"
    return number(row["mean"], metric), "" if math.isnan(row["low"]) else interval
