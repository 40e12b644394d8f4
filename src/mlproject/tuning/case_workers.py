"""Worker processes that hold the cases, so that one task runs on all of them at once.

pydensecrf keeps Python's interpreter lock, so threads would not help, and it can end its whole process. Processes
are spawned: a fork of a process with threads (PyTorch, MLflow) may hang. Of the project, a worker imports little
more than this module and the one that the cases and tasks come from.
"""

import mmap
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import numpy as np

from mlproject import interrupts

Case = TypeVar("Case")
Result = TypeVar("Result")


class TaskFailed(Exception):
    """Why a task did not get through: the case, and an exception's text, a signal or the time limit."""


class CaseWorkers(Generic[Case]):
    """A pool of processes that each hold all cases; a context manager, which ends them when it is left.

    The processes ignore interrupts.SIGNALS, which are for the parent to act on, and end with it (after the case
    in hand). Memory-mapped arrays of the cases travel as file names.

    Args:
        cases: Picklable; each process has its own copies, so what a task stores on a case stays there.
        names: Of the cases, for messages.
        sizes: How long each case takes in proportion: the largest go first, so that none is left at the end.
        processes: How many; 0 is one a core of this machine. Never more than cases.
    """

    def __init__(self, cases: Sequence[Case], names: Sequence[str], sizes: Sequence[float], processes: int = 0) -> None:
        self._cases = list(cases)
        self._names = names
        self._largest_first = sorted(range(len(cases)), key=lambda index: -sizes[index])
        wanted = min(processes or len(os.sched_getaffinity(0)), len(cases))
        self._workers: list[_Worker | None] = [None] * wanted

    def __enter__(self) -> "CaseWorkers[Case]":
        self._start_missing()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.end()
        self._workers = [None] * len(self._workers)

    def run(self, task: Callable[[Case], Result], seconds: float) -> Iterator[tuple[int, Result]]:
        """Each case's index with the task's result, in the order in which they are ready.

        Whether it ends by a failure, or because the caller stops pulling: processes that are still at work are
        ended then, and replaced when the next task comes.

        Args:
            task: A function of a module, or a functools.partial of one.
            seconds: Time for all cases together.

        Raises:
            TaskFailed: The task raised an exception, a process died, or time is up.
        """
        deadline = time.monotonic() + seconds
        waiting = deque(self._largest_first)
        try:
            for worker in self._start_missing():
                worker.give(task, waiting)
            while busy := [worker for worker in self._workers if worker is not None and worker.index is not None]:
                ready = wait([worker.pipe for worker in busy], timeout=max(deadline - time.monotonic(), 0))
                if not ready:
                    names = ", ".join(self._names[worker.index] for worker in busy if worker.index is not None)
                    raise TaskFailed(f"not done within {seconds:g} s, still at work on {names}")
                for worker in busy:
                    if worker.pipe in ready:
                        index, result = self._result_of(worker)
                        worker.give(task, waiting)
                        yield index, result
        finally:
            self._end_busy()

    def _start_missing(self) -> list["_Worker"]:
        self._workers = [worker or _Worker(self._cases) for worker in self._workers]
        return [worker for worker in self._workers if worker is not None]

    def _end_busy(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker is not None and worker.index is not None:
                worker.end()
                self._workers[place] = None

    def _result_of(self, worker: "_Worker") -> tuple[int, Any]:
        index = worker.index
        assert index is not None
        try:
            failure, result = worker.pipe.recv()
        except (EOFError, OSError) as error:
            raise TaskFailed(f"case {self._names[index]}: {worker.death()}") from error
        if failure:
            raise TaskFailed(f"case {self._names[index]}: {failure}")
        worker.index = None
        return index, result


class _Worker:
    """A process, the parent's end of its pipe, and the index of the case that it is at."""

    def __init__(self, cases: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.index: int | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(cases, theirs), name="case-worker")
        # Inherited for life: Ctrl-C must not reach a worker, not even while it is still importing. The tracker goes
        # first, because starting it unblocks the signals.
        resource_tracker.ensure_running()
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)
        try:
            with _one_thread():
                self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            theirs.close()

    def give(self, task: Callable[[Any], Any], waiting: deque[int]) -> None:
        """Hand it the next case, if one is waiting."""
        if waiting:
            self.index = waiting.popleft()
            with suppress(OSError):  # it has died, which its pipe tells when it is read
                self.pipe.send((self.index, task))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def death(self) -> str:
        """How it died, in words."""
        self.process.join(5)
        return f"the worker process died ({interrupts.end_in_words(self.process.exitcode)})"


def _work(cases: Sequence[Any], pipe: Connection) -> None:
    """The whole life of a worker process: (index, task) in, (failure, result) out, until the parent is gone."""
    with suppress(EOFError, OSError):
        while True:
            index, task = pipe.recv()
            try:
                answer = ("", task(cases[index]))
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                answer = (f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})", None)
            pipe.send(answer)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, a new process starts its numerical libraries with one thread: there is a process for each core."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _reduce_memmap(array: "np.memmap[Any, Any]") -> tuple[Any, ...]:
    """How multiprocessing sends a memory map: as its file's name; as an array where it is a part or may differ."""
    whole = isinstance(array.base, mmap.mmap) and array.filename is not None and array.mode == "r"
    if not whole:
        return pickle.loads, (pickle.dumps(np.array(array), protocol=pickle.HIGHEST_PROTOCOL),)
    order = "C" if array.flags.c_contiguous else "F"
    return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape, order)


ForkingPickler.register(np.memmap, _reduce_memmap)
