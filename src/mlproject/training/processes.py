"""A fit over several processes: one parent pulls, its workers train, the first worker reports."""

import logging
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mlproject import interrupts
from mlproject.errors import TrainingError, UserError
from mlproject.training.job import FitJob
from mlproject.training.meeting import MeetingPlace, meeting_place
from mlproject.training.progress import Event
from mlproject.training.settings import TrainingSettings
from mlproject.training.worker import BEGUN, DONE, STOP, Failed, Lost, work

START_METHOD = "spawn"  # CUDA does not survive a fork
OTHERS_SECONDS = 5.0
"""After a process has lost the others: whose fault it was comes out meanwhile."""
LOOK_SECONDS = 1.0
"""Between two looks at machine 0."""

logger = logging.getLogger(__name__)


def fit_in_processes(job: FitJob, stop: Callable[[], bool]) -> Iterator[Event]:
    """`fit` with `training.devices` worker processes on this machine (and as many on each other one).

    Only the parent's caller knows MLflow and Optuna. Raises TrainingError as soon as one worker fails or dies, and
    where the other machines are lost; the workers left are ended. They are, too, when the caller stops pulling.
    """
    training = job.training
    workers: list[BaseProcess] = []
    pipes: dict[int, Connection] = {}
    with meeting_place(training) as place:
        try:
            for local_rank in range(training.devices):
                worker, pipes[local_rank] = _start(job, local_rank, place)
                workers.append(worker)
            lost = yield from _listen(training, workers, pipes, stop, place)
            if lost is not None:
                raise _alone(training, lost, list(pipes), place)
        except UserError as error:
            if training.node_rank > 0:
                place.leave_word(str(error))  # machine 0 has the MLflow run, and its user's eye
            raise
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()


def _start(job: FitJob, local_rank: int, place: MeetingPlace) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context(START_METHOD)
    ours, theirs = context.Pipe()
    worker: BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=work, args=(job, local_rank, place, theirs), name=f"fit-{local_rank}"
    )
    # Inherited: Ctrl-C must not reach a worker, not even while it is still importing. The tracker goes first,
    # because starting it unblocks the signals.
    resource_tracker.ensure_running()
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)
    worker.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    theirs.close()
    return worker, ours


def _listen(
    training: TrainingSettings,
    workers: list[BaseProcess],
    pipes: dict[int, Connection],
    stop: Callable[[], bool],
    place: MeetingPlace,
) -> Generator[Event, None, Lost | None]:
    """Yield the events until all workers are done; takes their pipes out of `pipes`.

    Returns what was lost, where processes have lost the others and none here says why; `pipes` are then of those
    that say nothing at all. Raises the error of a worker that has one of its own.
    """
    told, begun, lost, until = False, False, None, math.inf
    seen = looked = time.monotonic()  # at machine 0, which would end without a process that hangs here
    while pipes and time.monotonic() < until:
        if training.node_rank > 0 and begun and time.monotonic() > looked + LOOK_SECONDS:
            looked = time.monotonic()
            seen = looked if place.is_open() else seen
            if looked > seen + training.timeout_s + OTHERS_SECONDS:  # a process that can will say it first
                return Lost(timed_out=True, trace="machine 0 has gone")
        if stop() and not told:
            if not begun:
                return None
            told = True
            for pipe in pipes.values():
                with suppress(OSError):  # it has died, which is noticed below
                    pipe.send(STOP)
        wait(list(pipes.values()), timeout=0.2)
        for rank in [rank for rank, pipe in pipes.items() if pipe.poll()]:
            try:
                message = pipes[rank].recv()
            except (EOFError, OSError) as error:
                workers[rank].join(5)
                raise _died(_name(training, rank), workers[rank].exitcode) from error
            if isinstance(message, UserError):
                raise message
            if isinstance(message, Failed):
                logger.debug("%s:\n%s", _name(training, rank), message.trace)
                raise TrainingError(f"{_name(training, rank)} failed: {message.reason}")
            if isinstance(message, Lost):
                logger.debug("%s:\n%s", _name(training, rank), message.trace)
                lost, until = message, min(until, time.monotonic() + OTHERS_SECONDS)
            if isinstance(message, Lost) or message == DONE:
                del pipes[rank]
            elif message == BEGUN:
                begun, seen = True, time.monotonic()
            else:
                yield message
    return lost


def _died(name: str, exit_code: int | None) -> TrainingError:
    return TrainingError(
        f"{name} died ({interrupts.end_in_words(exit_code)}); the others were ended and the last checkpoint is intact: "
        "resume the run (a SIGKILL is most often the machine running out of memory: lower training.batch_size or "
        "patches.size)"
    )


def _alone(training: TrainingSettings, lost: Lost, silent: list[int], place: MeetingPlace) -> TrainingError:
    """Why the processes lost each other, as far as this machine can know."""
    if training.nodes > 1 and training.node_rank == 0 and (word := place.word(OTHERS_SECONDS)):
        return TrainingError(word)
    if not lost.timed_out:
        return TrainingError(
            "the connection to the other training processes was closed, so one on another machine has ended; what "
            "that machine prints says why. The last checkpoint is intact: resume the run"
        )
    if silent:
        who = f"{' and '.join(_name(training, rank) for rank in silent)} did not answer"
        advice = "Should it only have been slow (one large validation case), raise training.timeout_s"
    else:
        who = "the other machines did not answer"
        advice = "See whether they are up, and can be reached"
    return TrainingError(
        f"{who} for {training.timeout_s:g} s (training.timeout_s); training was ended and the last checkpoint is "
        f"intact: resume the run. {advice}"
    )


def _name(training: TrainingSettings, local_rank: int) -> str:
    machine = f" on machine {training.node_rank}" if training.nodes > 1 else ""
    return f"training process {local_rank}{machine}"
