"""What `main`, `search` and `crossvalidate` end with: the model tested, registered, and the champion challenged."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from mlproject import config
from mlproject.data.dataset import DataSet
from mlproject.data.splits import split_in_words
from mlproject.evaluation.metrics import summarise_by_size
from mlproject.evaluation.wording import scans_of_one_patient
from mlproject.prediction.segmenter import Segmenter
from mlproject.stages.annotation import annotate, part_of, result_in_words, run_name
from mlproject.stages.commands import how_to_look, mlflow_command
from mlproject.stages.console import console, facts, heading
from mlproject.stages.evaluate import Results, evaluate, headline, results_of
from mlproject.stages.plan import budget, device
from mlproject.stages.postprocess import postprocessing_metrics
from mlproject.stages.settings import Experiment
from mlproject.stages.train import begin
from mlproject.tracking import champion, registry, runs
from mlproject.tracking.markdown import escape
from mlproject.tracking.model_card import CARD, CardFacts, model_card
from mlproject.tracking.run import Run
from mlproject.tracking.source import source

REGISTERED_TAG, CHAMPION_TAG = "registered_model", "champion"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that is trained and tuned.

    Attributes:
        settings: with which it was trained: in a search those of its trial, not those of the study.
        dataset: the cases as it sees them.
        segmenter: the model.
        uri: where it is logged, models:/ID.
        origin: what it comes from: training run, trial, folds.
    """

    settings: Experiment
    dataset: DataSet
    segmenter: Segmenter
    uri: str
    origin: Mapping[str, str] = field(default_factory=dict)


def conclude(stage: str, settings: Experiment, model: TrainedModel, parent: Run, again: str) -> dict[str, Any]:
    """Measure a model on the test cases in a child run, log its result to the parent, register it, and print it all.

    `stage`, `settings`, `again`: of the parent, which is a run of main or search, as `annotate` takes them. Returns
    run id, test metrics, report, model and the champion's verdict.
    """
    results = measured(model, parent)
    said = result_in_words(results.summaries, results.chosen, notes=results.notes)
    return published(stage, settings, model, results, said, parent, again)


def measured(model: TrainedModel, parent: Run) -> Results:
    """Measure a model on the test cases in a child run, and log its result and postprocessing to the parent.

    A measurement of this model that is finished is not done again.
    """
    heading("Test")
    known = runs.child(parent.id, "evaluate", model=model.uri)
    run_id = str(known.info.run_id) if known else ""
    results = results_of(run_id, model.settings) if known and known.info.status == "FINISHED" else None
    if results is None:
        results = _measure(model, parent, run_id)
    metrics = headline(results.summaries, results.differences, results.chosen)
    parent.log_metrics({**metrics, **postprocessing_metrics(model.segmenter.description)})
    return results


def _measure(model: TrainedModel, parent: Run, run_id: str) -> Results:
    """Measure a model on the test cases in a child run; `run_id`: as in `child_run`."""
    dataset = model.dataset
    with child_run(model.settings, parent, "evaluate", run_id, model=model.uri) as child:
        data = f"{model.settings.data.name}, digest {dataset.digest}"
        facts = {"model": model.uri, "data": data, **model.origin}
        begin(model.settings, dataset, child)
        child.measures(model.uri, model.settings.data.name, dataset.digest)
        test = dataset.load(dataset.split.test)
        results = evaluate(model.segmenter, test, child, model.settings, facts, notes_on(dataset))
        result = result_in_words(results.summaries, results.chosen, notes=results.notes)
        annotate(child, "evaluate", model.settings, dataset, part_of(parent), result)
    return results


def published(
    stage: str, settings: Experiment, model: TrainedModel, results: Results, said: str, parent: Run, again: str
) -> dict[str, Any]:
    """Register a model with its card, let it challenge the champion, print and return where all is.

    `results`: what the card says of it. `said`: the same in Markdown, for the parent's description. The others as
    `conclude` takes them.
    """
    name = settings.tracking.registered_model
    version = registry.register(model.uri, name, model.segmenter.description.channels)
    parent.tag(**{REGISTERED_TAG: f"{name}/{version}"})
    card = _card(f"{name}/{version}", model, parent, results)
    parent.log_text(card, CARD)
    registry.give_card(name, version, model.uri, card)
    verdict = _challenge(settings, model.dataset, version, parent)
    link = f"[{escape(name)} version {version}](#/models/{quote(name)}/versions/{version})"
    origin = "".join(f", {name} {escape(value)}" for name, value in model.origin.items())
    said = f"{said}\n\nModel: {link}{origin}. Champion: {escape(verdict.reason)}."
    annotate(parent, stage, settings, model.dataset, again, said)
    results.show()
    report = str(results.report or "")
    _say_where(report, f"models:/{name}/{version}", verdict, parent)
    return {
        "run_id": parent.id,
        "metrics": headline(results.summaries, results.differences, results.chosen),
        "report": report,
        "model": f"models:/{name}/{version}",
        "champion": verdict.to_dict() | {"reason": verdict.reason},
    }


@contextmanager
def child_run(settings: Experiment, parent: Run, stage: str, run_id: str = "", **tags: str) -> Iterator[Run]:
    """The run of one stage below a parent: the one that was stopped, by its id, else a new one, with these tags."""
    name, spools = run_name(stage, settings), settings.spool_path
    with runs.open_run(settings.tracking, name, stage, run_id=run_id, parent=parent, tags=tags, spools=spools) as child:
        yield child


def _challenge(settings: Experiment, dataset: DataSet, version: int, parent: Run) -> champion.Verdict:
    """Let a version challenge the champion, and leave the verdict in the parent run."""
    name = settings.tracking.registered_model
    labelled = list(dataset.cases)
    pairs = list(zip(dataset.cases.values(), dataset.load(labelled), strict=True))
    verdict = champion.challenge(name, version, pairs)
    parent.log_text(json.dumps(verdict.to_dict(), indent=2), "champion/verdict.json")
    if verdict.table is not None:
        parent.log_table(verdict.table, "champion/cases.csv")
    parent.tag(**{CHAMPION_TAG: verdict.reason})
    return verdict


def _card(registered: str, model: TrainedModel, parent: Run, results: Results) -> str:
    settings, dataset, split, code = model.settings, model.dataset, model.dataset.split, source()
    return model_card(
        CardFacts(
            model=registered,
            description=model.segmenter.description,
            run_id=parent.id,
            origin=model.origin,
            data=settings.data.name,
            digest=dataset.digest,
            cases={"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
            training=f"{budget(settings.training)}, on {device(settings.training)}",
            overall={group: summary[results.chosen] for group, summary in results.summaries.items()},
            by_size=summarise_by_size(results.tables[results.chosen]),
            settings=config.flatten(config.to_tree(settings)),
            split=split_in_words(settings.data, dataset.cases.values(), split),
            patients_named=all(case.patient_named for case in dataset.cases.values()),
            source=f"{code.url or 'this project'}, commit {code.commit}{', changed' if code.changed else ''}",
            repeated=len(_repeated(dataset)),
            notes=tuple(results.notes),
        )
    )


def notes_on(dataset: DataSet) -> list[str]:
    """What a reader of the test result must know about the test cases."""
    notes = scans_of_one_patient([dataset.cases[name].patient for name in dataset.split.test])
    if repeated := _repeated(dataset):
        said = f"Not an estimate: {len(repeated)} test cases were also trained or tuned on (data.split_file says so)."
        notes.insert(0, said)
    return notes


def _repeated(dataset: DataSet) -> list[str]:
    """The test cases that were trained or tuned on, too."""
    seen = {*dataset.split.train, *dataset.split.validation}
    return [name for name in dataset.split.test if name in seen]


def _say_where(report: str, model: str, verdict: champion.Verdict, run: Run) -> None:
    """Print where report and model are, and the commands that show and serve them."""
    serve = f"mlflow models serve -m {shlex.quote(model)} --env-manager local -p 5001"
    console.print()
    facts(
        {
            "report": report,
            "model": f"{model} ({verdict.reason})",
            "look": how_to_look(run.id, run.experiment_id),
            "serve": mlflow_command(serve, needs_server=True),
        }
    )
