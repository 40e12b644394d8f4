"""The report's table of cases: sortable by every column, coloured, with a small picture that opens the viewer."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from mlproject.evaluation.gathering import CasePictures
from mlproject.evaluation.metrics import METRICS, Metric
from mlproject.evaluation.palette import BLUE, ORANGE
from mlproject.evaluation.slices import encoded
from mlproject.evaluation.wording import heading, number

STRENGTH = 0.45  # of the strongest tint: black text on it stays easy to read


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        title: its heading.
        values: one a case, numbers (NaN: undefined) or texts.
        metric: says digits and colours of numbers; None for texts and plain numbers.
        worst_first: the way a first click on the heading sorts.
        sorted_by: the rows come sorted by this column.
        digits: after the point, of numbers without a metric.
        largest: the value that is coloured as the largest there is.
    """

    title: str
    values: Sequence[float | str]
    metric: Metric | None = None
    worst_first: str = "ascending"
    sorted_by: bool = False
    digits: int = 2
    largest: float = 1.0


def metric_column(metric: Metric, values: pd.Series, title: str, sorted_by: bool, scale: Sequence[pd.Series]) -> Column:
    """The column of a metric; a first click brings the worst case to the top. `scale`: what is coloured alike."""
    first = "ascending" if metric.better == "higher" else "descending"
    largest = pd.concat(list(scale)).max() if metric.unit else 1.0
    return Column(title, values.tolist(), metric, first, sorted_by, largest=float(largest))


def metric_columns(tables: Mapping[str, pd.DataFrame], chosen: str, order: Sequence[str]) -> list[Column]:
    """Volumes, the Dice of every variant, and the other metrics of the chosen one.

    Args:
        tables: variant → per-case table.
        chosen: whose metrics follow.
        order: names of the cases, as in the rows.
    """
    by_case = {variant: table.set_index("case").loc[list(order)] for variant, table in tables.items()}
    own = by_case[chosen]
    dice, *others = METRICS
    columns = [
        Column("Lesion (ml)", own["reference_ml"].tolist(), worst_first="descending"),
        Column("Predicted (ml)", own["prediction_ml"].tolist(), worst_first="descending"),
    ]
    for variant, table in by_case.items():
        columns.append(metric_column(dice, table["dice"], f"Dice, {variant}", variant == chosen, []))
    columns += [metric_column(m, own[m.name], heading(m), sorted_by=False, scale=[own[m.name]]) for m in others]
    if "missing" in own:
        columns.append(missing_column(own["missing"], "Missing channels"))
    return columns


def missing_column(missing: pd.Series, title: str) -> Column:
    """The channels that each case lacks; a first click brings those that lack one to the top."""
    return Column(title, missing.tolist(), worst_first="descending")


def case_table(order: Sequence[str], pictures: Mapping[str, CasePictures], columns: Sequence[Column]) -> str:
    """The table as HTML; row n opens case n of the viewer.

    Args:
        order: names of the cases, as in the rows.
        pictures: case → its pictures.
        columns: beside the first one, the case.
    """
    all_columns = [Column("Case", order), *columns]
    rows = []
    for n, case in enumerate(order):
        source = base64.b64encode(encoded(pictures[case].thumbnail, "WEBP")).decode("ascii")
        button = (
            f'<button type="button" class="open" data-case="{n}" title="open {escape(case)}">'
            f'<img src="data:image/webp;base64,{source}" alt=""></button>'
        )
        first = f'<td data-value="{escape(case)}"><div class="case">{button}{escape(case)}</div></td>'
        rows.append(f"<tr>{first}{''.join(_cell(column, n) for column in columns)}</tr>")
    head = "".join(_heading(column) for column in all_columns)
    return (
        f'<div class="table wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heading(column: Column) -> str:
    kind = "text" if all(isinstance(value, str) for value in column.values) else "number"
    state = f' aria-sort="{column.worst_first}"' if column.sorted_by else ""
    button = f'<button type="button">{escape(column.title)}</button>'
    return f'<th scope="col" data-kind="{kind}" data-first="{column.worst_first}"{state}>{button}</th>'


def _cell(column: Column, n: int) -> str:
    value = column.values[n]
    if isinstance(value, str):
        return f'<td data-value="{escape(value)}">{escape(value)}</td>'
    exact = "" if math.isnan(value) else repr(float(value))
    if column.metric is None:
        return f'<td data-value="{exact}">{value:.{column.digits}f}</td>'
    colour = _tint(_goodness(value, column)) if exact else "#eee"
    return f'<td data-value="{exact}" style="background:{colour}">{number(value, column.metric)}</td>'


def _goodness(value: float, column: Column) -> float:
    """From 0, bad, to 1, good: the value itself for a ratio, else how far it is below the largest."""
    assert column.metric is not None
    share = min(max(value / column.largest, 0.0), 1.0) if column.largest > 0 else 0.0
    return share if column.metric.better == "higher" else 1 - share


def _tint(goodness: float) -> str:
    """Orange (bad) over white (middle) to blue (good): two hues that colour-blind people tell apart."""
    colour = ORANGE if goodness < 0.5 else BLUE
    strength = abs(goodness - 0.5) * 2 * STRENGTH
    parts = (round(255 + (int(colour[at : at + 2], 16) - 255) * strength) for at in (1, 3, 5))
    return "#" + "".join(f"{part:02x}" for part in parts)
