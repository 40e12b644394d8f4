"""The command line: which stage, with which settings; our errors become one line and an exit code."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.logging import RichHandler

from mlproject import config, interrupts
from mlproject.errors import UserError

PROJECT = Path(__file__).parents[2]
# stage: its module, the name of its settings, what it does
STAGES = {
    "main": ("pipeline", "Experiment", "train, tune the CRF, evaluate, register"),
    "train": ("train", "Experiment", "fit a network"),
    "search": ("search", "SearchSettings", "search loss weights and other settings, with Optuna"),
    "postprocess": ("postprocess", "PostprocessSettings", "tune threshold and CRF of a trained run"),
    "evaluate": ("evaluate", "EvaluateSettings", "measure a model on labelled cases"),
    "predict": ("predict", "PredictSettings", "segment one case"),
}


def main(arguments: Sequence[str]) -> int:
    """Run one stage, and return the exit code: 0, 2 for what the user can mend, 1 for what failed on the way."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    stage = arguments[0]
    if stage not in STAGES:
        print(f"error: no stage is called {stage!r}\n{_usage()}", file=sys.stderr)
        return 2
    sys.argv[0] = str(Path(sys.argv[0]).resolve())  # where MLflow looks for the git commit to log
    launcher = interrupts.launcher()
    if launcher is not None:
        # Paths and a relative tracking URI mean the folder in which the user typed `mlflow run`.
        os.chdir(launcher.cwd())
        interrupts.stop_with(launcher)
    interrupts.install()
    _configure_logging()
    try:
        function, settings = _load(stage, arguments[1:])
        function(settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return interrupts.exit_code(error.exit_code)
    except Exception as error:
        if type(error).__module__ != "mlflow.exceptions":
            raise
        print(f"error: the tracking server failed: {str(error).splitlines()[0]}", file=sys.stderr)
        return interrupts.exit_code(1)
    return 0


def _load(stage: str, arguments: Sequence[str]) -> tuple[Callable[[Any], None], Any]:
    """The stage's function and its settings. Only now are the heavy libraries imported."""
    module, settings_name, _ = STAGES[stage]
    settings_class = getattr(import_module("mlproject.stages.settings"), settings_name)
    settings = config.load(settings_class, arguments, [Path.cwd(), PROJECT], stage)
    return import_module(f"mlproject.stages.{module}").run, settings


def _configure_logging() -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(show_time=False, show_path=False)] if sys.stderr.isatty() else None,
    )
    logging.getLogger("mlproject").setLevel(logging.INFO)
    # Set before MLflow configures its own logger: it reports every step of its system monitor at INFO.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def _usage() -> str:
    lines = [f"  {name:12} {what}" for name, (_, _, what) in STAGES.items()]
    return "\n".join(
        ["usage: python src/run.py STAGE [--config FILE] [--a.b VALUE ...]", "", "stages:", *lines, "",
         "python src/run.py STAGE --help lists every setting."]
    )  # fmt: skip
