"""The page of a comparison: two models side by side on the same cases, and its files."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import pandas as pd

from mlproject.evaluation import case_table, comparison, curve_figures, figures, html, lesions, viewer_html
from mlproject.evaluation import report_sections as sections
from mlproject.evaluation.case_table import Column
from mlproject.evaluation.comparison import A, B, MetricDifference
from mlproject.evaluation.gathering import Gathered
from mlproject.evaluation.metrics import METRICS, groups_to_show
from mlproject.evaluation.palette import variant_colours
from mlproject.evaluation.report_curves import EXPLANATIONS, calibration_words, calibrations
from mlproject.evaluation.report_files import Summaries, summaries_as_dict, write_json, write_tables
from mlproject.evaluation.wording import false_alarms, heading, missing_channels

METRICS_IN_CASES = ("lesion_f1", "volume_difference_ml", "hd95_mm")


def write_comparison(
    folder: Path,
    gathered: Gathered,
    summaries: Summaries,
    found: list[MetricDifference],
    notes: Sequence[str],
    title: str,
    facts: Mapping[str, str],
) -> Path:
    """Write report.html (self-contained), comparison.csv, comparison.json, the figures, and the tables of all cases.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        gathered: what was kept of the cases; its variants are A and B, and both are shown.
        summaries: what `summarise_groups` made of its tables.
        found: what `comparison.compare` made of them.
        notes: sentences for the reader, such as cases that were left out.
        title: of the page.
        facts: name → value; "model A" and "model B" say which they are.

    Returns:
        The path of report.html.
    """
    tables = gathered.tables
    notes = [*notes, *missing_channels(tables)]
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, tables, gathered.lesions, summaries)
    words = comparison.in_words(found)
    differences = [one.to_dict() for one in found]
    pd.DataFrame(differences).to_csv(folder / "comparison.csv", index=False)
    write_json(
        folder / "comparison.json",
        {
            "title": title,
            "facts": dict(facts),
            "differences": differences,
            "in_words": words,
            "summaries": summaries_as_dict(summaries),
            "notes": list(notes),
        },
    )
    sizes = lesions.by_size(gathered.lesions, [A, B], len(tables[A]))
    calibration, colours = calibrations(gathered.counts), variant_colours([A, B], gathered.shown)
    drawn = {
        "Dice of each case": figures.paired_dots({B: tables[B], A: tables[A]}),
        "Dice of A against Dice of B": curve_figures.one_against_other(tables[B], tables[A]),
        "Lesions found by size": curve_figures.detection(sizes, colours),
        "Calibration": curve_figures.reliability({n: curve for n, (curve, _, _) in calibration.items()}, colours),
    }
    pictures = {name: figures.to_png(figure) for name, figure in drawn.items()}
    for name, png in pictures.items():
        (folder / f"{name.replace(' ', '_')}.png").write_bytes(png)
    gap = comparison.disagreement(tables)
    order = gap.index.tolist()
    lines = _lines(tables, gap)
    header = ["", "A", "B", "A − B", "Wilcoxon p", "Corrected p", ""]
    content = BODY.substitute(
        models=html.table(["", ""], [(name, facts[name]) for name in ("model A", "model B")]),
        notes=sections.bullets(notes),
        words=sections.bullets(words),
        differences=html.table(header, comparison.rows(found)),
        false_alarms=escape(false_alarms(tables)),
        summaries="".join(sections.summary(group, variants) for group, variants in groups_to_show(summaries).items()),
        by_load=sections.by_load(tables),
        cards=sections.cards(order, gathered.pictures, lines, gathered.shown),
        sampled=escape(sections.sampled(gathered)),
        cases=case_table.case_table(order, gathered.pictures, _columns(tables, gap)),
        pictures=sections.pictures(pictures, EXPLANATIONS),
        calibration=escape(calibration_words(calibration)),
        lesions=sections.lesions_found(sizes),
        definitions=sections.definitions(),
        facts=html.table(["", ""], list(facts.items())),
        viewer=viewer_html.viewer(order, gathered.pictures, gathered.shown, lines),
    )
    file = folder / "report.html"
    file.write_text(html.page(title, content, viewer_html.style(), viewer_html.sources()), encoding="utf-8")
    return file


def _lines(tables: Mapping[str, pd.DataFrame], gap: pd.Series) -> list[str]:
    """What cards and viewer say of each case, in the order of `gap`."""
    a, b = (tables[name].set_index("case") for name in (A, B))
    paired = zip(a.loc[gap.index].to_dict("records"), b.loc[gap.index].to_dict("records"), strict=True)
    return [
        f"Dice {of_a['dice']:.3f} (A), {of_b['dice']:.3f} (B), lesion {of_a['reference_ml']:.2f} ml, "
        f"predicted {of_a['prediction_ml']:.2f} ml (A), {of_b['prediction_ml']:.2f} ml (B)"
        + "".join(f", {name} without {of['missing']}" for name, of in ((A, of_a), (B, of_b)) if of.get("missing"))
        for of_a, of_b in paired
    ]


def _columns(tables: Mapping[str, pd.DataFrame], gap: pd.Series) -> list[Column]:
    """Lesion volume, the difference in Dice, and some metrics of both."""
    a, b = (tables[name].set_index("case").loc[gap.index] for name in (A, B))
    columns = [
        Column("Lesion (ml)", a["reference_ml"].tolist(), worst_first="descending"),
        Column("|A − B|, Dice", gap.abs().tolist(), worst_first="descending", sorted_by=True, digits=3),
        Column("A − B, Dice", gap.tolist(), digits=3),
    ]
    for metric in METRICS:
        if metric.name == "dice" or metric.name in METRICS_IN_CASES:
            both = [a[metric.name], b[metric.name]]
            for name, values in zip((A, B), both, strict=True):
                columns.append(case_table.metric_column(metric, values, f"{heading(metric)}, {name}", False, both))
    for name, table in ((A, a), (B, b)):
        if "missing" in table:
            columns.append(case_table.missing_column(table["missing"], f"Missing channels, {name}"))
    return columns


BODY = Template("""
<nav><a href="#result">Result</a> <a href="#disagreements">Worst disagreements</a> <a href="#cases">All cases</a>
<a href="#figures">Figures</a> <a href="#each">Each model</a> <a href="#lesions">Lesions</a>
<a href="#definitions">Definitions</a> <a href="#origin">Origin</a></nav>
$models
$notes
<h2 id="result">Result</h2>
$words
$differences
<p>Each metric is compared over the cases where it is defined for both models, paired by case. Difference: mean of A
minus B, with its 95 % bootstrap interval over the cases. p: Wilcoxon's signed-rank test; corrected p: the same by
Holm's method, since several metrics are tested at once. A difference is called significant where zero lies outside its
interval and the corrected p is below 0.05.</p>
<p>$false_alarms</p>
<h2 id="disagreements">Worst disagreements</h2>
$cards
<p>Radiological convention: the patient's right is on the left of axial and coronal slices. $sampled</p>
<h2 id="cases">All cases, worst disagreement first</h2>
<p>Click on a heading to sort by it, on a picture to open the viewer. Blue is better, orange is worse. A dash:
undefined.</p>
$cases
<h2 id="figures">Figures</h2>
<div class="pair">$pictures</div>
<p>$calibration</p>
<h2 id="each">Each model</h2>
$summaries
<p>Mean over the cases where the metric is defined, and below it the 95 % bootstrap interval of that mean over the
cases, and the median.</p>
<h3>By lesion load</h3>
$by_load
<h2 id="lesions">Lesions found, by size</h2>
$lesions
<h2 id="definitions">What the metrics mean</h2>
$definitions
<h2 id="origin">Where this comes from</h2>
$facts
$viewer
""")
