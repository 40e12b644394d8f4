"""The report of an evaluation: one HTML page that needs nothing else, figures as PNG, tables as CSV and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template

import pandas as pd

from mlproject.evaluation import case_table, figures, html, lesions, report_curves, viewer_html
from mlproject.evaluation import report_sections as sections
from mlproject.evaluation.gathering import Gathered
from mlproject.evaluation.metrics import groups_to_show
from mlproject.evaluation.report_files import Summaries, summaries_as_dict, write_json, write_tables
from mlproject.evaluation.slices import encoded
from mlproject.evaluation.statistics import PairedDifference
from mlproject.evaluation.wording import false_alarms, missing_channels, summary_table, verdict
from mlproject.prediction.postprocessing import Postprocessing

__all__ = ["false_alarms", "summary_table", "verdict", "worst_first", "write_report"]


def write_report(
    folder: Path,
    gathered: Gathered,
    summaries: Summaries,
    differences: Mapping[str, PairedDifference],
    variants: Mapping[str, Postprocessing],
    notes: Sequence[str],
    title: str,
    facts: Mapping[str, str],
    chosen: str,
    origin: str,
) -> Path:
    """Write report.html (self-contained), the figures as PNG files, and the tables and curves as CSV and JSON files.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        gathered: what was kept of the cases; its tables are in the order in which to show the variants.
        summaries: what `summarise_groups` made of its tables.
        differences: what is compared, such as "crf against network" → its difference in Dice, corrected for the others.
        variants: what each variant does to the network's probability.
        notes: sentences for the reader, such as cases that were left out.
        title: of the page.
        facts: name → value, such as the data set, its digest, the commit.
        chosen: the variant that the model uses; its metrics fill the table of cases.
        origin: what it was chosen by, such as "tuned on the validation cases".

    Returns:
        The path of report.html.

    Raises:
        ValueError: `chosen` is not one of the variants.
    """
    tables = gathered.tables
    if chosen not in tables:
        raise ValueError(f"chosen={chosen!r} is not one of the variants: {', '.join(tables)}")
    notes = [*notes, *missing_channels({"The model": tables[chosen]})]
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder, tables, gathered.lesions, summaries)
    write_json(
        folder / "summary.json",
        {
            "title": title,
            "facts": dict(facts),
            "chosen": chosen,
            "summaries": summaries_as_dict(summaries),
            "differences": {
                name: asdict(difference) | {"significant": difference.significant}
                for name, difference in differences.items()
            },
            "notes": list(notes),
        },
    )
    sizes = lesions.by_size(gathered.lesions, list(tables), len(tables[chosen]))
    thresholding = report_curves.threshold_curves(gathered, chosen)
    calibration = report_curves.calibrations(gathered.counts)
    write_json(folder / "curves.json", report_curves.as_dict(sizes, thresholding, calibration, chosen))
    drawn = report_curves.draw(gathered, sizes, thresholding, calibration, variants[chosen], chosen)
    for name, png in drawn.items():
        (folder / f"{name.replace(' ', '_')}.png").write_bytes(png)
    order = worst_first(tables[chosen])
    for label, case in _worst_middle_best(tables[chosen]):
        (folder / f"{label.replace(' ', '_')}.png").write_bytes(encoded(gathered.pictures[case].planes, "PNG"))
    lines = [case_line(row) for _, row in tables[chosen].set_index("case").loc[order].iterrows()]
    content = BODY.substitute(
        summaries="".join(sections.summary(group, one, chosen) for group, one in groups_to_show(summaries).items()),
        by_load=sections.by_load({chosen: tables[chosen]}),
        false_alarms=escape(false_alarms(tables)),
        verdicts=sections.bullets([verdict(name, difference) for name, difference in differences.items()]),
        notes=sections.bullets(notes),
        cards=sections.cards(order, gathered.pictures, lines, gathered.shown),
        sampled=escape(sections.sampled(gathered)),
        cases=case_table.case_table(order, gathered.pictures, case_table.metric_columns(tables, chosen, order)),
        chosen=escape(chosen),
        pictures=sections.pictures(drawn, report_curves.explanations(variants[chosen], origin)),
        lesions=sections.lesions_found(sizes),
        calibration=escape(report_curves.calibration_words(calibration)),
        definitions=sections.definitions(),
        facts=html.table(["", ""], list(facts.items())),
        viewer=viewer_html.viewer(order, gathered.pictures, gathered.shown, lines),
    )
    file = folder / "report.html"
    file.write_text(html.page(title, content, viewer_html.style(), viewer_html.sources()), encoding="utf-8")
    return file


def worst_first(table: pd.DataFrame) -> list[str]:
    """The cases by Dice, and those of equal Dice by volume, the larger lesion first."""
    return table.sort_values(["dice", "reference_ml"], ascending=[True, False])["case"].tolist()


def _worst_middle_best(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Of the cases with a lesion, where there are any."""
    with_lesion = table[table["reference_ml"] > 0]
    return figures.worst_middle_best(with_lesion if len(with_lesion) else table)


def case_line(row: pd.Series) -> str:
    """What the viewer says of a case: a row of the per-case table."""
    missing = f", without {row['missing']}" if row.get("missing") else ""
    volumes = f"lesion {row['reference_ml']:.2f} ml, predicted {row['prediction_ml']:.2f} ml"
    return f"Dice {row['dice']:.3f}, {volumes}{missing}"


BODY = Template("""
<nav><a href="#result">Result</a> <a href="#worst">Worst cases</a> <a href="#cases">All cases</a>
<a href="#figures">Figures</a> <a href="#lesions">Lesions</a> <a href="#definitions">Definitions</a>
<a href="#origin">Origin</a></nav>
$notes
<h2 id="result">Result</h2>
$verdicts
<p>$false_alarms</p>
$summaries
<p>Mean over the cases where the metric is defined, and below it the 95 % bootstrap interval of that mean
over the cases, and the median. How many cases are undefined is said, and why in the definitions below.
A difference is called significant where zero lies outside its interval and p of Wilcoxon's signed-rank test is below
0.05; where several variants are compared with each other, p is corrected by Holm's method.</p>
<h3>By lesion load, $chosen</h3>
$by_load
<h2 id="worst">Worst cases</h2>
$cards
<p>Radiological convention: the patient's right is on the left of axial and coronal slices. $sampled</p>
<h2 id="cases">All cases</h2>
<p>Click on a heading to sort by it, on a picture to open the viewer. What follows the columns of Dice is of the
chosen variant, $chosen. Blue is better, orange is worse. A dash: undefined.</p>
$cases
<h2 id="figures">Figures</h2>
<div class="pair">$pictures</div>
<p>$calibration</p>
<h2 id="lesions">Lesions found, by size</h2>
$lesions
<h2 id="definitions">What the metrics mean</h2>
$definitions
<h2 id="origin">Where this comes from</h2>
$facts
$viewer
""")
