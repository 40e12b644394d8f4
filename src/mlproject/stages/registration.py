"""What `main` and `search` end with: the test result, the model registered, the champion challenged."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlproject.data.dataset import DataSet
from mlproject.prediction.segmenter import Segmenter
from mlproject.stages.console import console
from mlproject.stages.evaluate import evaluate, headline
from mlproject.stages.settings import Experiment
from mlproject.tracking import champion, registry, runs
from mlproject.tracking.runs import Run
from mlproject.tracking.server import public_uri

REGISTERED_TAG, SOURCE_TAG, CHAMPION_TAG = "registered_model", "registered_model_source", "champion"


def conclude(
    settings: Experiment, dataset: DataSet, segmenter: Segmenter, model_uri: str, parent: Run, facts: Mapping[str, str]
) -> None:
    """Measure a model on the test cases in a child run, log its result to the parent, register it, and print it all.

    `facts`: what the report says of where the model comes from, beside the model and the data.
    """
    with child_run(settings, parent, "evaluate") as child:
        data = f"{settings.data.root_path.name}, digest {dataset.digest}"
        facts = {"model": model_uri, "data": data, **facts}
        test = dataset.load(dataset.split.test)
        results = evaluate(segmenter, test, child, settings, facts, _notes_on(dataset))
    parent.log_metrics(headline(results.summaries, results.differences, results.chosen))
    verdict, version = _register(settings, dataset, model_uri, parent)
    results.show()
    _say_where(results.report, settings.tracking.registered_model, version, verdict)


@contextmanager
def child_run(settings: Experiment, parent: Run, stage: str) -> Iterator[Run]:
    """The run of one stage below a parent: the one that was stopped, else a new one."""
    stopped = runs.child(parent.id, stage)
    run_id = str(stopped.info.run_id) if stopped else ""
    with runs.open_run(settings.tracking, stage, stage, run_id=run_id, parent=parent) as child:
        yield child


def _register(settings: Experiment, dataset: DataSet, model_uri: str, parent: Run) -> tuple[champion.Verdict, int]:
    """Register a model, let it challenge the champion, and leave the verdict in the parent run.

    Stopped between the two and called again, it takes the version that it has registered.
    """
    name = settings.tracking.registered_model
    tags = runs.find(parent.id).data.tags
    known = tags[REGISTERED_TAG].rpartition("/")[2] if tags.get(SOURCE_TAG) == model_uri else ""
    version = int(known) if known else registry.register(model_uri, name)
    parent.tag(**{REGISTERED_TAG: f"{name}/{version}", SOURCE_TAG: model_uri})
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


def _say_where(report: Path, name: str, version: int, verdict: champion.Verdict) -> None:
    """Print where report and model are, and the commands that show and serve them."""
    console.print(f"\nreport:  {report}\nmodel:   models:/{name}/{version} ({verdict.reason})")
    uri = public_uri()
    ui = _shell(f"mlflow ui --backend-store-uri {shlex.quote(uri)} --port 5000    then http://127.0.0.1:5000")
    console.print(f"look:    {uri if uri.startswith('http') else ui}")
    serve = f"mlflow models serve -m models:/{name}/{version} --env-manager local -p 5001"
    console.print(f"serve:   {_shell(f'MLFLOW_TRACKING_URI={shlex.quote(uri)} {serve}')}")


def _shell(command: str) -> str:
    """A command to copy, with this environment's programs on the path."""
    activate = Path(sys.executable).parent / "activate"
    return (f"source {shlex.quote(str(activate))} && " if activate.exists() else "") + command
