"""`train`: fit a network on the training cases, choose its best epoch on the validation cases, log it all."""

import shlex
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlproject import config, interrupts
from mlproject.data.dataset import DataSet
from mlproject.errors import Interrupted, ModelError, TrackingError, TrainingError
from mlproject.evaluation.validation import WholeVolumeDice
from mlproject.network.architectures import build_network
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import ModelDescription, Segmenter, digests_of, load_weights
from mlproject.prediction.sliding_window import resolve_device
from mlproject.stages.annotation import annotate, reproduction, run_name
from mlproject.stages.commands import stage_command
from mlproject.stages.console import console, facts, heading
from mlproject.stages.plan import device, opened, show_plan, show_run
from mlproject.stages.progress import training_display
from mlproject.stages.settings import Experiment, PostprocessSettings
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import runs
from mlproject.tracking.experiment_page import CASE_IMAGE
from mlproject.tracking.run import Run
from mlproject.tracking.run_on_server import UPLOADED_TAG
from mlproject.tracking.server import connect
from mlproject.training import checkpoint
from mlproject.training.data_workers import worker_errors
from mlproject.training.execution import begin_threads
from mlproject.training.fit import check_devices, fit
from mlproject.training.job import BEST, LAST, FitJob
from mlproject.training.progress import Epoch

MAY_CHANGE = (
    "work_dir",
    "data.root",  # another machine's path; the data's digest is compared instead
    "data.copies_gb",
    "data.split_file",
    "training.resume",
    "training.devices",
    "training.nodes",
    "training.node_rank",
    "training.main_address",
    "training.timeout_s",
    "training.accelerator",
    "training.workers",
    "training.threads",
    "training.upload_every",
    "tracking",
    "crf_search",
    "crf.",
    "prediction.device",
    "prediction.window_batch",
)
CURVES = {
    "train/loss": "train_loss",
    "train/cross_entropy": "train_cross_entropy",
    "train/dice_loss": "train_dice_loss",
    "train/learning_rate": "learning_rate",
    "validation/dice": "validation_dice",
}
NETWORK_ALONE = "network"


def run(settings: Experiment) -> dict[str, Any]:
    """The entry point `train`."""
    settings = settings.resolved()
    if settings.training.node_rank > 0:
        help_to_train(settings)
        return {}
    connect()
    deliver_what_waits(settings.spool_path)
    show_plan("train", "fit a network", settings)
    dataset = prepare(settings)
    run_id = runs.given_run_id(settings.training.resume)
    run_id = training_run_of(run_id) if settings.training.resume else run_id
    if run_id:
        runs.refuse_other_settings(run_id, settings, MAY_CHANGE)
        runs.refuse_other_data(run_id, dataset.digest)
    name, spools = run_name("train", settings), settings.spool_path
    with runs.open_run(settings.tracking, name, "train", run_id=run_id, spools=spools) as mlflow_run:
        mlflow_run.rename(name)
        show_run(mlflow_run)
        with saying_how_to_resume("train", mlflow_run, settings):
            segmenter = train(settings, dataset, mlflow_run, reproduction(mlflow_run, "train", settings.data))
    uri = f"runs:/{mlflow_run.id}/model"
    tune = stage_command("postprocess", PostprocessSettings, settings, run=mlflow_run.id)
    console.print()
    facts({"model": uri, "next": "tune its threshold and CRF:"})
    console.print(tune)
    best = checkpoint.read(settings.run_path(mlflow_run.id) / BEST)
    return {
        "run_id": mlflow_run.id,
        "model": uri,
        "channels": list(segmenter.description.channels),
        "best_step": best["step"],
        "validation_dice": best["validation_dice"],
    }


def prepare(settings: Experiment) -> DataSet:
    """Refuse what cannot work before anything starts: network against patch, every case, the split."""
    begin_threads()  # before anything calculates
    build_network(settings.network, len(settings.data.channels), settings.patches.size)
    check_devices(settings.training)
    resolve_device(settings.prediction.device)
    dataset = opened(settings)
    small = [
        case.name
        for case in dataset.load(dataset.split.train)
        if any(have < want for have, want in zip(case.geometry.shape, settings.patches.size, strict=True))
    ]
    if small:
        console.print(
            f"padded with zeros: {len(small)} training cases are smaller than patches.size="
            f"{list(settings.patches.size)} on some axis ({', '.join(small[:3])}{' ...' if len(small) > 3 else ''})"
        )
    return dataset


@contextmanager
def saying_how_to_resume(stage: str, mlflow_run: Run, settings: Experiment) -> Iterator[None]:
    """Within: being interrupted, or a server that is away, ends in a text that says with which command to go on."""
    file = settings.run_path(mlflow_run.id) / "config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config.dump(settings))
    try:
        with worker_errors():
            yield
    except (Interrupted, TrainingError, TrackingError) as error:
        words = [sys.executable, sys.argv[0], stage, "--config", str(file), "--training.resume", mlflow_run.id]
        how = f"{shlex.join(words)} (or with the same `mlflow run` command and --run-id {mlflow_run.id})"
        if settings.training.nodes > 1:
            how = f"the same command on each machine and --training.resume {mlflow_run.id}"
        raise type(error)(f"{error}. Go on with: {how}", *error.args[1:]) from None


def train(settings: Experiment, dataset: DataSet, mlflow_run: Run, again: str) -> Segmenter:
    """Fit, or go on fitting, inside an open MLflow run; returns the best epoch's model, logged to the run.

    `again`: what the run's description says of how to do it again. Raises Interrupted where the fit was asked to
    stop; its checkpoint is on disk then, and in the run.
    """
    heading("Training")
    folder = _checkpoints_of(mlflow_run.id, settings)
    begin(settings, dataset, mlflow_run)
    annotate(mlflow_run, "train", settings, dataset, again)
    with closing(epochs(job_of(settings, dataset, folder), mlflow_run)) as fitted:
        for epoch in fitted:
            if epoch.stopped or _is_time_to_upload(epoch, settings):
                _upload(mlflow_run, folder)
    log_curves(mlflow_run)
    _upload(mlflow_run, folder)
    segmenter = best_model(settings, dataset, mlflow_run.id)
    best = checkpoint.read(folder / BEST)
    metrics = {"validation/best_dice": best["validation_dice"]}
    mlflow_run.log_model(
        segmenter, settings.data.name, dataset.digest, metrics, best["step"], key=f"step {best['step']}"
    )
    result = f"Best validation Dice {best['validation_dice']:.4f} at step {best['step']} (threshold 0.5, no CRF)."
    annotate(mlflow_run, "train", settings, dataset, again, result)
    return segmenter


def begin(settings: Experiment, dataset: DataSet, mlflow_run: Run) -> None:
    """Log what is known before the first step: the settings, the data set and its split."""
    mlflow_run.log_settings(replace(settings, training=replace(settings.training, resume="")))
    mlflow_run.log_dataset(settings.data.name, dataset.digest, settings.data.root, dataset.split)


def log_curves(mlflow_run: Run) -> None:
    """Log the picture of the loss curves."""
    mlflow_run.log_loss_curves(CURVES, "figures/loss_curves.png")


def help_to_train(settings: Experiment) -> None:
    """The part of a node other than the first: train, and leave MLflow to the first."""
    training = settings.training
    heading(f"machine {training.node_rank} of {training.nodes}, counted from 0: helps to train")
    facts({"with": f"machine 0 at {training.main_address}, which has the MLflow run", "device": device(training)})
    dataset = prepare(settings)
    with interrupts.graceful():
        for _ in fit(job_of(settings, dataset, settings.run_path("helper")), interrupts.requested):
            pass


def best_model(settings: Experiment, dataset: DataSet, run_id: str) -> Segmenter:
    """The network of the epoch with the best validation Dice, with a threshold of 0.5 and no CRF."""
    best = checkpoint.read(settings.run_path(run_id) / BEST)
    network = build_network(settings.network, len(settings.data.channels), settings.patches.size)
    load_weights(network, best["weights"], settings.run_path(run_id) / BEST)
    names = [*dataset.split.train, *dataset.split.validation]
    seen = digests_of(dataset.load(names)).union(*(dataset.cases[name].states_of_images for name in names))
    description = ModelDescription(
        channels=settings.data.channels,
        preprocessing=settings.preprocessing,
        network=settings.network,
        patch_size=settings.patches.size,
        prediction=settings.prediction,
        postprocessing=Postprocessing(),
        candidates={NETWORK_ALONE: Postprocessing()},
        seen=tuple(sorted(seen)),
        missing=settings.data.missing,
    )
    return Segmenter(description, network)


def training_run_of(run_id: str) -> str:
    """The training run that an id stands for: itself, or the child of the run of `main` or of a fold it names."""
    if runs.find(run_id).data.tags.get(runs.STAGE_TAG) not in ("main", "fold"):
        return run_id
    found = runs.child(run_id, "train")
    if found is None:
        raise ModelError(f"run {run_id} has not begun to train")
    return str(found.info.run_id)


def job_of(settings: Experiment, dataset: DataSet, folder: Path, isolated: bool = False) -> FitJob:
    """The fit of an experiment, with its checkpoints in `folder`; `isolated` as in FitJob."""
    return FitJob(
        training=settings.training,
        network=settings.network,
        loss=settings.loss,
        patches=settings.patches,
        channels=len(settings.data.channels),
        training_cases=partial(dataset.load, dataset.split.train),
        validation_cases=partial(dataset.load, dataset.split.validation),
        validate=WholeVolumeDice(
            settings.patches.size, replace(settings.prediction, mirror=False), "" if isolated else _shown_case(dataset)
        ),
        folder=folder,
        settings=config.to_tree(settings),
        isolated=isolated,
    )


def _shown_case(dataset: DataSet) -> str:
    """The validation case with the middle lesion volume among those with a lesion; "" where none has one."""
    with_lesion = sorted((dataset.lesion_ml[n], n) for n in dataset.split.validation if dataset.lesion_ml[n] > 0)
    return with_lesion[len(with_lesion) // 2][1] if with_lesion else ""


def epochs(job: FitJob, mlflow_run: Run, name: str = "training") -> Generator[Epoch]:
    """Pull a fit, show and log what happens, and yield its epochs; who stops pulling ends it.

    Raises Interrupted where it was asked to stop, after the last Epoch, whose checkpoint is written.
    """
    begun = False
    with interrupts.graceful(), training_display(name) as display, closing(fit(job, interrupts.requested)) as events:
        for event in events:
            display.show(event)
            begun = True
            if not isinstance(event, Epoch):
                continue
            mlflow_run.log_points(event.points, once=True)
            if event.picture is not None:
                mlflow_run.log_picture(CASE_IMAGE, event.picture, event.step)
            yield event
            if event.stopped:
                raise interrupts.stop_now(f"stopped at step {event.step}, with a checkpoint")
    if interrupts.requested():  # only now, when a signal that comes later raises by itself
        when = "at the end of training, with a checkpoint" if begun else "before the first step"
        raise interrupts.stop_now(f"stopped {when}")


def _is_time_to_upload(epoch: Epoch, settings: Experiment) -> bool:
    every = settings.training.upload_every
    return every > 0 and epoch.number % every == 0


def _upload(mlflow_run: Run, folder: Path) -> None:
    files = [folder / name for name in (BEST, LAST) if (folder / name).exists()]
    mlflow_run.log_checkpoints(files, checkpoint.read(folder / LAST)["step"])


def _checkpoints_of(run_id: str, settings: Experiment) -> Path:
    """The folder of a run's checkpoints, fetched from its artifacts where those have come further than this machine."""
    folder = settings.run_path(run_id)
    here = checkpoint.read(folder / LAST)["step"] if (folder / LAST).exists() else 0
    if here >= int(runs.find(run_id).data.tags.get(UPLOADED_TAG, "0")):
        return folder
    for name in (BEST, LAST):
        found = runs.download(run_id, f"checkpoints/{name}", folder / "download")
        if found is not None:
            found.replace(folder / name)
    return folder
