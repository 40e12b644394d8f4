"""`evaluate --compare`: two models side by side on the labelled cases that neither has seen."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlproject.data.cache import PreparedCache
from mlproject.data.cases import find_cases
from mlproject.data.dataset import digest_of, load_all
from mlproject.data.fetching import fetch
from mlproject.data.geometry import GRID_TOLERANCE_MM, largest_shift_mm
from mlproject.data.preprocessing import PreparedCase
from mlproject.data.splits import Split
from mlproject.errors import DataError, ModelError
from mlproject.evaluation.comparison import A, B, MetricDifference, compare, in_words
from mlproject.evaluation.comparison_report import write_comparison
from mlproject.evaluation.gathering import Answer, Gathered, Gatherer
from mlproject.evaluation.metrics import groups_to_show, summarise_groups
from mlproject.evaluation.wording import scans_of_one_patient, seen_cases, summary_table
from mlproject.prediction.postprocessing import apply
from mlproject.prediction.segmenter import Segmenter, digests_of
from mlproject.stages.annotation import annotate_evaluation, settings_of_model
from mlproject.stages.commands import how_to_look
from mlproject.stages.console import console, facts
from mlproject.stages.plan import show_measured, show_run
from mlproject.stages.progress import track
from mlproject.stages.settings import EvaluateSettings
from mlproject.tracking import registry, runs
from mlproject.tracking.markdown import escape
from mlproject.tracking.served_model import BUNDLE

OTHER_CODE = "{} is measured with the present code, not with that logged with the model, which the server runs."


@dataclass(frozen=True, eq=False)
class Contestant:
    """One of the two models.

    Attributes:
        uri: where it is.
        segmenter: the model, run by the present code.
        cases: the labelled cases as it sees them.
        patients: whom each of them shows.
        notes: what a reader must know about it.
    """

    uri: str
    segmenter: Segmenter
    cases: dict[str, PreparedCase]
    patients: dict[str, str]
    notes: tuple[str, ...]


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Compare `settings.model` (A) with `settings.compare` (B), two URIs, in an MLflow run of its own."""
    a, b = _contestant(settings.model, settings, A), _contestant(settings.compare, settings, B)
    names, notes = _names_to_measure(a, b, settings)
    notes += [*a.notes, *b.notes]
    of_a, of_b = (", ".join(model.segmenter.description.channels) for model in (a, b))
    show_measured(settings, of_a if of_a == of_b else f"{A} {of_a}; {B} {of_b}", len(names))
    run_id = runs.given_run_id("")
    name = f"compare two models on {settings.data.name}"
    spools = settings.spool_path
    with runs.open_run(settings.tracking, name, "evaluate", run_id=run_id, spools=spools) as mlflow_run:
        mlflow_run.rename(name)
        show_run(mlflow_run)
        mlflow_run.tag(model=a.uri, compare=b.uri)
        mlflow_run.log_settings(settings_of_model(settings, a.segmenter.description))  # one run has room for A's alone
        measured = [a.cases[case] for case in names]
        data = settings.data.name
        mlflow_run.log_dataset(data, digest_of(measured), settings.data.root, Split((), (), tuple(names)))
        gathered = _measure(a, b, names)
        found = compare(gathered.tables)
        summaries = summarise_groups(gathered.tables)
        folder = settings.run_path(mlflow_run.id) / "report"
        about = {
            "model A": _named(a),
            "model B": _named(b),
            "data": data,
            "MLflow run": mlflow_run.id,
            "cases": str(len(names)),
        }
        title = "Stroke lesion segmentation: two models compared"
        report = write_comparison(folder, gathered, summaries, found, notes, title, about)
        mlflow_run.log_folder(folder, "report")
        metrics = headline(found)
        mlflow_run.log_metrics(metrics)
        result = "\n\n".join(escape(sentence) for sentence in [*notes, *in_words(found)])
        annotate_evaluation(mlflow_run, settings, a.segmenter.description.channels, measured, result)
        for group, variants in groups_to_show(summaries).items():
            count = int(next(iter(variants.values()))["cases"]["dice"])
            console.print()
            console.print(summary_table(variants, f"{group.capitalize()} ({count}), mean and 95 % interval"))
        console.print()
        facts({A: a.uri, B: b.uri})
        console.print()
        for sentence in in_words(found):
            console.print(sentence)
        for note in notes:
            facts({"note": note})
        console.print()
        facts({"report": str(report), "look": how_to_look(mlflow_run.id, mlflow_run.experiment_id)})
        return {"run_id": mlflow_run.id, "metrics": metrics, "report": str(report)}


def headline(found: Sequence[MetricDifference]) -> dict[str, float]:
    """The metrics to log: for each metric the means of A and B, A minus B with its interval, and the corrected p."""
    metrics: dict[str, float] = {}
    for one in found:
        name = f"compare/{one.metric.name}"
        metrics |= {f"{name}_a": one.mean_a, f"{name}_b": one.mean_b, f"{name}_difference": one.difference.mean}
        metrics |= {f"{name}_difference_low": one.difference.low, f"{name}_difference_high": one.difference.high}
        metrics[f"{name}_p_corrected"] = one.difference.corrected_p
    return metrics


def model_uri_of(given: str) -> str:
    """The model that a setting names: the version that has an alias, the model of a run's id; else what is given.

    A run of `main` or of a fold stands for the model it tuned (else trained), a search for that of its best trial, a
    cross-validation for the ensemble.

    Raises:
        ModelError: the run has no model, or there is no such alias.
        TrackingError: there is no such run.
    """
    if len(given) != 32 or any(character not in "0123456789abcdef" for character in given):
        return registry.exact_uri(given)
    tags = runs.find(given).data.tags
    stage = tags.get(runs.STAGE_TAG)
    if stage in ("train", "postprocess", "trial", "crossvalidate"):
        return f"runs:/{given}/model"
    if "best_run" in tags:
        return f"runs:/{tags['best_run']}/model"
    for child_stage in ("postprocess", "train"):
        child = runs.child(given, child_stage)
        if child is not None and child.info.status == "FINISHED":
            return f"runs:/{child.info.run_id}/model"
    raise ModelError(
        f"run {given} ({stage or 'of another software'}) has no model: give the id of a run of main, train, "
        "postprocess, search or crossvalidate that is finished, or a model's URI"
    )


def _contestant(uri: str, settings: EvaluateSettings, name: str) -> Contestant:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model = registry.fetch(uri, Path(folder))
        segmenter = Segmenter.load(model / "artifacts" / BUNDLE, settings.prediction.device)
        notes = () if registry.has_present_code(model) else (OTHER_CODE.format(f"Model {name}"),)
    described = segmenter.description
    data = replace(settings.data, channels=described.channels, missing=described.missing)
    cache = PreparedCache(settings.cache_path, described.preprocessing)
    found = settings.tracking.case_naming.apply(find_cases(data, cache=settings.cache_path), data)
    fetch(found, data.copies_gb, watch=track)
    cases = load_all(cache, found, watch=lambda what, *results: track(f"{what} for {name}", *results))
    patients = {case.name: case.patient for case in found}
    return Contestant(uri, segmenter, {case.name: case for case in cases}, patients, notes)


def _named(contestant: Contestant) -> str:
    return f"{contestant.uri}, channels {', '.join(contestant.segmenter.description.channels)}"


def _names_to_measure(a: Contestant, b: Contestant, settings: EvaluateSettings) -> tuple[list[str], list[str]]:
    """The cases that neither model has seen, or all, and what a reader must know of them."""
    names = [name for name in a.cases if name in b.cases]
    for name in names:
        _refuse_other_grid(a.cases[name], b.cases[name])
    digests = {name: digests_of([a.cases[name], b.cases[name]]) for name in names}
    seen_by = {
        letter: [name for name in names if digests[name].intersection(model.segmenter.description.seen)]
        for letter, model in ((A, a), (B, b))
    }
    if settings.cases == "all":
        notes = seen_cases({letter: len(seen) for letter, seen in seen_by.items()}, len(names))
        return names, notes + scans_of_one_patient([a.patients[name] for name in names])
    unseen = [name for name in names if name not in seen_by[A] and name not in seen_by[B]]
    if not unseen:
        raise DataError(
            f"one of the two models was trained or tuned on each of the {len(names)} cases of {settings.data.root}: "
            "give other data, or set cases=all for a result that says nothing about new patients"
        )
    left_out = len(names) - len(unseen)
    notes = [f"{left_out} of {len(names)} cases left out: A or B was trained or tuned on them."] if left_out else []
    return unseen, notes + scans_of_one_patient([a.patients[name] for name in unseen])


def _refuse_other_grid(a: PreparedCase, b: PreparedCase) -> None:
    first, second = a.geometry, b.geometry
    if first.native_shape == second.native_shape:
        shift = largest_shift_mm(first.native_shape, np.array(first.native_affine), np.array(second.native_affine))
        if shift < GRID_TOLERANCE_MM:
            return
    raise DataError(
        f"{a.name}: the two models answer on different grids, because their first channels have different ones: only "
        "models whose first channel has the same grid can be compared"
    )


def _measure(a: Contestant, b: Contestant, names: Sequence[str]) -> Gathered:
    """What to keep of each case, under each model as it is meant to be used; one case in memory at a time."""
    gatherer = Gatherer(len(names), shown=[A, B])
    for name in track("measuring", names, len(names)):
        answers = (_answer(letter, model.cases[name], model.segmenter) for letter, model in ((A, a), (B, b)))
        gatherer.add(a.cases[name], answers)
    return gatherer.result()


def _answer(letter: str, case: PreparedCase, segmenter: Segmenter) -> Answer:
    mask, probability = apply(segmenter.probability(case), case, segmenter.description.postprocessing)
    return Answer(letter, mask, probability, case.missing)
