"""What `main` and `search` end with: the model registered, the champion challenged, and where to find it all."""

import json
import shlex
import sys
from pathlib import Path

from mlproject.data.dataset import DataSet
from mlproject.stages.console import console
from mlproject.stages.settings import Experiment
from mlproject.tracking import champion, registry, runs
from mlproject.tracking.runs import Run
from mlproject.tracking.server import public_uri

REGISTERED_TAG, SOURCE_TAG, CHAMPION_TAG = "registered_model", "registered_model_source", "champion"


def register(settings: Experiment, dataset: DataSet, model_uri: str, parent: Run) -> tuple[champion.Verdict, int]:
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


def notes_on(dataset: DataSet) -> list[str]:
    """What a reader of the test result must know about the split."""
    seen = {*dataset.split.train, *dataset.split.validation}
    repeated = [name for name in dataset.split.test if name in seen]
    if not repeated:
        return []
    return [f"Not an estimate: {len(repeated)} test cases were also trained or tuned on (data.split_file says so)."]


def say_where(report: Path, name: str, version: int, verdict: champion.Verdict) -> None:
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
