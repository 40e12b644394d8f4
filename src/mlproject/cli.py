"""The command line: which stage, with which settings; errors become one line and an exit code."""

import difflib
import gc
import json
import math
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from mlproject import config, credentials, interrupts, usage
from mlproject.errors import CasesFailedError, Interrupted, SettingsError, TrackingError, UserError
from mlproject.stages.console import complain, configure_logging, console, nothing_printed
from mlproject.training.launcher import placed

PROJECT = Path(__file__).parents[2]
SECONDS_TO_LEAVE = 15.0
"""For the server to take what is said of a run that was stopped before a stage had gone on in it."""
# stage: its module, the name of its settings, what it does
STAGES = {
    "describe": ("describe", "DescribeSettings", "show what a data set holds, and propose a configuration for it"),
    "main": ("pipeline", "Experiment", "train, tune the CRF, evaluate, register"),
    "train": ("train", "Experiment", "fit a network"),
    "search": ("search", "SearchSettings", "search loss weights and other settings, with Optuna"),
    "crossvalidate": (
        "crossvalidate",
        "CrossValidationSettings",
        "test every case once, in folds, and join the folds' networks",
    ),
    "reproduce": ("reproduce", "ReproduceSettings", "test the claims of the paper by experiments"),
    "postprocess": ("postprocess", "PostprocessSettings", "tune threshold and CRF of a trained run"),
    "evaluate": ("evaluate", "EvaluateSettings", "measure a model on labelled cases"),
    "predict": ("predict", "PredictSettings", "segment one case, or a folder of cases"),
    "sync": ("sync", "SyncSettings", "deliver what runs have logged while the MLflow server was gone"),
    "clean": ("clean", "CleanSettings", "show what work_dir holds, and remove what no run needs any more"),
}
SERVER_LIBRARIES = {"mlflow", "requests", "urllib3", "botocore", "boto3", "sqlalchemy"}
GPU_FULL = (
    "the GPU's memory is full: lower training.batch_size or patches.size, or prediction.window_batch where it came "
    "after the training; for `evaluate` and `postprocess` set prediction.device=cpu"
)


@dataclass(frozen=True)
class Options:
    """What every stage can be told beside its settings; usage.OPTIONS says what each means."""

    json: bool = False
    debug: bool = False
    print_config: bool = False
    help: bool = False


def main(arguments: Sequence[str]) -> int:
    """Run one stage, and return the exit code, as usage.EXIT_CODES lists them."""
    sys.argv[0] = str(Path(sys.argv[0]).resolve())  # where MLflow looks for the git commit to log
    _allow_many_files()
    try:
        options, words = _options(arguments)
    except SettingsError as error:
        complain("error", str(error))
        if any(word.startswith("--json") for word in arguments):
            _print_document({"stage": "", "status": "failed", "error": str(error)})
        return error.exit_code
    stage = words.pop(0) if words else ""
    configure_logging(options.debug)
    with nothing_printed() if options.json else nullcontext():
        code, document = _outcome(stage, words, options)
    if options.json:
        _print_document({"stage": stage, **document})
    return code


def _allow_many_files() -> None:
    """Let this process and its workers have open as many files as the system allows.

    Each case that is loaded keeps four open, mapped into memory; 1024, the usual start, would do for 250 cases.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _outcome(stage: str, arguments: Sequence[str], options: Options) -> tuple[int, dict[str, Any]]:
    """The exit code of a stage, and what --json says of it."""
    try:
        credentials.take_out_of_tracking_uri(os.environ)
        launcher = interrupts.launcher()
        if launcher is not None:
            # Paths and a relative tracking URI mean the folder in which the user typed `mlflow run`.
            os.chdir(launcher.cwd())
            interrupts.stop_with(launcher)
        interrupts.install()
        result = _run(stage, arguments, options)
        _leave_launchers_run(stopped=False)
        return 0, {"status": "finished", **(result or {})}
    except (Exception, Interrupted) as error:
        if options.debug:
            print(credentials.without(traceback.format_exc()), end="", file=sys.stderr)
        if not isinstance(error, TrackingError):  # of a server that is away
            _leave_launchers_run(interrupts.is_stop(error))
        text, code = _in_words(_stop_behind(error) or error)
        text = credentials.without(text)
        status = "stopped" if interrupts.is_stop(error) else "failed"
        result = error.result if isinstance(error, CasesFailedError) else {}
    complain("error", text)  # here: the exception is gone, and with it the bar of the step that it left
    return interrupts.exit_code(code), {"status": status, "error": text, **result}


def _stop_behind(error: BaseException | None) -> Interrupted | None:
    """What a signal has raised, where the work that it ended has failed on its way out, too."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def _leave_launchers_run(stopped: bool) -> None:
    """Leave the run that `mlflow run` has opened, where no stage has gone on in it, without a token and as stopped."""
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    failures = ["the server does not answer"]

    def leave() -> None:
        try:
            patience = import_module("mlproject.tracking.patience")
            patience.install()
            with patience.at_most(patience.SECONDS_TO_BRIDGE):
                import_module("mlproject.tracking.source").mend_source()
                if stopped:
                    import_module("mlproject.tracking.runs").close_unopened()
            failures.clear()
        except Exception as error:  # how the stage has ended matters more
            failures[:] = [credentials.without(str(error).partition("\n")[0])]

    at_work = threading.Thread(target=leave, daemon=True)
    at_work.start()
    with suppress(Interrupted):  # by another signal: it is not waited for any longer
        at_work.join(SECONDS_TO_LEAVE if stopped else None)
    for reason in failures:
        complain("warning", f"the run of `mlflow run` is left as it was, a token in its source, too ({reason})")


def _run(stage: str, arguments: Sequence[str], options: Options) -> Mapping[str, Any] | None:
    if stage not in STAGES and (options.help or not stage):
        overview = _help(usage.show_overview, {stage: what for stage, (_, _, what) in STAGES.items()})
        if options.help:
            return overview
        raise SettingsError("no stage is given: it is the first word, as in `python src/run.py main`")
    if stage not in STAGES:
        near = difflib.get_close_matches(stage, STAGES, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(STAGES)}"
        raise SettingsError(f"no stage is called {stage!r}: {advice} (python src/run.py --help)")
    module, settings_name, what = STAGES[stage]
    with _no_collection():
        settings_class = getattr(import_module("mlproject.stages.settings"), settings_name)
    if options.help:
        return _help(usage.show_stage, stage, what, settings_class)
    settings = placed(stage, config.load(settings_class, arguments, [Path.cwd(), PROJECT], stage), os.environ)
    if options.print_config:
        tree = config.taken(settings)
        console.print(config.as_yaml(tree), end="")
        return {"settings": tree}
    with _no_collection():  # only now: the heavy libraries
        function: Callable[[Any], Mapping[str, Any] | None] = import_module(f"mlproject.stages.{module}").run
    return function(settings)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Within: Python does not look for garbage, which takes a fifth of the time of importing large libraries."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # both together call all that there is old, and look at none of it
        gc.unfreeze()
        gc.enable()


def _help(show: Callable[..., None], *about: Any) -> dict[str, str]:
    """Show a page of `usage`; with --json, where nothing is printed, it is part of the document instead."""
    if not console.quiet:
        show(*about)
        return {}
    with redirect_stdout(StringIO()) as page:
        show(*about)
    return {"help": page.getvalue()}


def _options(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """The global options, wherever they stand (`--json`, `--json true`, `--json=true`), and the other words."""
    given: dict[str, bool] = {}
    others: list[str] = []
    words = ["--help" if word == "-h" else word for word in arguments]
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--") or name[2:] not in Options.__dataclass_fields__:
            others.append(f"{name}{equals}{value}")
            continue
        if not equals:
            value = words.pop(0) if words and words[0] in ("true", "false") else "true"
        if value not in ("true", "false"):
            raise SettingsError(f"{name} is true or false, got {value!r}")
        given[name[2:]] = value == "true"
    return Options(**given), others


def _in_words(error: Exception | Interrupted) -> tuple[str, int]:
    """What an exception says to a user, and its exit code."""
    if isinstance(error, UserError | Interrupted):
        return str(error), error.exit_code
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if kinds & SERVER_LIBRARIES:
        return f"the tracking server or a bucket failed: {first_line}", 1
    if type(error).__name__ == "OutOfMemoryError":
        return GPU_FULL, 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}", 1
    return (
        f"{type(error).__name__}: {first_line}. This is a fault of the software: run the same command again with "
        "--debug, and report what it prints"
    ), 1


def _print_document(document: Mapping[str, Any]) -> None:
    print(json.dumps(_plain(document), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON values of a stage's result; what is undefined or infinite is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
