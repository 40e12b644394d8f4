"""Commands that a stage prints for people to copy: they work from any folder, in a new shell."""

import shlex
import sys
from pathlib import Path

import mlflow

from mlproject.tracking.server import public_uri


def stage_command(stage: str, **settings: str) -> str:
    """A stage with some settings (dots are double underscores), against the same tracking server."""
    words = [sys.executable, str(Path(sys.argv[0]).absolute()), stage]
    for name, value in settings.items():
        words += [f"--{name.replace('__', '.')}", value]
    return f"{_server()}{shlex.join(words)}"


def mlflow_command(command: str, needs_server: bool = False) -> str:
    """A command of MLflow, with this environment's programs on the path."""
    activate = Path(sys.executable).parent / "activate"
    with_path = f"source {shlex.quote(str(activate))} && " if activate.exists() else ""
    return f"{with_path}{_server() if needs_server else ''}{command}"


def run_address(run_id: str, experiment_id: str) -> str:
    """Where a run is looked at: the page of a server, else its id."""
    uri = public_uri()
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if uri.startswith("http") else run_id


def _server() -> str:
    """The variable that names the server; not where the address holds a password, which is in the environment then."""
    uri = public_uri()
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if uri == mlflow.get_tracking_uri() else ""
