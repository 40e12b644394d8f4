"""`main`: train, tune, evaluate, register and, on evidence, make champion; one MLflow run with a child a stage."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlproject.data.dataset import DataSet
from mlproject.stages import evaluate, postprocess, train
from mlproject.stages.console import console
from mlproject.stages.settings import Experiment
from mlproject.tracking import champion, registry, runs
from mlproject.tracking.runs import Run
from mlproject.tracking.server import connect, public_uri

REGISTERED_TAG, CHAMPION_TAG = "registered_model", "champion"


def run(settings: Experiment) -> None:
    """The entry point `main`. Gone on with after a stop, it takes up the stage at which it was stopped."""
    settings = settings.resolved()
    if settings.training.node_rank > 0:
        train.help_to_train(settings)
        return
    connect()
    dataset = train.prepare(settings)
    run_id = runs.given_run_id(settings.training.resume)
    if run_id:
        runs.refuse_other_settings(run_id, settings, train.MAY_CHANGE)
    trained = runs.child(run_id, "train") if run_id else None
    if trained is not None:
        runs.refuse_other_data(trained.info.run_id, dataset.digest)
    with (
        runs.open_run(settings.tracking, "main", "main", run_id=run_id) as parent,
        train.saying_how_to_resume("main", parent, settings),
    ):
        parent.log_settings(settings)
        tags = runs.find(parent.id).data.tags
        if CHAMPION_TAG in tags:  # the last thing that is done
            console.print(f"run {parent.id} is complete: its model is models:/{tags[REGISTERED_TAG]}")
            return
        if trained is not None and trained.info.status == "FINISHED":
            train_id = str(trained.info.run_id)
            segmenter = registry.load(f"runs:/{train_id}/model", settings.prediction.device)
        else:
            with _child(settings, parent, "train") as child:
                train_id = child.id
                segmenter = train.train(settings, dataset, child)
        with _child(settings, parent, "postprocess") as child:
            segmenter = postprocess.postprocess(settings, dataset, segmenter, child)
            model_uri = f"runs:/{child.id}/model"
        with _child(settings, parent, "evaluate") as child:
            test = dataset.load(dataset.split.test)
            facts = {
                "model": model_uri,
                "data": f"{settings.data.root_path.name}, digest {dataset.digest}",
                "training run": train_id,
            }
            results = evaluate.evaluate(segmenter, test, child, settings, facts, _notes_on(dataset))
        parent.log_metrics(evaluate.headline(results.summaries, results.differences, results.chosen))
        verdict, version = _register(settings, dataset, model_uri, parent)
    results.show()
    name = settings.tracking.registered_model
    console.print(f"\nreport:  {results.report}\nmodel:   models:/{name}/{version} ({verdict.reason})")
    uri = public_uri()
    ui = _shell(f"mlflow ui --backend-store-uri {shlex.quote(uri)} --port 5000    then http://127.0.0.1:5000")
    console.print(f"look:    {uri if uri.startswith('http') else ui}")
    serve = f"mlflow models serve -m models:/{name}/{version} --env-manager local -p 5001"
    console.print(f"serve:   {_shell(f'MLFLOW_TRACKING_URI={shlex.quote(uri)} {serve}')}")


@contextmanager
def _child(settings: Experiment, parent: Run, stage: str) -> Iterator[Run]:
    """The run of one stage: the one that was stopped, else a new one."""
    stopped = runs.child(parent.id, stage)
    run_id = str(stopped.info.run_id) if stopped else ""
    with runs.open_run(settings.tracking, stage, stage, run_id=run_id, parent=parent) as child:
        yield child


def _register(settings: Experiment, dataset: DataSet, model_uri: str, parent: Run) -> tuple[champion.Verdict, int]:
    name = settings.tracking.registered_model
    registered = runs.find(parent.id).data.tags.get(REGISTERED_TAG)  # before a stop, which must not make two versions
    version = int(registered.rpartition("/")[2]) if registered else registry.register(model_uri, name)
    parent.tag(**{REGISTERED_TAG: f"{name}/{version}"})
    labelled = list(dataset.cases)
    pairs = list(zip(dataset.cases.values(), dataset.load(labelled), strict=True))
    verdict = champion.challenge(name, version, pairs)
    parent.log_text(json.dumps(verdict.to_dict(), indent=2), "champion/verdict.json")
    if verdict.table is not None:
        parent.log_table(verdict.table, "champion/cases.csv")
    parent.tag(**{CHAMPION_TAG: verdict.reason})
    return verdict, version


def _notes_on(dataset: DataSet) -> list[str]:
    """What a reader of the test result must know about the split."""
    seen = {*dataset.split.train, *dataset.split.validation}
    repeated = [name for name in dataset.split.test if name in seen]
    if not repeated:
        return []
    return [f"Not an estimate: {len(repeated)} test cases were also trained or tuned on (data.split_file says so)."]


def _shell(command: str) -> str:
    """A command to copy, with this environment's programs on the path."""
    activate = Path(sys.executable).parent / "activate"
    return (f"source {shlex.quote(str(activate))} && " if activate.exists() else "") + command
