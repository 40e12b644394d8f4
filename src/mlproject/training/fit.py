"""The one way to train: a generator, for one process or many."""

from collections.abc import Callable, Generator

import torch

from mlproject.errors import SettingsError
from mlproject.training.data_workers import worker_errors
from mlproject.training.job import FitJob
from mlproject.training.loop import Trainer
from mlproject.training.processes import fit_in_processes
from mlproject.training.progress import Event
from mlproject.training.settings import TrainingSettings
from mlproject.training.worker import fabric_of


def check_devices(settings: TrainingSettings) -> None:
    """Raise SettingsError where this machine has not the GPUs that are asked for, or not the one that a graph needs."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    on_gpu = settings.accelerator == "cuda" or (settings.accelerator == "auto" and gpus > 0)
    if on_gpu and settings.devices > gpus:
        raise SettingsError(
            f"training.accelerator={settings.accelerator} with training.devices={settings.devices} needs as many CUDA "
            f"GPUs, PyTorch sees {gpus} here: set training.accelerator=cpu, or fewer devices"
        )
    if settings.execution == "graph" and not (on_gpu and settings.processes == 1):
        raise SettingsError(
            f"training.execution=graph needs one CUDA GPU and one process, there are {gpus if on_gpu else 0} and "
            f"{settings.processes}: leave it at auto"
        )


def fit(job: FitJob, stop: Callable[[], bool] = lambda: False) -> Generator[Event]:
    """Train, and yield what happens: Progress every `training.log_every` steps, Validating, and each Epoch as it ends.

    Who pulls decides: closing the generator ends training at once, `stop` answering True ends it after the
    present step, or between two windows of a validation, with a checkpoint and an Epoch whose `stopped` is set.
    A checkpoint LAST in `job.folder` is resumed; its last epoch is yielded once more first, so that a caller who
    died before logging it loses nothing. On a CPU with a budget in steps and the same threads and processes, the
    weights are those of a run that was never stopped, to the bit.

    Raises TrainingError where the loss is not finite, a worker process fails, or other machines are lost.
    """
    if job.training.processes > 1 or job.isolated:
        yield from fit_in_processes(job, stop)
        return
    fabric = fabric_of(job.training)
    fabric.launch()
    with worker_errors():
        yield from Trainer(job, fabric).run(stop)
