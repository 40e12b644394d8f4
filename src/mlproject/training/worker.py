"""One process of a fit over several: it trains, and tells its parent what happens, its own end included."""

import logging
import multiprocessing
import os
import threading
import traceback
import warnings
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.distributed import DistError

from mlproject import interrupts
from mlproject.errors import UserError
from mlproject.training.data_workers import worker_errors
from mlproject.training.job import FitJob
from mlproject.training.loop import Trainer
from mlproject.training.meeting import MeetingPlace
from mlproject.training.settings import TrainingSettings

STOP, BEGUN, DONE = "stop", "begun", "done"


@dataclass(frozen=True)
class Failed:
    """The last message of a process that an exception of its own has ended.

    Attributes:
        reason: the exception in words, with what to do where that is known.
        trace: the traceback.
    """

    reason: str
    trace: str


@dataclass(frozen=True)
class Lost:
    """The last message of a process that lost the others; why, one of them knows.

    Attributes:
        timed_out: nothing came from them for training.timeout_s; otherwise the connection was closed.
        trace: the traceback.
    """

    timed_out: bool
    trace: str


def work(job: FitJob, local_rank: int, place: MeetingPlace, pipe: Connection) -> None:
    """The whole life of one worker process. Its parent gets BEGUN, then rank 0's events, then DONE or why not."""
    interrupts.ignore()
    _end_with_parent()
    # Weights of 1³ kernels look the same in both memory formats, and DDP remarks on it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each process
    training = job.training
    rank = training.node_rank * training.devices + local_rank
    try:
        if training.processes > 1:
            place.wait_for_all(rank, training.processes)
            _take_place(training, rank, local_rank, place)
        fabric = fabric_of(training)
        fabric.launch()
        pipe.send(BEGUN)
        with worker_errors():
            for event in Trainer(job, fabric).run(stop=pipe.poll):
                if rank == 0:
                    pipe.send(event)
        pipe.send(DONE)
    except UserError as error:
        pipe.send(error)
    except Exception as error:
        # gloo raises a bare RuntimeError, whose text begins with its own file's name.
        if isinstance(error, DistError) or "gloo" in str(error):
            pipe.send(Lost("Timed out" in str(error), traceback.format_exc()))
        else:
            pipe.send(Failed(_in_words(error), traceback.format_exc()))


def fabric_of(training: TrainingSettings) -> Fabric:
    """Fabric for this process, whose place among the others is in the environment."""
    for variable in [name for name in os.environ if name.startswith("LT_")]:
        del os.environ[variable]  # what `fabric run` tells a Fabric that has no settings of its own
    if training.processes == 1:
        return Fabric(accelerator=training.accelerator, devices=1, precision=training.precision)
    return Fabric(
        accelerator=training.accelerator,
        devices=training.devices,
        num_nodes=training.nodes,
        precision=training.precision,
        strategy=DDPStrategy(timeout=timedelta(seconds=training.timeout_s)),
        plugins=[TorchElasticEnvironment()],
    )


def _take_place(training: TrainingSettings, rank: int, local_rank: int, place: MeetingPlace) -> None:
    """Say which process this is where torch.distributed looks for it: in the environment."""
    os.environ.update(
        MASTER_ADDR=place.host,
        MASTER_PORT=str(place.port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # which the parent, or torchrun, holds
        RANK=str(rank),
        LOCAL_RANK=str(local_rank),
        GROUP_RANK=str(training.node_rank),
        WORLD_SIZE=str(training.processes),
        LOCAL_WORLD_SIZE=str(training.devices),
    )
    if interface := place.interface():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def _in_words(error: Exception) -> str:
    last_line = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return f"the memory is full ({last_line}): lower training.batch_size or patches.size"
    return last_line


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
