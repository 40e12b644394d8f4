"""Commands that a stage prints for people to copy: they work from any folder, in a new shell."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import mlflow

from mlproject import config
from mlproject.stages.settings import Experiment
from mlproject.tracking.server import public_uri


def stage_command(stage: str, kind: type[Experiment], settings: Experiment, **more: str) -> str:
    """A stage against the same tracking server, with `more` and those of these settings that it takes.

    `kind`: the stage's own settings. What has its default value is left out.
    """
    usual = config.flatten(config.to_tree(Experiment()))
    given = {
        name: value
        for name, value in config.flatten(config.to_tree(settings)).items()
        if config.is_taken(kind, name) and value != usual.get(name)
    }
    return f"{_server()}{plain_command(stage, **more, **given)}"


def plain_command(stage: str, **settings: Any) -> str:
    """A stage with these settings, dotted name → value, whatever the tracking server."""
    words = [sys.executable, str(Path(sys.argv[0]).absolute()), stage]
    for name, value in settings.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def mlflow_command(command: str, needs_server: bool = False) -> str:
    """A command of MLflow, with this environment's programs on the path."""
    activate = Path(sys.executable).parent / "activate"
    with_path = f"source {shlex.quote(str(activate))} && " if activate.exists() else ""
    return f"{with_path}{_server() if needs_server else ''}{command}"


def run_address(run_id: str, experiment_id: str) -> str:
    """Where a run is looked at: the page of a server, else its id."""
    uri = public_uri()
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if uri.startswith("http") else run_id


def how_to_look(run_id: str, experiment_id: str) -> str:
    """How a run is looked at: the page of a server, else the command that opens MLflow's UI on the database."""
    uri = public_uri()
    if uri.startswith("http"):
        return run_address(run_id, experiment_id)
    port = "--port 5000    then http://127.0.0.1:5000"
    return mlflow_command(f"mlflow ui --backend-store-uri {shlex.quote(uri)} {port}")


def _server() -> str:
    """The variable that names the server; not where the address holds a password, which is in the environment then."""
    uri = public_uri()
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if uri == mlflow.get_tracking_uri() else ""
