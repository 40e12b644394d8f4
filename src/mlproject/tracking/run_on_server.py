"""What becomes of each entry that a run has logged, on the server: done once, however often it is sent."""

from collections.abc import Callable, Sequence
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_IMAGES
from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from mlproject.evaluation.figures import loss_curves
from mlproject.tracking import registry
from mlproject.tracking.history import history
from mlproject.tracking.spool import Entry

NOTE_TAG = "mlflow.note.content"
WRITTEN_TAG = "mlflow.note.written"  # the description as the run itself has left it; the UI hides mlflow.*
NOTE_LENGTH = 8000  # the most that a tag holds
IMAGES, CHECKPOINTS = "images", "checkpoints"
UPLOADED_TAG = "checkpoint_step"


class RunOnServer:
    """One run as the server has it. Each method takes an entry of the kind that it is named by; see Run, which logs."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.client = mlflow.MlflowClient()
        self._known_steps: dict[str, set[int]] = {}
        self._takers: dict[str, Callable[[Entry], None]] = {
            taker.__name__: taker
            for taker in (
                self.settings, self.points, self.results, self.dataset, self.artifacts, self.picture, self.checkpoints,
                self.loss_curves, self.model, self.tags, self.description, self.name, self.status,
            )
        }  # fmt: skip

    def take(self, entry: Entry) -> None:
        """Do with an entry what its kind demands; what MLflow and its artifact stores raise passes through."""
        self._takers[entry.kind](entry)

    def settings(self, entry: Entry) -> None:
        """Parameters that the run does not have yet: MLflow refuses another value."""
        known = self.client.get_run(self.id).data.params
        new = [Param(name, value) for name, value in entry.values["parameters"].items() if name not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.id, params=new[start : start + 100])

    def points(self, entry: Entry) -> None:
        """Metrics; with `once` those alone whose step the server does not have yet."""
        self._log(entry.values["points"], entry.values["once"], entry.values["measured"])

    def results(self, entry: Entry) -> None:
        """Metrics; those that the server has already, with this value at this step, are not logged again."""
        self._log_results(entry.values["points"], entry.values["measured"])

    def _log_results(self, points: Sequence[dict[str, Any]], measured: dict[str, str]) -> None:
        before = self.client.get_run(self.id).data.metrics
        names = {name for point in points for name in point["metrics"]}
        latest = {name: self._latest(name) for name in names & before.keys()}
        new = []
        for point in points:
            metrics = {n: v for n, v in point["metrics"].items() if latest.get(n, {}).get(point["step"]) != v}
            new.append({**point, "metrics": metrics})
        self._log(new, False, measured)

    def _latest(self, metric: str) -> dict[int, float]:
        """The value that a metric has at each step; of several, the one logged last."""
        history = self.client.get_metric_history(self.id, metric)
        return {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}

    def _log(self, points: Sequence[dict[str, Any]], once: bool, measured: dict[str, str]) -> None:
        metrics = [
            Metric(name, value, point["timestamp_ms"], point["step"], **measured)
            for point in points
            for name, value in point["metrics"].items()
            if not (once and point["step"] in self._steps_of(name))
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.id, metrics=metrics[start : start + 1000])
        for metric in metrics:
            if metric.key in self._known_steps:
                self._known_steps[metric.key].add(metric.step)

    def _steps_of(self, metric: str) -> set[int]:
        """The steps of a metric that the server has: of an earlier process, too, perhaps on another machine."""
        if metric not in self._known_steps:
            self._known_steps[metric] = {point.step for point in self.client.get_metric_history(self.id, metric)}
        return self._known_steps[metric]

    def dataset(self, entry: Entry) -> None:
        """The data set as an input of the run."""
        tags = [InputTag(MLFLOW_DATASET_CONTEXT, entry.values["context"])]
        self.client.log_inputs(self.id, datasets=[DatasetInput(Dataset(**entry.values["dataset"]), tags)])

    def artifacts(self, entry: Entry) -> None:
        """Files, which replace those of the same names."""
        self.client.log_artifacts(self.id, str(entry.files), entry.values["to"] or None)

    def picture(self, entry: Entry) -> None:
        """A picture of a step, in two sizes; one of the same key and step that is there already stays."""
        names = {path.name for path in (entry.files / IMAGES).iterdir()}
        known = {file.path.rpartition("/")[2] for file in self.client.list_artifacts(self.id, IMAGES)}
        others = {name for name in known - names if name.startswith(entry.values["begins"])}
        if not others:
            self.client.log_artifacts(self.id, str(entry.files))
            self.client.set_tag(self.id, MLFLOW_LOGGED_IMAGES, "True")

    def checkpoints(self, entry: Entry) -> None:
        """Checkpoints, unless the run has come further meanwhile, on another machine."""
        if entry.values["step"] >= int(self.client.get_run(self.id).data.tags.get(UPLOADED_TAG, "0")):
            self.client.log_artifacts(self.id, str(entry.files), CHECKPOINTS)
            self.client.set_tag(self.id, UPLOADED_TAG, str(entry.values["step"]))

    def loss_curves(self, entry: Entry) -> None:
        """The picture of the loss curves, drawn of all that the server has of them."""
        figure = loss_curves(history(self.id, entry.values["curves"]))
        self.client.log_figure(self.id, figure, entry.values["file"])

    def model(self, entry: Entry) -> None:
        """A model, and what was measured of it."""
        model_uri = registry.upload(self.id, entry.files, entry.values["parameters"], entry.values["key"])
        measured = {"model_id": registry.id_in(model_uri), **entry.values["dataset"]}
        self._log_results(entry.values["points"], measured)

    def tags(self, entry: Entry) -> None:
        """Tags."""
        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in entry.values["tags"].items()])

    def description(self, entry: Entry) -> None:
        """The run's description; one that somebody has written in the UI stays."""
        text = entry.values["text"][:NOTE_LENGTH]
        tags = self.client.get_run(self.id).data.tags
        if tags.get(NOTE_TAG, "") == tags.get(WRITTEN_TAG, ""):
            self.client.log_batch(self.id, tags=[RunTag(NOTE_TAG, text), RunTag(WRITTEN_TAG, text)])

    def name(self, entry: Entry) -> None:
        """A telling name in place of one that MLflow has made up (`mlflow run` without --run-name)."""
        made_up, _, number = str(self.client.get_run(self.id).info.run_name).rpartition("-")
        if number.isdigit() and set(made_up.split("-")) <= {*_GENERATOR_PREDICATES, *_GENERATOR_NOUNS}:
            self.client.update_run(self.id, name=entry.values["name"])

    def status(self, entry: Entry) -> None:
        """What the run has come to; a run that is FINISHED by another process meanwhile stays so."""
        self.close(entry.values["status"], entry.values["end_time_ms"])

    def close(self, status: str, end_time_ms: int) -> None:
        """Close the run with a status; see `status`."""
        if self.client.get_run(self.id).info.status != "FINISHED":
            self.client.set_terminated(self.id, status, end_time_ms)
