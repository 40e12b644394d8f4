"""A fit over several processes: one parent pulls, its workers train, the first worker reports."""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from mlproject.errors import TrainingError, UserError
from mlproject.training.job import FitJob
from mlproject.training.loop import Trainer
from mlproject.training.progress import Event

_STOP, _DONE = "stop", "done"

logger = logging.getLogger(__name__)


def fit_in_processes(job: FitJob, stop: Callable[[], bool]) -> Iterator[Event]:
    """`fit` with `training.devices` worker processes on this machine (and as many on each other node).

    Only the parent's caller knows MLflow and Optuna. Raises TrainingError as soon as one worker fails or
    dies; the others are ended. Ends its workers also when the caller stops pulling.
    """
    context = multiprocessing.get_context("spawn")
    address = job.training.main_address or f"127.0.0.1:{_free_port()}"
    workers: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for local_rank in range(job.training.devices):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(job, local_rank, address, theirs), name=f"fit-{local_rank}")
            # Inherited: Ctrl-C must not reach a worker, not even while it is still importing. The tracker goes
            # first, because starting it unblocks the signals.
            resource_tracker.ensure_running()
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            worker.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            theirs.close()
            workers.append(worker)
            pipes.append(ours)
        yield from _listen(workers, pipes, stop)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
            worker.join()


def _listen(workers: list[SpawnProcess], pipes: list[Connection], stop: Callable[[], bool]) -> Iterator[Event]:
    open_pipes, told = dict(enumerate(pipes)), False
    while open_pipes:
        if stop() and not told:
            told = True
            for pipe in open_pipes.values():
                with suppress(OSError):  # it has died, which is noticed below
                    pipe.send(_STOP)
        wait(list(open_pipes.values()), timeout=0.2)
        for rank in [rank for rank, pipe in open_pipes.items() if pipe.poll()]:
            try:
                message = open_pipes[rank].recv()
            except (EOFError, OSError) as error:
                workers[rank].join(5)
                raise _died(rank, workers[rank].exitcode) from error
            if isinstance(message, UserError):
                raise message
            if isinstance(message, str) and message != _DONE:
                logger.debug("training process %d:\n%s", rank, message)
                raise TrainingError(f"training process {rank} failed: {message.strip().splitlines()[-1]}")
            if message == _DONE:
                del open_pipes[rank]
            else:
                yield message


def _died(rank: int, exit_code: int | None) -> TrainingError:
    how = f"signal {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"exit code {exit_code}"
    return TrainingError(
        f"training process {rank} died ({how}); the others were ended and the last checkpoint is intact: resume the "
        "run (a SIGKILL is most often the machine running out of memory: lower training.batch_size or patches.size)"
    )


def _work(job: FitJob, local_rank: int, address: str, pipe: Connection) -> None:
    """The whole life of one worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with_parent()
    # Weights of 1³ kernels look the same in both memory formats, and DDP remarks on it.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    rank = job.training.node_rank * job.training.devices + local_rank
    host, port = address.rsplit(":", 1)
    os.environ.update(
        MASTER_ADDR=host,
        MASTER_PORT=port,
        RANK=str(rank),
        LOCAL_RANK=str(local_rank),
        GROUP_RANK=str(job.training.node_rank),
        WORLD_SIZE=str(job.training.processes),
        LOCAL_WORLD_SIZE=str(job.training.devices),
    )
    together = job.training.processes > 1
    try:
        fabric = Fabric(
            accelerator=job.training.accelerator,
            devices=job.training.devices,
            num_nodes=job.training.nodes,
            precision=job.training.precision,
            strategy=DDPStrategy(timeout=timedelta(minutes=10)) if together else "auto",
            plugins=[TorchElasticEnvironment()] if together else None,
        )
        fabric.launch()
        for message in Trainer(job, fabric).run(stop=pipe.poll):
            if rank == 0:
                pipe.send(message)
        pipe.send(_DONE)
    except UserError as error:
        pipe.send(error)
    except Exception:
        pipe.send(traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
