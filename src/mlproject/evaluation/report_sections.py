"""The sections that the report of a model and the comparison of two have in common, as HTML."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from mlproject.evaluation import html
from mlproject.evaluation.gathering import CasePictures, Gathered
from mlproject.evaluation.metrics import METRICS, Metric, summarise_by_size
from mlproject.evaluation.palette import mask_colours
from mlproject.evaluation.slices import encoded
from mlproject.evaluation.wording import heading, mean_and_interval, number

CARDS = 4


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts; nothing where there are none."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def summary(group: str, summaries: Mapping[str, pd.DataFrame], chosen: str = "") -> str:
    """The means of one group of cases: a row a metric, a column a variant."""

    def cell(table: pd.DataFrame, metric: Metric) -> html.Cell:
        mean, interval = mean_and_interval(table, metric)
        row = table.to_dict("index")[metric.name]
        parts = [*([interval] if interval else []), f"median {number(row['median'], metric)}"]
        if row["undefined"]:
            parts.append(f"undefined in {row['undefined']}")
        return mean, ", ".join(part.replace(" ", "\u00a0") for part in parts)  # breaks between parts only

    rows = [[heading(m), *(cell(table, m) for table in summaries.values())] for m in METRICS]
    header = ["", *(f"{variant} (chosen)" if variant == chosen else variant for variant in summaries)]
    dice = next(iter(summaries.values())).to_dict("index")["dice"]
    count = dice["cases"] + dice["undefined"]
    return f"<h3>{escape(group.capitalize())} ({count})</h3>{html.table(header, rows)}"


def by_load(tables: Mapping[str, pd.DataFrame]) -> str:
    """Means by the lesion load of the case: a row for each load and variant."""

    def cell(means: pd.DataFrame, metric: Metric) -> html.Cell:
        mean, interval = mean_and_interval(means, metric)
        return (mean, interval) if interval else mean

    summaries = {variant: summarise_by_size(table) for variant, table in tables.items()}
    rows = []
    for load, means in next(iter(summaries.values())).items():  # the cases are the same in all
        dice = means.to_dict("index")["dice"]
        count = dice["cases"] + dice["undefined"]
        for variant, by_size in summaries.items():
            name = f"{count} case{'s' if count > 1 else ''}" + (f", {variant}" if len(tables) > 1 else "")
            rows.append([(load, name), *(cell(by_size[load], metric) for metric in METRICS)])
    return html.table(["Lesion load", *map(heading, METRICS)], rows)


def lesions_found(sizes: pd.DataFrame) -> str:
    """The table beside the picture of detection: a row for each variant and size of lesion."""
    rows = []
    for row in sizes.to_dict("records"):
        share = "–" if not row["lesions"] else f"{row['share']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        found = f"{row['found']} of {row['lesions']}"
        alarms = f"{row['false_alarms']} ({row['false_alarms_per_case']:.2f} per case)"
        rows.append([row["size"], row["variant"], found, share, alarms])
    header = ["Size of the lesion", "", "Found", "Share (95 % interval)", "False alarms"]
    return html.table(header, rows)


def cards(order: Sequence[str], cases: Mapping[str, CasePictures], notes: Sequence[str], shown: Sequence[str]) -> str:
    """The first cases of the order with their three slices, each with a button that opens the viewer."""
    key = "".join(
        f'<span style="background:{colour}"></span>{escape(name)}'
        for name, colour in zip(("reference", *shown), mask_colours(len(shown)), strict=True)
    )
    made = []
    for n, name in enumerate(order[:CARDS]):
        source = base64.b64encode(encoded(cases[name].planes, "WEBP")).decode("ascii")
        made.append(
            f'<div class="card"><img src="data:image/webp;base64,{source}" alt="{escape(name)}: axial, coronal and '
            f'sagittal slice with most lesion"><p><strong>{escape(name)}</strong></p><p>{escape(notes[n])}</p>'
            f'<p class="noprint"><button type="button" data-case="{n}">open in the viewer</button></p></div>'
        )
    return f'<p class="key">Outlines: {key}</p><div class="cards">{"".join(made)}</div>'


def sampled(gathered: Gathered) -> str:
    """How coarse the viewer's volumes are, in a sentence."""
    coarsest = max((max(case.data.spacing_mm) for case in gathered.pictures.values()), default=0.0)
    return (
        "To keep the page small, the viewer shows the first channel alone, sampled down where it must be (voxels of "
        f"up to {coarsest:.1f} mm here). A lesion too small for that grid is shown as one voxel. All numbers were "
        "measured on the scans' own grids."
    )


def definitions() -> str:
    """What each metric is, and what it is where reference, prediction or both are empty."""

    def text(value: float | str) -> str:
        return value if isinstance(value, str) else "undefined" if math.isnan(value) else f"{value:g}"

    rows = [
        [heading(m), m.description, text(m.no_reference), text(m.no_prediction), text(m.neither), m.better]
        for m in METRICS
    ]
    header = ["", "Definition", "Reference empty", "Prediction empty", "Both empty", "Better"]
    return html.table(header, rows)


def pictures(drawn: Mapping[str, bytes], explanations: Mapping[str, str]) -> str:
    """Figures with their titles and a line or two that say how to read them.

    Args:
        drawn: title → PNG.
        explanations: title → how to read it.
    """
    made = []
    for title, png in drawn.items():
        source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        caption = f"<strong>{escape(title)}.</strong> {escape(explanations[title])}"
        made.append(f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{caption}</figcaption></figure>')
    return "".join(made)
