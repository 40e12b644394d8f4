"""MLflow runs: opened, resumed, found and closed."""

import ast
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from mlproject import interrupts
from mlproject.data.case_names import for_others
from mlproject.errors import SettingsError, TrackingError, UndeliveredError
from mlproject.tracking import experiment_page, keep_killed, patience
from mlproject.tracking.patience import CREATION_TAG
from mlproject.tracking.run import Run, as_parameters
from mlproject.tracking.server import public_uri, refusal
from mlproject.tracking.settings import TrackingSettings
from mlproject.tracking.spool import Spool
from mlproject.tracking.system_metrics import SystemMetrics

logger = logging.getLogger(__name__)

PARENT_TAG, STAGE_TAG = "mlflow.parentRunId", "stage"
SECONDS_TO_STOP = 10.0
"""After a signal, for what is logged to be delivered; the rest waits on the disk. A fold of a cross-validation closes
three runs, each of which may wait some seconds more for a server that says nothing."""
SOON = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""Attempts and seconds of MLflow's calls in a process that nobody waits for."""
NO_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for an id that no run has, and for one that none can have."""
HIDDEN = "PERMISSION_DENIED"
"""A server with users says so of a run that is not there, too, lest anybody find out which are."""
_opened_by_launcher = ""
_open_here: list[str] = []
"""The runs that are open in this process: a command's own, and those below it."""
_refused_here: list[str] = []
"""What was said of runs closed since, of whose entries the server has refused some for good."""


def refuse_other_settings(
    run_id: str, settings: Any, may_change: Sequence[str], otherwise: str = "begin a run"
) -> None:
    """Raise SettingsError where a run was begun with settings that differ from these.

    Settings whose names begin with one of `may_change` may differ. A run that has none yet passes. `otherwise`: what a
    user can do who wants the other settings.
    """
    if differences := other_settings(run_id, settings, may_change):
        raise SettingsError(
            f"run {run_id} cannot go on with other settings ({', '.join(differences)}): give the same ones, or "
            f"{otherwise}"
        )


def other_settings(run_id: str, settings: Any, may_change: Sequence[str]) -> list[str]:
    """What differs from the settings with which a run was begun; `may_change`: as `refuse_other_settings` takes it."""
    known = find(run_id).data.params
    return [
        f"{name.removeprefix('cfg.')}: {known[name]} then, {value} now"
        for name, value in as_parameters(settings).items()
        if not _same(known.get(name, value), value) and not name.removeprefix("cfg.").startswith(tuple(may_change))
    ]


def _same(one: str, other: str) -> bool:
    """Whether two parameters are one value, as a default of 300 and the 300.0 that is read from a file are."""
    try:
        return one == other or bool(ast.literal_eval(one) == ast.literal_eval(other))
    except (ValueError, SyntaxError):
        return False


def refuse_other_data(run_id: str, digest: str, otherwise: str = "begin a run") -> None:
    """Raise SettingsError where a run was begun on a data set, or a split of it, with another digest.

    `otherwise`: as in `refuse_other_settings`.
    """
    inputs = find(run_id).inputs
    known = [entry.dataset.digest for entry in inputs.dataset_inputs] if inputs else []
    if known and digest not in known:
        raise SettingsError(
            f"run {run_id} was begun on other data or another split (digest {known[0]} then, {digest} now), so what it "
            f"was trained on could be tested on: give the same data, or {otherwise}"
        )


def refuse_other_stage(run_id: str, *stages: str) -> None:
    """Raise SettingsError where a run was begun as none of these stages."""
    begun_as = find(run_id).data.tags.get(STAGE_TAG, stages[0])
    if begun_as not in stages:
        raise SettingsError(
            f"run {run_id} is a run of {begun_as}, not of {stages[0]}: give that stage, or another run's id"
        )


@contextmanager
def open_run(
    settings: TrackingSettings,
    name: str,
    stage: str,
    *,
    run_id: str = "",
    parent: Run | None = None,
    tags: Mapping[str, str] | None = None,
    spools: Path | None = None,
) -> Iterator[Run]:
    """An MLflow run, new or (by `run_id`) gone on with, closed as what it came to: FINISHED, FAILED or KILLED.

    It has its `tags` from its first moment, so that whoever finds it after a kill -9 knows what it is. `spools`: folder
    where what it logs waits for the server, while the work goes on; without, each call waits itself.

    What the server refuses for good ends a run below another one with a warning, and is raised by the outermost.

    Raises:
        TrackingError: the run cannot be opened, or another process has it open.
        UndeliveredError: all is done, and some of what was logged waits in the spool.
    """
    patience.install(settings.wait_s)
    all_tags = {STAGE_TAG: stage, **({PARENT_TAG: parent.id} if parent else {}), **(tags or {})}
    if run_id:
        refuse_other_stage(run_id, stage)
    opened, spool = _open(settings, name, run_id, parent, all_tags, spools)
    run = Run(opened, spool)
    _open_here.append(run.id)
    try:
        with _load_of_machine(run, bool(run_id), settings.wait_s) if settings.system_metrics else nullcontext():
            yield run
    except BaseException as error:
        _close_after(run, error, settings.wait_s)
        raise
    else:
        _say_what_is_left(run, run.close(run.ends_as, settings.wait_s))
    finally:
        _open_here.remove(run.id)
        if not _open_here:
            _refused_here.clear()


def _open(
    settings: TrackingSettings,
    name: str,
    run_id: str,
    parent: Run | None,
    tags: Mapping[str, str],
    spools: Path | None,
) -> tuple[mlflow.entities.Run, Spool | None]:
    """A run with its tags, and its spool; see `open_run`. A run that cannot be opened after all is not left RUNNING."""
    opened = None
    try:
        if not run_id:
            opened = _create(parent.experiment_id if parent else _experiment(settings), name, tags)
        own = opened.info.run_id if opened else run_id
        spool = Spool(spools / own, public_uri()) if spools is not None else None
        opened = opened or _again(run_id, tags)
        if parent is None:
            experiment_page.set_up(opened.info.experiment_id)
    except MlflowException as error:
        raise TrackingError(f"run {run_id or name} cannot be opened: {error.message.splitlines()[0]}") from error
    except TrackingError as error:
        if opened is not None and not run_id:
            close(opened.info.run_id, "FAILED", str(error))
        raise
    except KeyboardInterrupt:
        with suppress(MlflowException):
            close(opened.info.run_id if opened else run_id, "KILLED")
        if run_id == _opened_by_launcher:
            _keep_killed(run_id)
        raise
    return opened, spool


def _create(experiment: str, name: str, tags: Mapping[str, str]) -> mlflow.entities.Run:
    """A new run; one only, should its creation be answered too late."""
    client, key = mlflow.MlflowClient(), uuid4().hex
    all_tags = resolve_tags({**tags, CREATION_TAG: key})  # git commit, user ..., as mlflow.start_run sets them
    created: mlflow.entities.Run = patience.once(
        lambda: client.create_run(experiment, tags=all_tags, run_name=name),
        lambda: client.search_runs([experiment], f"tags.`{CREATION_TAG}` = '{key}'"),
    )
    return created


def _again(run_id: str, tags: Mapping[str, str]) -> mlflow.entities.Run:
    """A run that exists, RUNNING again. Raises TrackingError for one that is deleted."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.lifecycle_stage != "active":
        raise TrackingError(f"run {run_id} is deleted: restore it in the MLflow UI, or begin a run")
    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    return client.get_run(run_id)


@contextmanager
def _load_of_machine(run: Run, go_on: bool, wait_s: float) -> Iterator[None]:
    """Within: the machine's load is logged. `go_on`: as SystemMetrics takes it; what still waits is delivered first."""
    if go_on:
        run.flush(wait_s)  # else the server would not know the last step
    sampler = SystemMetrics(run.id, lambda point: run.log_points([point]), go_on)
    sampler.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        sampler.finish()  # type: ignore[no-untyped-call]


def _say_what_is_left(run: Run, undelivered: str) -> None:
    """Raise UndeliveredError where something waits; of a run below another one, not for what was refused for good."""
    if run.waits():
        raise UndeliveredError(undelivered)
    if undelivered:
        _refused_here.append(undelivered)
    if _refused_here and _open_here == [run.id]:
        raise UndeliveredError("; ".join(_refused_here))
    if undelivered:
        logger.warning(undelivered)


def _close_after(run: Run, error: BaseException, wait_s: float) -> None:
    """Close a run that an exception ends: KILLED or FAILED, and without keeping whoever stops it waiting."""
    if interrupts.is_stop(error):
        undelivered = run.close("KILLED", interrupts.seconds_left(SECONDS_TO_STOP), in_all=True)
        if run.id == _opened_by_launcher:
            _keep_killed(run.id)
    else:
        with suppress(TrackingError):  # the disk is full
            run.tag(failure=for_others(str(error))[:5000] or type(error).__name__)
        # Where a call, or a run below, has waited in vain, this one need not wait as long.
        in_vain = isinstance(error, UndeliveredError) or patience.given_up()
        undelivered = run.close("FAILED", 0 if in_vain else wait_s)
    if undelivered:
        logger.warning(undelivered)


def close_unopened() -> None:
    """Close the run that `mlflow run` has opened as KILLED: a signal came before a stage had gone on in it."""
    if run_id := given_run_id(""):
        close(run_id, "KILLED")
        _keep_killed(run_id)


def _keep_killed(run_id: str) -> None:
    """See to it that `mlflow run`, where it still lives, does not make a killed run FAILED."""
    if interrupts.watched is None:
        return
    command = [sys.executable, keep_killed.__file__, str(interrupts.watched.pid), run_id]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), **SOON}
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, env=environment, start_new_session=True, stdout=nowhere, stderr=nowhere)


def begin(settings: TrackingSettings, name: str, run_id: str = "") -> str:
    """A run (a new one, or the one given) that several processes will share, each by `attach`; its id."""
    if run_id:
        return run_id
    return str(_create(_experiment(settings), name, {}).info.run_id)


def attach(run_id: str) -> Run:
    """A run that other processes work in, too; RUNNING again, whatever one of them has closed it as."""
    run = find(run_id)
    if run.info.status != "RUNNING":
        mlflow.MlflowClient().update_run(run_id, status="RUNNING")
    return Run(run)


def close(run_id: str, status: str, failure: str = "") -> None:
    """Close a run that its own process may not have closed; `failure` says why. One that is closed stays as it is."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active":
        if failure:
            client.set_tag(run_id, "failure", for_others(failure))
        client.set_terminated(run_id, status)


def children(parent_id: str, **tags: str) -> list[mlflow.entities.Run]:
    """The runs below a parent run that have these tags, the newest first."""
    client = mlflow.MlflowClient()
    conditions = {PARENT_TAG: parent_id, **tags}
    found = client.search_runs(
        [client.get_run(parent_id).info.experiment_id],
        " and ".join(f"tags.`{name}` = '{value}'" for name, value in conditions.items()),
    )
    return list(found)


def _experiment(settings: TrackingSettings) -> str:
    if under_mlflow_run := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return under_mlflow_run
    client = mlflow.MlflowClient()
    with suppress(MlflowException):  # it exists, perhaps since a moment ago
        client.create_experiment(settings.experiment)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        raise TrackingError(
            f"the experiment {settings.experiment!r} cannot be made: choose another tracking.experiment"
        )
    return str(experiment.experiment_id)


def given_run_id(resume: str) -> str:
    """The run to work in: the one to resume, else the one that `mlflow run` has opened, else none ("").

    Takes MLFLOW_RUN_ID out of the environment, lest a nested run takes it for its own.
    """
    global _opened_by_launcher
    opened = _opened_by_launcher = os.environ.pop("MLFLOW_RUN_ID", "")
    if opened and resume and opened != resume:
        client = mlflow.MlflowClient()
        client.set_tag(opened, "resumed", resume)
        client.set_tag(opened, "mlflow.note.content", f"Went on in run {resume} (training.resume).")
    return resume or opened


def newest(settings: TrackingSettings, stage: str, **tags: str) -> str:
    """The id of the newest run of a stage with these tags, where runs are logged; "" where there is none."""
    client = mlflow.MlflowClient()
    conditions = {STAGE_TAG: stage, **tags}
    found = client.search_runs(
        [_experiment(settings)],
        " and ".join(f"tags.`{name}` = '{value}'" for name, value in conditions.items()),
        max_results=1,
    )
    return str(found[0].info.run_id) if found else ""


def read_text(run_id: str, artifact: str) -> str | None:
    """A text among a run's artifacts; None where it has none of that name."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = download(run_id, artifact, Path(folder))
        return file.read_text() if file else None


def child(parent_id: str, stage: str, **tags: str) -> mlflow.entities.Run | None:
    """The newest run of a stage under a parent run that has these tags."""
    found = children(parent_id, **{STAGE_TAG: stage}, **tags)
    return found[0] if found else None


def find(run_id: str) -> mlflow.entities.Run:
    """A run by its id. Raises TrackingError where there is none, or the server is away or refuses."""
    try:
        return mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if patience.given_up():
            raise TrackingError(f"run {run_id} cannot be read: {error.message.splitlines()[0]}") from error
        if error.error_code == HIDDEN:
            raise TrackingError(
                f"{public_uri()} shows this user no run {run_id!r}: there is none, or its experiment may not be read. "
                "Copy the id from the MLflow UI; if it is right, ask the server's administrator for READ"
            ) from error
        if error.error_code not in NO_RUN:
            raise TrackingError(f"run {run_id} cannot be read: {refusal(error)}") from error
        raise TrackingError(
            f"no run {run_id!r} on {public_uri()}: copy the id from the MLflow UI, or set "
            "MLFLOW_TRACKING_URI to the server that has it"
        ) from error


def download(run_id: str, artifact: str, folder: Path) -> Path | None:
    """An artifact of a run, downloaded into `folder`; None where the run has none of that name."""
    client = mlflow.MlflowClient()
    parent = artifact.rpartition("/")[0]
    if artifact not in {entry.path for entry in client.list_artifacts(run_id, parent or None)}:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, artifact, str(folder)))
