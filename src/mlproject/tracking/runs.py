"""MLflow runs: opened, resumed, filled and closed. The only importer of MLflow's tracking calls."""

import ast
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
from numpy.typing import NDArray

from mlproject import config, interrupts
from mlproject.data.case_names import for_others
from mlproject.data.splits import Split
from mlproject.errors import SettingsError, TrackingError
from mlproject.tracking import experiment_page, keep_killed
from mlproject.tracking.server import public_uri
from mlproject.tracking.settings import TrackingSettings
from mlproject.training.progress import Point

PARENT_TAG, STAGE_TAG, NOTE_TAG = "mlflow.parentRunId", "stage", "mlflow.note.content"
WRITTEN_TAG = "mlflow.note.written"  # the description as the run itself has left it; the UI hides mlflow.*
NOTE_LENGTH = 8000  # the most that a tag holds
_opened_by_launcher = ""


class Run:
    """An open MLflow run.

    Attributes:
        id, experiment_id: MLflow's.
        ends_as: the status with which `open_run` closes it, where nothing is raised.
    """

    def __init__(self, run: mlflow.entities.Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.ends_as = "FINISHED"
        self.client = mlflow.MlflowClient()
        self._measured: dict[str, str] = {}

    def log_settings(self, settings: Any) -> None:
        """Every setting as a parameter `cfg.<dotted name>`, and all of them as config.yaml.

        A run that is gone on with keeps the parameters it began with; config.yaml has the present ones.
        """
        known = self.client.get_run(self.id).data.params
        new = [Param(name, value) for name, value in _as_parameters(settings).items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.id, params=new[start : start + 100])
        self.client.log_text(self.id, config.dump(settings), "config.yaml")

    def log_points(self, points: Sequence[Point]) -> None:
        """Metrics with the step and time at which they were measured; what MLflow has already, it keeps once."""
        metrics = [
            Metric(name, value, point.timestamp_ms, point.step, **self._measured)
            for point in points
            for name, value in point.metrics.items()
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Results of the run as a whole, or of one step; an undefined one (NaN) is not logged."""
        defined = {name: value for name, value in metrics.items() if not math.isnan(value)}
        self.log_points([Point(step, time.time_ns() // 1_000_000, defined)])

    def log_curve(self, name: str, values: Iterable[float]) -> None:
        """A metric with a value at each step 0, 1, 2 ..., in one batch; an undefined one (NaN) is left out."""
        now = time.time_ns() // 1_000_000
        self.log_points([Point(step, now, {name: value}) for step, value in enumerate(values) if not math.isnan(value)])

    def measures(self, model_uri: str, dataset: str, digest: str) -> None:
        """From now on, the metrics logged are also those of this model (models:/ID; none if empty) on this data set."""
        if not model_uri:
            return
        model_id = model_uri.removeprefix("models:/")
        self._measured = {"model_id": model_id, "dataset_name": dataset, "dataset_digest": digest}

    def log_picture(self, key: str, picture: NDArray[np.uint8], step: int) -> None:
        """An image (rows, columns, 3) of one step: the UI shows those of one key with a slider over the steps."""
        self.client.log_image(self.id, picture, key=key, step=step, synchronous=True)

    def describe(self, text: str) -> None:
        """The run's description, in Markdown; one that somebody has written in the UI stays."""
        tags = self.client.get_run(self.id).data.tags
        if tags.get(NOTE_TAG, "") == tags.get(WRITTEN_TAG, ""):
            self.tag(**{NOTE_TAG: text[:NOTE_LENGTH], WRITTEN_TAG: text[:NOTE_LENGTH]})

    def rename(self, name: str) -> None:
        """Give the run a telling name in place of one that MLflow has made up (`mlflow run` without --run-name)."""
        made_up, _, number = str(self.client.get_run(self.id).info.run_name).rpartition("-")
        if number.isdigit() and set(made_up.split("-")) <= {*_GENERATOR_PREDICATES, *_GENERATOR_NOUNS}:
            self.client.update_run(self.id, name=name)

    def log_dataset(self, name: str, digest: str, root: str, split: Split) -> None:
        """The data set with its digest as an MLflow input, and which case is in which part as split.csv."""
        table = pd.DataFrame(split.to_rows(), columns=["case", "split"])
        with warnings.catch_warnings():  # MLflow has two kinds of local source and wonders which
            warnings.simplefilter("ignore")
            dataset = from_pandas(table, source=root, name=name, digest=digest)
        mlflow.log_input(dataset, context="training, validation, test" if split.train else "test")
        self.client.log_text(self.id, table.to_csv(index=False), "split.csv")

    def log_figure(self, figure: Figure, file: str) -> None:
        """A matplotlib figure as an artifact."""
        self.client.log_figure(self.id, figure, file)

    def log_folder(self, folder: Path, to: str) -> None:
        """Every file of a folder as artifacts under `to`."""
        self.client.log_artifacts(self.id, str(folder), to)

    def log_file(self, path: Path, to: str) -> None:
        """One file as an artifact under `to`."""
        self.client.log_artifact(self.id, str(path), to)

    def log_table(self, table: pd.DataFrame, file: str) -> None:
        """A table as CSV."""
        self.client.log_text(self.id, table.to_csv(index=False), file)

    def log_text(self, text: str, file: str) -> None:
        """A text as an artifact."""
        self.client.log_text(self.id, text, file)

    def tag(self, **tags: str) -> None:
        """Set tags; dots in MLflow's own names are written as double underscores."""
        for name, value in tags.items():
            self.client.set_tag(self.id, name.replace("__", "."), value)


def _as_parameters(settings: Any) -> dict[str, str]:
    return {f"cfg.{name}": str(value) for name, value in config.flatten(config.to_tree(settings)).items()}


def refuse_other_settings(
    run_id: str, settings: Any, may_change: Sequence[str], otherwise: str = "begin a run"
) -> None:
    """Raise SettingsError where a run was begun with settings that differ from these.

    Settings whose names begin with one of `may_change` may differ. A run that has none yet passes. `otherwise`: what a
    user can do who wants the other settings.
    """
    known = find(run_id).data.params
    differences = [
        f"{name.removeprefix('cfg.')}: {known[name]} then, {value} now"
        for name, value in _as_parameters(settings).items()
        if not _same(known.get(name, value), value) and not name.removeprefix("cfg.").startswith(tuple(may_change))
    ]
    if differences:
        raise SettingsError(
            f"run {run_id} cannot go on with other settings ({', '.join(differences)}): give the same ones, or "
            f"{otherwise}"
        )


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
) -> Iterator[Run]:
    """An MLflow run, new or (by `run_id`) gone on with, closed as what it came to: FINISHED, FAILED or KILLED.

    It has its `tags` from its first moment, so that whoever finds it after a kill -9 knows what it is.
    """
    where: dict[str, Any] = {
        "log_system_metrics": settings.system_metrics,
        "nested": parent is not None,
        "tags": {STAGE_TAG: stage, **(tags or {})},
    }
    if run_id:
        refuse_other_stage(run_id, stage)
        where["run_id"] = run_id
    else:
        where |= {"run_name": name, "experiment_id": parent.experiment_id if parent else _experiment(settings)}
    try:
        active = mlflow.start_run(**where)
    except MlflowException as error:
        raise TrackingError(f"run {run_id or name} cannot be opened: {error.message.splitlines()[0]}") from error
    run = Run(active)
    try:
        if parent is None:
            experiment_page.set_up(run.experiment_id)
        else:  # which need not be the run that this process has open
            run.tag(**{PARENT_TAG: parent.id})
        yield run
    except BaseException as error:
        if not interrupts.is_stop(error):
            try:
                run.tag(failure=for_others(str(error))[:5000] or type(error).__name__)
            finally:
                mlflow.end_run("FAILED")
            raise
        mlflow.end_run("KILLED")
        if interrupts.watched is not None and run.id == _opened_by_launcher:
            command = [sys.executable, keep_killed.__file__, str(interrupts.watched.pid), run.id]
            environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
            nowhere = subprocess.DEVNULL
            subprocess.Popen(command, env=environment, start_new_session=True, stdout=nowhere, stderr=nowhere)
        raise
    mlflow.end_run(run.ends_as)


def begin(settings: TrackingSettings, name: str, run_id: str = "") -> str:
    """A run (a new one, or the one given) that several processes will share, each by `attach`; its id."""
    if run_id:
        return run_id
    tags = resolve_tags()  # git commit, user ..., as mlflow.start_run sets them
    return str(mlflow.MlflowClient().create_run(_experiment(settings), tags=tags, run_name=name).info.run_id)


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
    with tempfile.TemporaryDirectory() as folder:
        file = download(run_id, artifact, Path(folder))
        return file.read_text() if file else None


def child(parent_id: str, stage: str) -> mlflow.entities.Run | None:
    """The newest run of a stage under a parent run."""
    found = children(parent_id, **{STAGE_TAG: stage})
    return found[0] if found else None


def find(run_id: str) -> mlflow.entities.Run:
    """A run by its id. Raises TrackingError where there is none."""
    try:
        return mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
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


def history(run_id: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Curves of a run as one table: `step`, and for each metric the column named for it, NaN where not measured."""
    client = mlflow.MlflowClient()
    curves = {
        column: pd.Series({p.step: p.value for p in client.get_metric_history(run_id, metric)}, dtype=float)
        for metric, column in columns.items()
    }
    return pd.DataFrame(curves).rename_axis("step").reset_index()


def moments(run_id: str, metric: str) -> pd.Series:
    """When each step (index) of a metric was measured, in seconds since 1970."""
    points = mlflow.MlflowClient().get_metric_history(run_id, metric)
    return pd.Series({point.step: point.timestamp / 1000 for point in points}, dtype=float).sort_index()
