"""An open MLflow run, and all that can be logged to it. Whether it goes at once or waits, is the same to who logs."""

import logging
import math
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.data.pandas_dataset import from_pandas
from mlflow.tracking.multimedia import compress_image_size
from numpy.typing import NDArray
from PIL import Image

from mlproject import config
from mlproject.data.splits import Split
from mlproject.errors import TrackingError, UndeliveredError
from mlproject.prediction.segmenter import Segmenter
from mlproject.tracking import patience, registry
from mlproject.tracking.delivery import OUTAGE, Delivery
from mlproject.tracking.run_on_server import CHECKPOINTS, IMAGES, RunOnServer
from mlproject.tracking.spool import Spool, write_entry
from mlproject.tracking.waiting import not_delivered
from mlproject.training.progress import Point

logger = logging.getLogger(__name__)

SECONDS_FOR_STATUS = 3.0


class Run:
    """An open MLflow run. What it logs goes to the server in order: at once, or through a spool beside the work.

    Attributes:
        id, experiment_id: MLflow's.
        ends_as: the status with which `open_run` closes it, where nothing is raised.
    """

    def __init__(self, run: mlflow.entities.Run, spool: Spool | None = None) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.ends_as = "FINISHED"
        self._measured: dict[str, str] = {}
        self._on_server = RunOnServer(self.id)
        self._delivery = Delivery(spool, self._on_server.take) if spool is not None else None

    def _log(
        self, kind: str, values: dict[str, Any], fill: Callable[[Path], object] | None = None, only_last: bool = False
    ) -> None:
        """Log an entry of a kind that RunOnServer takes; the rest as Spool.put takes it."""
        if self._delivery is not None:
            self._delivery.spool.put(kind, values, fill, only_last)
            return
        with tempfile.TemporaryDirectory() as folder:
            self._on_server.take(write_entry(Path(folder), kind, values, fill))

    def log_settings(self, settings: Any) -> None:
        """Every setting as a parameter `cfg.<dotted name>`, and all of them as config.yaml.

        A run that is gone on with keeps the parameters it began with; config.yaml has the present ones.
        """
        self._log("settings", {"parameters": as_parameters(settings)})
        self.log_text(config.dump(settings), "config.yaml")

    def log_points(self, points: Sequence[Point], once: bool = False) -> None:
        """Metrics with the step and time at which they were measured; what MLflow has already, it keeps once.

        `once`: a step that the run has of a metric is not logged again, whatever its time: it was done again.
        """
        if points:
            self._log(
                "points",
                {"points": [point.to_dict() for point in points], "once": once, "measured": self._measured},
            )

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Results of the run as a whole, or of one step; an undefined one (NaN) is not logged.

        Nor is one that is there already: of work that was stopped, and is done again.
        """
        self._log_results([_point(metrics, step)])

    def log_curve(self, name: str, values: Iterable[float]) -> None:
        """The same of a metric with a value at each step 0, 1, 2 ..., in one batch."""
        now = _now_ms()
        self._log_results([Point(step, now, {name: v}) for step, v in enumerate(values) if not math.isnan(v)])

    def _log_results(self, points: Sequence[Point]) -> None:
        self._log("results", {"points": [point.to_dict() for point in points], "measured": self._measured})

    def log_model(
        self,
        segmenter: Segmenter,
        dataset: str,
        digest: str,
        metrics: Mapping[str, float],
        step: int = 0,
        key: str = "",
    ) -> None:
        """A model, with what was measured of it on a data set at a step.

        `key`: where the run has logged a model of this key, by a process that died, that one stays.
        """
        self._log(
            "model",
            {
                "parameters": registry.parameters_of(segmenter.description),
                "key": key or uuid4().hex,
                "dataset": {"dataset_name": dataset, "dataset_digest": digest},
                "points": [_point(metrics, step).to_dict()],
            },
            partial(registry.save, segmenter),
        )

    def measures(self, model_uri: str, dataset: str, digest: str) -> None:
        """From now on, the metrics logged are also those of this model (models:/ID; none if empty) on this data set."""
        if model_uri:
            model_id = registry.id_in(model_uri)
            self._measured = {"model_id": model_id, "dataset_name": dataset, "dataset_digest": digest}

    def log_picture(self, key: str, picture: NDArray[np.uint8], step: int) -> None:
        """An image (rows, columns, 3) of one step: the UI shows those of one key with a slider over the steps."""
        begins = f"{key.replace('/', '~')}+step+{step}+"  # as MLflow calls it; its own function calls it new each time
        name = f"{begins}timestamp+{_now_ms()}+{uuid4()}"

        def fill(folder: Path) -> None:
            (folder / IMAGES).mkdir()
            image = Image.fromarray(picture)
            image.save(folder / IMAGES / f"{name}.png")
            compress_image_size(image).save(folder / IMAGES / f"{name}+compressed.webp")

        self._log("picture", {"begins": begins}, fill)

    def describe(self, text: str) -> None:
        """The run's description, in Markdown; one that somebody has written in the UI stays."""
        self._log("description", {"text": text})

    def rename(self, name: str) -> None:
        """Give the run a telling name in place of one that MLflow has made up (`mlflow run` without --run-name)."""
        self._log("name", {"name": name})

    def log_dataset(self, name: str, digest: str, root: str, split: Split) -> None:
        """The data set with its digest as an MLflow input, and which case is in which part as split.csv."""
        table = pd.DataFrame(split.to_rows(), columns=["case", "split"])
        with warnings.catch_warnings():  # MLflow has two kinds of local source and wonders which
            warnings.simplefilter("ignore")
            dataset = from_pandas(table, source=root, name=name, digest=digest)
        context = "training, validation, test" if split.train else "test"
        self._log("dataset", {"dataset": dataset.to_dict(), "context": context})
        self.log_table(table, "split.csv")

    def log_loss_curves(self, curves: Mapping[str, str], file: str) -> None:
        """The picture of the loss curves as an artifact, of all steps; `curves`: as history takes them."""
        self._log("loss_curves", {"curves": dict(curves), "file": file})

    def log_figure(self, figure: Figure, file: str) -> None:
        """A matplotlib figure as an artifact."""
        self._log("artifacts", {"to": ""}, lambda folder: figure.savefig(_inside(folder, file)))

    def log_folder(self, folder: Path, to: str) -> None:
        """Every file of a folder as artifacts under `to`."""
        self._log("artifacts", {"to": to}, lambda own: shutil.copytree(folder, own, dirs_exist_ok=True))

    def log_checkpoints(self, files: Sequence[Path], step: int) -> None:
        """Checkpoints as artifacts; those that are still to be delivered give way to them.

        `files`: each is only ever replaced as a whole, so that a link keeps what it is now.
        """

        def fill(folder: Path) -> None:
            for file in files:
                _link(file, folder / file.name)

        self._log(CHECKPOINTS, {"step": step}, fill, only_last=True)

    def log_table(self, table: pd.DataFrame, file: str) -> None:
        """A table as CSV."""
        self.log_text(table.to_csv(index=False), file)

    def log_text(self, text: str, file: str) -> None:
        """A text as an artifact."""
        self._log("artifacts", {"to": ""}, lambda folder: _inside(folder, file).write_text(text, encoding="utf-8"))

    def tag(self, **tags: str) -> None:
        """Set tags; dots in MLflow's own names are written as double underscores."""
        self._log("tags", {"tags": {name.replace("__", "."): value for name, value in tags.items()}})

    def flush(self, seconds: float) -> None:
        """Wait until all that was logged is on the server, for who reads it next.

        Raises UndeliveredError after `seconds` in which the server has taken nothing.
        """
        if self._delivery is not None and self._delivery.wait(seconds):
            raise UndeliveredError(not_delivered(self._delivery.spool.folder, OUTAGE.reason))

    def close(self, status: str, seconds: float, in_all: bool = False) -> str:
        """Close the run, once all that it logged is delivered; says what is not, "" where all is.

        `seconds`, `in_all`: how long is waited for that, as Delivery.finish takes it.
        """
        now = _now_ms()
        try:
            self._log("status", {"status": status, "end_time_ms": now})
        except TrackingError as full:
            if not self._close_ahead(status, now):
                logger.warning("run %s stays RUNNING on the server, which is away: %s", self.id, full)
        if self._delivery is None:
            return ""
        left = self._delivery.finish(seconds, in_all)
        if left and not OUTAGE.reason:  # a large file is on its way: the status need not wait for it
            ahead = threading.Thread(target=self._close_ahead, args=(status, now), daemon=True)
            ahead.start()
            ahead.join(SECONDS_FOR_STATUS)
        return not_delivered(self._delivery.spool.folder, OUTAGE.reason)

    def waits(self) -> bool:
        """Whether something waits to be delivered, other than what the server has refused for good."""
        return self._delivery is not None and len(self._delivery.spool) > 0

    def _close_ahead(self, status: str, end_time_ms: int) -> bool:
        """Set the run's status past the spool; False where the server does not take it."""
        try:
            with patience.at_most(0):
                self._on_server.close(status, end_time_ms)
        except Exception:  # of MLflow and what it uses
            return False
        return True


def as_parameters(settings: Any) -> dict[str, str]:
    """Every setting as MLflow's parameter `cfg.<dotted name>`."""
    return {f"cfg.{name}": str(value) for name, value in config.flatten(config.to_tree(settings)).items()}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _point(metrics: Mapping[str, float], step: int) -> Point:
    """A point of now, without what is undefined (NaN)."""
    return Point(step, _now_ms(), {name: value for name, value in metrics.items() if not math.isnan(value)})


def _inside(folder: Path, file: str) -> Path:
    """The path of a file, which may be in a subfolder, whose folder is there."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link(file: Path, to: Path) -> None:
    try:
        to.hardlink_to(file)
    except OSError:  # a file system without such links
        shutil.copy2(file, to)
