"""The trainings of a study, each done once, whichever part or command asks for it first."""

import hashlib
import json
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from mlproject import config
from mlproject.data.dataset import DataSet
from mlproject.data.patch_settings import PatchSettings
from mlproject.prediction.probability import CaseProbability
from mlproject.prediction.segmenter import Segmenter
from mlproject.stages import train
from mlproject.stages.annotation import annotate, part_of
from mlproject.stages.console import console, heading
from mlproject.stages.plan import device
from mlproject.stages.postprocess import cached_probabilities
from mlproject.stages.settings import Experiment, ReproduceSettings
from mlproject.tracking import registry, runs
from mlproject.tracking.history import history, moments
from mlproject.tracking.run import Run
from mlproject.tracking.source import PROJECT

TRAINING_TAG = "training"
# What decides neither the weights nor the pace of a training.
INDIFFERENT = (
    "work_dir",
    "data.root",
    "data.copies_gb",
    "data.split_file",
    "tracking.",
    "crf",
    "training.resume",
    "training.upload_every",
)


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is done.

    Attributes:
        run_id: its MLflow run.
        curve: a row a validation: step, dice, and seconds since the first step.
        minutes: that the run took in all.
        seconds_a_step: without validations, the median over the training.
        commit: of the code that ran it.
    """

    run_id: str
    curve: pd.DataFrame
    minutes: float
    seconds_a_step: float
    commit: str


@dataclass
class Effort:
    """What the examination of a claim took so far.

    Attributes:
        trainings: that it rests on, by their MLflow run.
        seconds_training: of those that were done now.
        began: on the monotonic clock.
    """

    trainings: dict[str, Training] = field(default_factory=dict)
    seconds_training: float = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def minutes_beside(self) -> float:
        """Since it began, without the trainings."""
        return (time.monotonic() - self.began - self.seconds_training) / 60


class Laboratory:
    """A study's settings, data and trainings.

    Args:
        settings: of the study.
        dataset: on which all its trainings are done.
        parent: the study's run; each training is a run below it.
    """

    def __init__(self, settings: ReproduceSettings, dataset: DataSet, parent: Run) -> None:
        self.plan, self.dataset, self.parent = settings.reproduce, dataset, parent
        self.base = settings.alone()
        self.effort = Effort()

    def experiment(self, base: Experiment | None = None, **training: object) -> Experiment:
        """An experiment with other settings of its training, validated `reproduce.validations` times at least.

        Less often where its epochs are too long. The first point of its curve is from before its first validation, so
        that it says when the first step began.
        """
        base = base or self.base
        settings = replace(base.training, **training)  # type: ignore[arg-type]
        epoch = max(1, len(self.dataset.split.train) * base.patches.per_case // settings.batch_size)
        between = max(1, (settings.steps or 0) // (self.plan.validations * epoch))
        log_every = min(settings.log_every, epoch)
        return replace(base, training=replace(settings, validate_every=between, log_every=log_every))

    def training(self, name: str, experiment: Experiment, keep_model: bool = False) -> Training:
        """The training of an experiment, done now if it has not been; `keep_model` logs its best epoch's network.

        One that was stopped is begun anew, so that its times are those of one go; so is one that was done on another
        kind of device.
        """
        began = time.monotonic()
        training = self._training(name, experiment, keep_model)
        self.effort.trainings[training.run_id] = training
        self.effort.seconds_training += time.monotonic() - began
        return training

    def _training(self, name: str, experiment: Experiment, keep_model: bool) -> Training:
        key = self._key(experiment)
        for known in runs.children(self.parent.id, **{TRAINING_TAG: key}):
            if known.data.tags.get("device") != device(experiment.training):
                continue
            if known.info.status == "FINISHED":
                console.print(f"{name}: done already, run {known.info.run_id}")
                return _result(known.info.run_id, experiment)
            runs.close(known.info.run_id, "FAILED", "its process died")
        heading(name)
        tags, spools = {TRAINING_TAG: key}, experiment.spool_path
        with runs.open_run(experiment.tracking, name, "train", parent=self.parent, tags=tags, spools=spools) as run:
            try:
                best = self._fit(name, experiment, run)
                metrics = {"validation/best_dice": best}
                if keep_model:
                    segmenter = train.best_model(experiment, self.dataset, run.id)
                    run.log_model(segmenter, experiment.data.name, self.dataset.digest, metrics)
                else:
                    run.log_metrics(metrics)
            finally:  # nobody goes on with it
                shutil.rmtree(experiment.run_path(run.id), ignore_errors=True)
            result = f"Best validation Dice {best:.4f}."
            annotate(run, "train", experiment, self.dataset, part_of(self.parent), result)
        return _result(run.id, experiment)

    def _fit(self, name: str, experiment: Experiment, run: Run) -> float:
        """Train in an open run; the best validation Dice."""
        train.begin(experiment, self.dataset, run)
        annotate(run, "train", experiment, self.dataset, part_of(self.parent))
        job = train.job_of(experiment, self.dataset, experiment.run_path(run.id))
        with closing(train.epochs(job, run, name)) as epochs:
            best = max(epoch.validation_dice or 0 for epoch in epochs)
        train.log_curves(run)
        return best

    def model(self, training: Training) -> Segmenter:
        """The model of a training's best validation."""
        return registry.load(f"runs:/{training.run_id}/model", self.base.prediction.device)

    def probabilities(self, segmenter: Segmenter, names: tuple[str, ...]) -> list[CaseProbability]:
        """What a network says of labelled cases."""
        return cached_probabilities(segmenter, self.dataset.load(names), self.base.work_path / "probabilities")

    @property
    def key(self) -> str:
        """Of the settings in the two files, which the study's own do not show."""
        return "-".join(self._key(experiment_of(self.base, file)) for file in (self.plan.paper, self.plan.platform))

    def _key(self, experiment: Experiment) -> str:
        """What a training is known by: all settings that decide its weights and its pace, and the data."""
        values = {
            name: value
            for name, value in config.flatten(config.to_tree(experiment)).items()
            if not name.startswith(INDIFFERENT)
        }
        text = json.dumps([values, self.dataset.digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def experiment_of(base: Experiment, file: str) -> Experiment:
    """The network and training in a YAML file, on the data of `base` and for as many steps."""
    kept = ("data.", "training.steps", "training.validate_every")
    given = config.read(file, [Path.cwd(), PROJECT])
    values = {name: value for name, value in given.items() if not name.startswith(kept)}
    tree = config.flatten(config.to_tree(base)) | values
    return config.from_tree(Experiment, tree, f"{file} over the study's settings")


def patches_in_words(count: int, patches: PatchSettings) -> str:
    """Such as `2 patches of 64 x 64 x 64 voxels`."""
    return f"{count} patch{'es' * (count > 1)} of {' x '.join(map(str, patches.size))} voxels"


def _result(run_id: str, experiment: Experiment) -> Training:
    columns = {"validation/dice": "dice", "train/patches_per_second": "pace"}
    curves = history(run_id, columns)
    pace = curves.set_index("step")["pace"].dropna()
    seconds_a_step = experiment.training.batch_size / float(pace.median())
    logged = moments(run_id, "train/loss")
    # No validation lies before that point: see Laboratory.experiment.
    began = logged.iloc[0] - logged.index[0] * experiment.training.batch_size / pace.iloc[0]
    curve = curves[["step", "dice"]].dropna()
    seconds = moments(run_id, "validation/dice") - began
    run = runs.find(run_id)
    return Training(
        run_id,
        curve.assign(seconds=curve["step"].map(seconds)),
        (run.info.end_time - run.info.start_time) / 60_000,
        seconds_a_step,
        run.data.tags.get(MLFLOW_GIT_COMMIT, ""),
    )
