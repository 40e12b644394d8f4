"""The report of an evaluation: one HTML page that needs nothing else, and its numbers as CSV and JSON."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from mlproject.evaluation import html
from mlproject.evaluation.metrics import METRICS, Metric
from mlproject.evaluation.statistics import PairedDifference

Summaries = Mapping[str, Mapping[str, pd.DataFrame]]


def write_report(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    summaries: Summaries,
    differences: Mapping[str, PairedDifference],
    pictures: Mapping[str, Path | bytes],
    notes: Sequence[str],
    title: str,
    facts: Mapping[str, str],
    chosen: str,
) -> Path:
    """Write report.html (self-contained), per_case.csv, summary.csv and summary.json.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        tables: variant → per-case table (a column case and all that `case_metrics` returns), in the order
            in which to show them, such as network, best threshold, crf.
        summaries: what `summarise_groups` made of them.
        differences: what is compared, such as "crf against network" → its difference in Dice.
        pictures: title → PNG, as a file or its bytes.
        notes: sentences for the reader, such as cases that were left out.
        title: of the page.
        facts: name → value, such as the data set, its digest, the commit.
        chosen: the variant that the model uses; its metrics fill the table of cases.

    Returns:
        The path of report.html.

    Raises:
        ValueError: `chosen` is not one of the variants.
    """
    if chosen not in tables:
        raise ValueError(f"chosen={chosen!r} is not one of the variants: {', '.join(tables)}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder, tables, summaries)
    _write_json(
        folder / "summary.json",
        {
            "title": title,
            "facts": dict(facts),
            "chosen": chosen,
            "summaries": {
                group: {variant: table.to_dict("index") for variant, table in variants.items()}
                for group, variants in summaries.items()
            },
            "differences": {
                name: asdict(difference) | {"significant": difference.significant}
                for name, difference in differences.items()
            },
            "notes": list(notes),
        },
    )
    file = folder / "report.html"
    content = BODY.substitute(
        summaries="".join(_summary_html(group, variants, chosen) for group, variants in summaries.items()),
        false_alarms=escape(false_alarms(tables)),
        verdicts=_list_html([verdict(name, difference) for name, difference in differences.items()]),
        notes=_list_html(notes),
        pictures="".join(_picture_html(name, picture) for name, picture in pictures.items()),
        cases=_cases_html(tables, chosen),
        chosen=escape(chosen),
        definitions=_definitions_html(),
        facts=html.table(["", ""], list(facts.items())),
    )
    file.write_text(html.page(title, content, STYLE), encoding="utf-8")
    return file


def _write_csv(folder: Path, tables: Mapping[str, pd.DataFrame], summaries: Summaries) -> None:
    per_case = pd.concat(tables, names=["variant", "row"]).reset_index("variant")
    per_case.to_csv(folder / "per_case.csv", index=False)
    groups = {group: pd.concat(variants, names=["variant"]) for group, variants in summaries.items()}
    pd.concat(groups, names=["group"]).to_csv(folder / "summary.csv")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: null where a number is undefined."""
    text = json.dumps(_nan_as_none(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _nan_as_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_as_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def verdict(name: str, difference: PairedDifference) -> str:
    """The paired difference in one sentence: how much, how sure, and whether it is significant."""
    if difference.cases < 2:
        return f"{name}: {difference.mean:+.3f} Dice on {difference.cases} case(s), too few to judge."
    judgement = "not statistically significant"
    if difference.significant:
        judgement = "significantly " + ("better" if difference.mean > 0 else "worse")
    return (
        f"{name}: {difference.mean:+.3f} Dice "
        f"(95 % interval {difference.low:+.3f} to {difference.high:+.3f}; "
        f"Wilcoxon p = {difference.wilcoxon_p:.2g}; {difference.cases} cases), {judgement}."
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


def summary_table(summaries: Mapping[str, pd.DataFrame], title: str = "") -> Table:
    """The table for the terminal: one row a variant, mean and 95 % interval of the three main metrics.

    Args:
        summaries: variant → what `summarise` returns; one group of what `summarise_groups` returns.
        title: printed above, such as the group's name and the number of cases.
    """
    metrics = [m for m in METRICS if m.name in ("dice", "lesion_f1", "volume_difference_ml")]
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    for metric in metrics:
        table.add_column(Text(_heading(metric)), justify="right")
    for variant, summary in summaries.items():
        cells = [f"{mean} {interval}" for mean, interval in (_mean_and_interval(summary, m) for m in metrics)]
        table.add_row(Text(variant), *cells)
    return table


def _heading(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _number(value: float, metric: Metric) -> str:
    if math.isnan(value):
        return "–"
    if metric.unit == "lesions":
        return f"{round(value, 2):g}"
    return f"{value:.2f}" if metric.unit else f"{value:.3f}"


def _mean_and_interval(summary: pd.DataFrame, metric: Metric) -> tuple[str, str]:
    row = summary.to_dict("index")[metric.name]
    return _number(row["mean"], metric), f"({_number(row['low'], metric)} to {_number(row['high'], metric)})"


def _list_html(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def _summary_html(group: str, summaries: Mapping[str, pd.DataFrame], chosen: str) -> str:
    """The means of one group of cases: a row a metric, a column a variant."""

    def cell(summary: pd.DataFrame, metric: Metric) -> html.Cell:
        mean, interval = _mean_and_interval(summary, metric)
        row = summary.to_dict("index")[metric.name]
        parts = [interval, f"median {_number(row['median'], metric)}"]
        if row["undefined"]:
            parts.append(f"undefined in {row['undefined']}")
        return mean, ", ".join(part.replace(" ", "\u00a0") for part in parts)  # breaks between parts only

    rows = [[_heading(m), *(cell(summary, m) for summary in summaries.values())] for m in METRICS]
    header = ["", *(f"{variant} (chosen)" if variant == chosen else variant for variant in summaries)]
    dice = summaries[chosen].to_dict("index")["dice"]
    count = dice["cases"] + dice["undefined"]
    return f"<h3>{escape(group.capitalize())} ({count})</h3>{html.table(header, rows)}"


def _cases_html(tables: Mapping[str, pd.DataFrame], chosen: str) -> str:
    """One row a case, worst Dice of the chosen variant first, then the larger lesion first."""
    dice, *others = METRICS
    dice_of = {variant: table.set_index("case")["dice"] for variant, table in tables.items()}
    rows = []
    ranked = tables[chosen].sort_values(["dice", "reference_ml"], ascending=[True, False])
    for row in ranked.to_dict("records"):
        dices = [_number(float(column[row["case"]]), dice) for column in dice_of.values()]
        values = [_number(row[metric.name], metric) for metric in others]
        rows.append([str(row["case"]), f"{row['reference_ml']:.2f}", *dices, *values])
    header = ["Case", "Lesion (ml)", *(f"Dice, {variant}" for variant in tables), *map(_heading, others)]
    return html.table(header, rows)


def _definitions_html() -> str:
    def text(value: float | str) -> str:
        return value if isinstance(value, str) else "undefined" if math.isnan(value) else f"{value:g}"

    rows = [
        [_heading(m), m.description, text(m.no_reference), text(m.no_prediction), text(m.neither), m.better]
        for m in METRICS
    ]
    header = ["", "Definition", "Reference empty", "Prediction empty", "Both empty", "Better"]
    return html.table(header, rows)


def _picture_html(title: str, picture: Path | bytes) -> str:
    png = picture.read_bytes() if isinstance(picture, Path) else picture
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{escape(title)}</figcaption></figure>'


STYLE = """
small { display: block; color: #555; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; }
"""

BODY = Template("""
$notes
<h2>Result</h2>
$verdicts
<p>$false_alarms</p>
$summaries
<p>Mean over the cases where the metric is defined, and below it the 95 % bootstrap interval of that mean
over the cases, and the median. How many cases are undefined is said, and why in the definitions below.
A difference is called significant where zero lies outside its interval and p is below 0.05.</p>
<h2>Pictures</h2>
$pictures
<h2>Cases, worst first</h2>
<p>What follows the columns of Dice is of the chosen variant, $chosen. A dash: undefined.</p>
$cases
<h2>What the metrics mean</h2>
$definitions
<h2>Where this comes from</h2>
$facts
""")
