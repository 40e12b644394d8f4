"""`evaluate`: measure a model on labelled cases; the tables, pictures and report of it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlproject.data.cache import PreparedCache
from mlproject.data.cases import find_cases
from mlproject.data.dataset import digest_of, load_all
from mlproject.data.fetching import fetch
from mlproject.data.preprocessing import PreparedCase
from mlproject.data.splits import Split
from mlproject.errors import DataError
from mlproject.evaluation.comparison import dice_differences
from mlproject.evaluation.gathering import Answer, Gathered, Gatherer
from mlproject.evaluation.metrics import ALL_CASES, LESION_CASES, groups_to_show, summarise_groups
from mlproject.evaluation.report import false_alarms, summary_table, verdict, write_report
from mlproject.evaluation.statistics import PairedDifference
from mlproject.evaluation.wording import scans_of_one_patient, seen_cases
from mlproject.prediction.postprocessing import Postprocessing, apply
from mlproject.prediction.segmenter import ModelDescription, Segmenter, digests_of
from mlproject.stages import compare
from mlproject.stages.annotation import annotate_evaluation, result_in_words, settings_of_model
from mlproject.stages.commands import how_to_look, stage_command
from mlproject.stages.console import console, facts
from mlproject.stages.plan import show_evaluation, show_measured, show_run
from mlproject.stages.progress import track
from mlproject.stages.settings import EvaluateSettings, Experiment
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import registry, runs
from mlproject.tracking.run import Run
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
        report: the report's HTML file; None where there is none.
        tested: how the cases were tested, in a word.
        notes: what a reader must know.
    """

    tables: dict[str, pd.DataFrame]
    summaries: dict[str, dict[str, pd.DataFrame]]
    differences: dict[str, PairedDifference]
    chosen: str
    report: Path | None = None
    tested: str = "Test"
    notes: Sequence[str] = ()

    def show(self) -> None:
        """Print the table, its paired differences, the false alarms and the notes."""
        for group, summary in groups_to_show(self.summaries).items():
            cases = int(next(iter(summary.values()))["cases"]["dice"])
            console.print()
            console.print(summary_table(summary, f"{self.tested}, {group} ({cases}), mean and 95 % interval"))
        console.print()
        for name, difference in self.differences.items():
            console.print(verdict(name, difference))
        console.print(false_alarms(self.tables))
        for note in self.notes:
            facts({"note": note})


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """The entry point `evaluate`; its result is the run's id, the metrics and the report's file."""
    settings = settings.resolved()
    connect()
    deliver_what_waits(settings.spool_path)
    given, uri_of = settings, compare.model_uri_of
    settings = replace(given, model=uri_of(given.model), compare=uri_of(given.compare))
    show_evaluation(given, settings)
    if settings.compare:
        return compare.run(settings)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = registry.fetch(settings.model, Path(folder))
        segmenter = Segmenter.load(model / "artifacts" / BUNDLE, settings.prediction.device)
        cases, notes = _cases_to_measure(settings, segmenter)
        show_measured(settings, ", ".join(segmenter.description.channels), len(cases))
        if not registry.has_present_code(model):
            notes.append("Measured with the present code, not with that logged with the model, which the server runs.")
        run_id = runs.given_run_id("")
        name = f"evaluate {settings.data.name}"
        spools = settings.spool_path
        with runs.open_run(settings.tracking, name, "evaluate", run_id=run_id, spools=spools) as mlflow_run:
            mlflow_run.rename(name)
            show_run(mlflow_run)
            mlflow_run.tag(model=settings.model)
            mlflow_run.log_settings(settings_of_model(settings, segmenter.description))
            data = settings.data.name
            split = Split((), (), tuple(case.name for case in cases))
            mlflow_run.log_dataset(data, digest_of(cases), settings.data.root, split)
            mlflow_run.measures(registry.logged_uri(model), data, digest_of(cases))
            about = {"model": settings.model, "data": data}
            results = evaluate(segmenter, cases, mlflow_run, settings, about, notes)
            result = result_in_words(results.summaries, results.chosen, notes=notes)
            annotate_evaluation(mlflow_run, settings, segmenter.description.channels, cases, result)
            results.show()
            _say_where(results, mlflow_run, settings)
            metrics = headline(results.summaries, results.differences, results.chosen)
            return {"run_id": mlflow_run.id, "metrics": metrics, "report": str(results.report)}


def _say_where(results: Results, run: Run, settings: EvaluateSettings) -> None:
    """Print where the report is, how the run is looked at, and the command that compares the model with another."""
    other = "MODEL_OR_RUN"
    console.print()
    facts(
        {
            "report": str(results.report),
            "look": how_to_look(run.id, run.experiment_id),
            "next": f"compare it with another model, in place of {other}, on the cases that neither has seen:",
        }
    )
    console.print(stage_command("evaluate", EvaluateSettings, settings.alone(), model=settings.model, compare=other))


def _cases_to_measure(settings: EvaluateSettings, segmenter: Segmenter) -> tuple[list[PreparedCase], list[str]]:
    described = segmenter.description
    data = replace(settings.data, channels=described.channels, missing=described.missing)
    cache = PreparedCache(settings.cache_path, segmenter.description.preprocessing)
    found = settings.tracking.case_naming.apply(find_cases(data, cache=settings.cache_path), data)
    seen, keep_all = set(described.seen), settings.cases == "all"
    # Those of a bucket that it was trained on, from there: known without being fetched.
    cases = [case for case in found if keep_all or not case.states_of_images & seen]
    fetch(cases, data.copies_gb, watch=track)
    loaded = load_all(cache, cases, watch=track)
    unseen = [case for case in loaded if not digests_of([case]) & seen]
    measured = loaded if keep_all else unseen
    if not measured:
        raise DataError(
            f"the model was trained or tuned on all {len(found)} cases of {data.root}: give other data, or set "
            "cases=all for a result that says nothing about new patients"
        )
    notes = seen_cases({"the model": len(measured) - len(unseen)}, len(measured)) if keep_all else []
    if left_out := len(found) - len(measured):
        notes.append(f"{left_out} of {len(found)} cases left out: the model was trained or tuned on them.")
    patients = {case.name: case.patient for case in found}
    return measured, notes + scans_of_one_patient([patients[case.name] for case in measured])


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
    gathered = _measure(segmenter, cases, variants, chosen)
    tables = gathered.tables
    summaries = summarise_groups(tables)
    differences = dice_differences(tables)
    facts = {
        **facts,
        "MLflow run": mlflow_run.id,
        "cases": str(len(cases)),
        **{f"variant {name}": json.dumps(candidate.to_dict()) for name, candidate in variants.items()},
    }
    title = "Stroke lesion segmentation: test report"
    origin = _origin(segmenter.description)
    report = write_report(folder, gathered, summaries, differences, variants, notes, title, facts, chosen, origin)
    mlflow_run.log_folder(folder, "report")
    mlflow_run.log_metrics(headline(summaries, differences, chosen))
    return Results(tables, summaries, differences, chosen, report, notes=notes)


def _origin(described: ModelDescription) -> str:
    """What a model's postprocessing was chosen by; one that had no choice was not tuned."""
    if len(described.candidates) == 1:
        return "the default"
    if described.members > 1:
        return "tuned for the model's networks one by one, out of fold on all cases that it was made from"
    return "tuned on the validation cases"


def results_of(run_id: str, settings: Experiment) -> Results | None:
    """What an evaluation that is finished has found, from its artifacts; None where they are not there."""
    measured = rows_of(run_id)
    if measured is None:
        return None
    rows, chosen = measured
    tables = {str(variant): table.drop(columns="variant") for variant, table in rows.groupby("variant", sort=False)}
    report = settings.run_path(run_id) / "report" / "report.html"
    differences = dice_differences(tables)
    return Results(tables, summarise_groups(tables), differences, chosen, report if report.exists() else None)


def rows_of(run_id: str) -> tuple[pd.DataFrame, str] | None:
    """The per-case table of an evaluation (variant, case, metrics) and its chosen variant; None where there is none."""
    rows, summary = (runs.read_text(run_id, f"report/{name}.json") for name in ("per_case", "summary"))
    if rows is None or summary is None:
        return None
    return pd.DataFrame(json.loads(rows)), str(json.loads(summary)["chosen"])


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
    segmenter: Segmenter, cases: Sequence[PreparedCase], variants: dict[str, Postprocessing], chosen: str
) -> Gathered:
    """What to keep of each case, under each variant; one network pass a case, and one case in memory at a time."""
    gatherer = Gatherer(len(cases), shown=[chosen])
    for case in track("measuring", cases, len(cases)):
        probability = segmenter.probability(case)
        answers = (Answer(name, *apply(probability, case, variant), case.missing) for name, variant in variants.items())
        gatherer.add(case, answers)
    return gatherer.result()
