"""The processes that cut patches: one that dies or hangs ends the fit by an error that says so."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from mlproject import interrupts
from mlproject.errors import TrainingError

KEPT = "the last checkpoint is intact: resume the run"
SECONDS_STOPPING = 5.0
"""For a batch that is waited for while the fit shall stop."""


def watched(loader: Iterable[Any], timeout_s: float, stop: Callable[[], bool]) -> Iterator[Any]:
    """What the loader gives; it ends where a batch is waited for while `stop` answers True.

    Raises TrainingError where a worker process dies, or gives nothing for so many seconds.

    PyTorch's own timeout does not see a worker that stops while its batch is handed over.
    """
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    watch = _Watch(workers, timeout_s, stop)
    try:
        while True:
            with watch:
                batch = next(batches)
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        ended = [] if watch.has_killed else [worker.exitcode for worker in workers if _has_ended(worker)]
        _end(workers)
        if watch.has_stopped:
            return
        if watch.has_killed:
            raise TrainingError(
                f"the processes that cut patches gave none for {timeout_s:g} s (training.timeout_s); {KEPT}, with "
                "training.workers=0 if it happens again"
            ) from error
        if ended:
            raise _died(interrupts.end_in_words(ended[0])) from error
        raise
    finally:
        watch.stop()


@contextmanager
def worker_errors() -> Iterator[None]:
    """Within: the death of a worker, which PyTorch tells at any moment, becomes a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _died(" ".join(str(error).split())) from error


def _died(how: str) -> TrainingError:
    return TrainingError(
        f"a process that cuts patches died ({how}); {KEPT} (a kill is most often the machine running out of memory: "
        "lower training.workers)"
    )


def _has_ended(worker: BaseProcess) -> bool:
    worker.join(0.1)  # a connection is closed a moment earlier than its process is gone
    return worker.exitcode is not None


def _end(workers: Collection[BaseProcess]) -> None:
    """End workers, for which PyTorch would wait; it is not to tell of these deaths, too."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere PyTorch does not listen either
    told = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main_thread else None
    for worker in workers:
        worker.kill()
        worker.join()
    if in_main_thread:
        signal.signal(signal.SIGCHLD, told)


class _Watch:
    """A thread that kills the workers where what is done within takes too long, so that waiting for them ends."""

    def __init__(self, workers: Collection[BaseProcess], timeout_s: float, stop: Callable[[], bool]) -> None:
        self.has_killed = self.has_stopped = False
        self._workers, self._timeout_s, self._shall_stop = workers, timeout_s, stop
        self._since = float("inf")
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="watch-data-workers", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = float("inf")

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._timeout_s / 4)):
            waited_s = time.monotonic() - self._since
            self.has_stopped = waited_s > SECONDS_STOPPING and self._shall_stop()
            if self.has_stopped or waited_s > self._timeout_s:
                self.has_killed = True
                for worker in self._workers:
                    worker.kill()
                return
