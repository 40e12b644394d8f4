"""Rows about what a training spends besides training: its start, and MLflow."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median

import mlflow
import numpy as np

from bench.cases import SHAPE
from bench.row import Row, timed
from bench.training import trainer_of
from mlproject.data.synthetic import write_dataset
from mlproject.tracking import runs
from mlproject.tracking.experiment_page import CASE_IMAGE
from mlproject.tracking.run import Run
from mlproject.tracking.settings import TrackingSettings
from mlproject.training import checkpoint
from mlproject.training.progress import Point
from mlproject.training.settings import TrainingSettings
from mlproject.training.state import PICTURES

PROJECT = Path(__file__).parents[1]
CASES = 8
IMPORTS = "import torch, mlflow, torchio, monai"
REPEATS = 3
TRAINING_CASES = 40  # of the training whose logging is measured
EPOCHS = 10
STEPS = 6
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # which users do not set


def rows() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as name:
        return [_start(Path(name)), _logging(Path(name))]


def _start(folder: Path) -> Row:
    write_dataset(folder / "data", CASES, shape=SHAPE)
    train = [sys.executable, str(PROJECT / "bench" / "first_step.py"), "train"]
    train += ["--config", "conf/isles2022.yaml", "--training.log_every", "1"]
    train += ["--data.root", str(folder / "data"), "--work_dir", str(folder / "work")]
    imports = [sys.executable, "-c", IMPORTS]
    environment = {name: value for name, value in os.environ.items() if name not in LIMITS}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(1 + REPEATS):
        for command, times in zip((train, imports), seconds, strict=True):
            taken, _ = timed(partial(_run, command, environment))
            if number:  # the first one prepares the cases and makes the database
                times.append(taken)
    return Row(
        what=f"from the start of `train` to its first step, {CASES} cases in the cache",
        against=f"python -c '{IMPORTS}'",
        unit="x",
        samples=tuple(a / b for a, b in zip(*seconds, strict=True)),
        target=1.5,
        better="<=",
        detail=f"{median(seconds[0]):.1f} s against {median(seconds[1]):.1f} s",
    )


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def _logging(folder: Path) -> Row:
    """What the stage `train` logs of an epoch, as a share of the epoch's time."""
    settings = TrainingSettings()
    trainer = trainer_of("cpu", folder / "fit")
    fixed = repeat(next(trainer.batches()))
    trainer.step(fixed)
    step_seconds = median(timed(lambda: trainer.step(fixed))[0] for _ in range(STEPS))
    epoch_steps = TRAINING_CASES * trainer.patches.settings.per_case // settings.batch_size
    file = folder / "last.pt"
    for name in ("last.pt", "best.pt"):
        checkpoint.write(trainer.state.to_dict(), folder / name)
    picture = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    shares = []
    with chdir(folder):
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'logging.db'}")
        tracking, spools = TrackingSettings(system_metrics=False), folder / "spool"
        with runs.open_run(tracking, "bench", "train", spools=spools) as run:
            for epoch in range(EPOCHS):
                points = _points(epoch * epoch_steps, epoch_steps, settings.log_every)
                seconds, _ = timed(partial(_log, run, epoch, points, picture, file, settings.upload_every))
                shares.append(100 * seconds / (epoch_steps * step_seconds))
    rounds = settings.upload_every  # a mean over so many epochs, in one of which the checkpoints are uploaded
    samples = tuple(float(np.mean(shares[first : first + rounds])) for first in range(0, EPOCHS, rounds))
    return Row(
        what=f"MLflow in a training, {TRAINING_CASES} cases an epoch, SQLite",
        against=f"the time of its {epoch_steps} steps, validation not counted",
        unit="%",
        samples=samples,
        target=1.0,
        better="<=",
        detail=f"{10 * epoch_steps * step_seconds * np.mean(shares):.0f} ms of {epoch_steps * step_seconds:.0f} s",
    )


def _points(first: int, steps: int, log_every: int) -> list[Point]:
    names = ("loss", "cross_entropy", "dice_loss", "learning_rate", "patches_per_second")
    metrics = {f"train/{name}": 0.5 for name in names}
    points = [Point(first + step, 1000 * (first + step), metrics) for step in range(log_every, steps + 1, log_every)]
    return [*points, Point(first + steps, 1000 * (first + steps), {"validation/dice": 0.5})]


def _log(run: Run, epoch: int, points: list[Point], picture: np.ndarray, file: Path, upload_every: int) -> None:
    """As `mlproject.stages.train.epochs` and its caller do it; a picture in each of PICTURES parts of the training."""
    run.log_points(points, once=True)
    if epoch < PICTURES:
        run.log_picture(CASE_IMAGE, picture, points[-1].step)
    if (epoch + 1) % upload_every == 0:
        run.log_checkpoints([file, file.with_name("best.pt")], points[-1].step)
