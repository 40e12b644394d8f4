"""`evaluate`: measure a model on labelled cases; the tables, pictures and report of it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from mlproject.data.cache import PreparedCache
from mlproject.data.cases import find_cases
from mlproject.data.dataset import load_all
from mlproject.data.preprocessing import PreparedCase, to_native
from mlproject.errors import DataError
from mlproject.evaluation import figures
from mlproject.evaluation.metrics import ALL_CASES, LESION_CASES, case_metrics, summarise_groups
from mlproject.evaluation.report import false_alarms, summary_table, verdict, write_report
from mlproject.evaluation.statistics import PairedDifference, paired_difference
from mlproject.prediction.postprocessing import Postprocessing, apply
from mlproject.prediction.segmenter import Segmenter, digests_of
from mlproject.stages.console import console
from mlproject.stages.settings import EvaluateSettings, Experiment
from mlproject.tracking import registry, runs
from mlproject.tracking.runs import Run
from mlproject.tracking.served_model import BUNDLE
from mlproject.tracking.server import connect


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation found.

    Attributes:
        tables: variant → metrics, a row a case.
        summaries: group of cases → variant → summary.
        differences: what is compared → the paired difference in Dice.
        chosen: the variant that the model uses.
        report: the report's HTML file.
    """

    tables: dict[str, pd.DataFrame]
    summaries: dict[str, dict[str, pd.DataFrame]]
    differences: dict[str, PairedDifference]
    chosen: str
    report: Path

    def show(self) -> None:
        """Print the table, its paired differences and the false alarms."""
        for group, summary in self.summaries.items():
            cases = int(next(iter(summary.values()))["cases"]["dice"])
            console.print(summary_table(summary, f"Test, {group} ({cases}), mean and 95 % interval"))
        for name, difference in self.differences.items():
            console.print(verdict(name, difference))
        console.print(false_alarms(self.tables))


def run(settings: EvaluateSettings) -> None:
    """The entry point `evaluate`."""
    settings = settings.resolved()
    connect()
    with tempfile.TemporaryDirectory() as folder:
        model = registry.fetch(settings.model, Path(folder))
        segmenter = Segmenter.load(model / "artifacts" / BUNDLE, settings.prediction.device)
        cases, notes = _cases_to_measure(settings, segmenter)
        if not registry.has_present_code(model):
            notes.append("Measured with the present code, not with that logged with the model, which the server runs.")
        run_id = runs.given_run_id("")
        with runs.open_run(settings.tracking, "evaluate", "evaluate", run_id=run_id) as mlflow_run:
            mlflow_run.tag(model=settings.model)
            described = segmenter.description  # what it does not say has no part in an evaluation
            mlflow_run.log_settings(
                replace(
                    settings,
                    data=replace(settings.data, channels=described.channels),
                    preprocessing=described.preprocessing,
                    network=described.network,
                    prediction=replace(described.prediction, device=settings.prediction.device),
                )
            )
            facts = {"model": settings.model, "data": settings.data.root_path.name}
            results = evaluate(segmenter, cases, mlflow_run, settings, facts, notes)
            results.show()
            console.print(f"report: {results.report}")


def _cases_to_measure(settings: EvaluateSettings, segmenter: Segmenter) -> tuple[list[PreparedCase], list[str]]:
    data = replace(settings.data, channels=segmenter.description.channels)
    cache = PreparedCache(settings.cache_path, segmenter.description.preprocessing)
    cases = load_all(cache, find_cases(data))
    if settings.cases == "all":
        return cases, []
    seen = set(segmenter.description.seen)
    unseen = [case for case in cases if not digests_of([case]) & seen]
    if not unseen:
        raise DataError(
            f"the model was trained or tuned on all {len(cases)} cases of {data.root}: give other data, or set "
            "cases=all for a result that says nothing about new patients"
        )
    left_out = len(cases) - len(unseen)
    notes = [f"{left_out} of {len(cases)} cases left out: the model was trained or tuned on them."] if left_out else []
    return unseen, notes


def evaluate(
    segmenter: Segmenter,
    cases: Sequence[PreparedCase],
    mlflow_run: Run,
    settings: Experiment,
    facts: Mapping[str, str],
    notes: Sequence[str],
) -> Results:
    """Measure every candidate postprocessing of a model inside an open MLflow run, and log what was found."""
    variants = segmenter.description.candidates
    chosen = next(n for n, candidate in variants.items() if candidate == segmenter.description.postprocessing)
    folder = settings.run_path(mlflow_run.id) / "report"
    tables = _measure(segmenter, cases, variants)
    shown = _overlays(segmenter, cases, tables[chosen])
    summaries = summarise_groups(tables)
    names = list(tables)
    differences = {
        f"{b} against {a}": paired_difference(tables[a]["dice"].to_numpy(), tables[b]["dice"].to_numpy())
        for a, b in combinations(names, 2)
    }
    pictures = {
        **shown,
        "Dice of each case": figures.to_png(figures.paired_dots(tables)),
        "Dice against lesion volume": figures.to_png(figures.dice_against_volume(tables[chosen])),
    }
    facts = {
        **facts,
        "MLflow run": mlflow_run.id,
        "cases": str(len(cases)),
        **{f"variant {name}": json.dumps(candidate.to_dict()) for name, candidate in variants.items()},
    }
    title = "Stroke lesion segmentation: test report"
    report = write_report(folder, tables, summaries, differences, pictures, notes, title, facts, chosen)
    for name, picture in pictures.items():
        (folder / f"{name.split(':')[0].replace(' ', '_')}.png").write_bytes(picture)
    mlflow_run.log_folder(folder, "report")
    mlflow_run.log_metrics(headline(summaries, differences, chosen))
    return Results(tables, summaries, differences, chosen, report)


def headline(
    summaries: dict[str, dict[str, pd.DataFrame]], differences: dict[str, PairedDifference], chosen: str
) -> dict[str, float]:
    """The metrics to log: means of the chosen variant, Dice of the others, paired differences, undefined cases."""
    metrics: dict[str, float] = {}
    for group, prefix in ((ALL_CASES, "test"), (LESION_CASES, "test_lesion_cases")):
        for variant, summary in summaries[group].items():
            metrics[f"{prefix}/dice_{variant.replace(' ', '_')}"] = summary["mean"]["dice"]
        for name, row in summaries[group][chosen].iterrows():
            metrics[f"{prefix}/{name}"] = row["mean"]
            if row["undefined"]:
                metrics[f"{prefix}/{name}_undefined_cases"] = row["undefined"]
        metrics[f"{prefix}/dice_low"] = summaries[group][chosen]["low"]["dice"]
        metrics[f"{prefix}/dice_high"] = summaries[group][chosen]["high"]["dice"]
    for name, difference in differences.items():
        metrics[f"test/dice_gain_{name.replace(' ', '_')}"] = difference.mean
    return metrics


def _measure(
    segmenter: Segmenter, cases: Sequence[PreparedCase], variants: dict[str, Postprocessing]
) -> dict[str, pd.DataFrame]:
    """Metrics on the native grid, a row a case, for each variant; one network pass and one case in memory at a time."""
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in variants}
    for number, case in enumerate(cases, start=1):
        assert case.native_label is not None
        probability = segmenter.probability(case)
        for name, postprocessing in variants.items():
            mask, _ = apply(probability, case, postprocessing)
            metrics = case_metrics(case.native_label, mask, case.geometry.native_spacing_mm)
            rows[name].append({"case": case.name, **metrics})
        console.print(f"measured {number} of {len(cases)}: {case.name}")
    return {name: pd.DataFrame(table) for name, table in rows.items()}


def _overlays(segmenter: Segmenter, cases: Sequence[PreparedCase], table: pd.DataFrame) -> dict[str, bytes]:
    """Pictures of the worst, the middle and the best case, among those with a lesion where there are any."""
    with_lesion = table[table["reference_ml"] > 0]
    by_name = {case.name: case for case in cases}
    dice = table.set_index("case")["dice"]
    pictures = {}
    for label, name in figures.worst_middle_best(with_lesion if len(with_lesion) else table):
        case = by_name[name]
        mask, _ = apply(segmenter.probability(case), case, segmenter.description.postprocessing)
        image = to_native(case.image[0], case.geometry)
        affine = np.array(case.geometry.native_affine)
        drawn = figures.overlay(image, case.native_label, mask, affine, name, float(dice[name]))
        pictures[f"{label}: {name}"] = figures.to_png(drawn)
    return pictures
