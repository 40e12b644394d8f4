"""Ctrl-C, SIGTERM, SIGUSR1 and the death of `mlflow run`: how a process learns that it shall stop.

SIGUSR1 is what SLURM can pass on to a job before its time is up; on a SIGTERM, its `srun` kills outright.

A first signal asks: work that can leave a checkpoint (training) looks at `requested` and ends by itself,
all other work is left at once by the exception `Interrupted`. Signals that follow within SAME_REQUEST_SECONDS
are the same request (`mlflow run` sends SIGTERM on top of the terminal's Ctrl-C); a later one always raises.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from mlproject.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_SHELLS = {"bash", "sh", "dash"}
SAME_REQUEST_SECONDS = 5.0
SECONDS_TO_EXIT = 3.0
_received: int | None = None
_received_at = 0.0
_graceful = False
watched: psutil.Process | None = None
"""The launcher whose end stops this process, if there is one."""


def install() -> None:
    """Take over SIGNALS of this process. Call once, in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)


def ignore() -> None:
    """Leave SIGNALS, which reach the whole process group, to the parent, with which this process ends.

    Or pass over them, where it is about to end.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _received is not None


def is_stop(error: BaseException) -> bool:
    """Whether an exception means that the work was stopped, rather than that it failed.

    Once a signal has come, every exception does: what fails then may have lost what the signal has ended.
    """
    return isinstance(error, KeyboardInterrupt) or requested()


def exit_code(of_failure: int) -> int:
    """The exit code of a command that ends by an error: that of the signal, if one has come."""
    return stop_now("").exit_code if requested() else of_failure


def end_in_words(exit_code: int | None) -> str:
    """How a process has ended, by its exit code as multiprocessing gives it: minus the number of a signal."""
    return f"signal {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"exit code {exit_code}"


def stop_now(text: str) -> Interrupted:
    """The exception with which work that has saved its state ends."""
    return Interrupted(text, _received or signal.SIGTERM)


def seconds_left(seconds: float) -> float:
    """What is left of so many seconds since the first signal; a tenth of them at least."""
    return max(seconds / 10, seconds - (time.monotonic() - _received_at))


def exit_soon(code: int) -> None:
    """Once a signal has come: end this process in SECONDS_TO_EXIT, even where a library's threads would keep it.

    Python waits for those of concurrent.futures, and MLflow's may wait minutes there for a server that says nothing.
    """
    if requested():
        ignore()
        sys.stdout.flush()
        timer = threading.Timer(SECONDS_TO_EXIT, os._exit, (code,))
        timer.daemon = True
        timer.start()


@contextmanager
def graceful() -> Iterator[None]:
    """Within: a first signal raises nothing, the work looks at `requested` and ends by itself."""
    global _graceful
    _graceful = True
    try:
        yield
    finally:
        _graceful = False


def launcher() -> psutil.Process | None:
    """The process that called this command for `mlflow run`; None where nobody did.

    `mlflow run` starts the entry point through a shell that may or may not remain in between.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return None
    for process in psutil.Process().parents():
        if process.name() not in _SHELLS:
            return process
    return None


def stop_with(process: psutil.Process) -> None:
    """Send this process SIGTERM as soon as `process` is gone.

    A SIGTERM to `mlflow run` ends only `mlflow run`: without this, its child would train on, unseen.
    """
    global watched
    watched = process

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-launcher", daemon=True).start()


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _received, _received_at
    first, now = _received is None, time.monotonic()
    if not first and now - _received_at < SAME_REQUEST_SECONDS:
        return
    _received, _received_at = number, now
    if not (first and _graceful):
        raise Interrupted(f"stopped by {signal.Signals(number).name}", number)
