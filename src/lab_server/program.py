"""A program that runs as long as we do: started, waited for, stopped, and its last words shown where it dies."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

SECONDS_TO_START = 120
SECONDS_TO_STOP = 30


class ServerError(Exception):
    """What keeps the server from running, in one line for people."""


class Program:
    """A child process in a session of its own: Ctrl-C reaches us alone, and we stop all programs in their order.

    Attributes:
        name: for people.
        log: the file that has what it writes.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        stop_by: signal.Signals,
        *,
        environment: Mapping[str, str] | None = None,
        as_user: Sequence[str] = (),
    ) -> None:
        """Start it. `as_user`: words before the command that make it another user's."""
        self.name, self.log, self._stop_by = name, log, stop_by
        with log.open("ab") as output:
            self._begins = output.tell()
            self._process = subprocess.Popen(
                [*as_user, *_ends_with_us(stop_by), *command],
                cwd="/",  # a folder that every user may be in
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(self._stop_by)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_STOP)
        with suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Return once it answers. Raises ServerError where it dies, or is silent for SECONDS_TO_START."""
        until = time.monotonic() + SECONDS_TO_START
        while not answers():
            self.check()
            if time.monotonic() > until:
                raise ServerError(f"{self.name} does not answer after {SECONDS_TO_START} s: {self._last_words()}")
            time.sleep(0.2)

    def check(self) -> None:
        """Raise ServerError where it has ended."""
        code = self._process.poll()
        if code is not None:
            raise ServerError(f"{self.name} has ended (exit code {code}): {self._last_words()}")

    def _last_words(self) -> str:
        with self.log.open("rb") as output:
            output.seek(self._begins)
            lines = output.read().decode(errors="replace").strip().splitlines()
        return f"{lines[-1].strip() if lines else 'it has said nothing'} (all it says: {self.log})"


def _ends_with_us(stop_by: signal.Signals) -> list[str]:
    """The words before a command with which it is stopped even where we are killed (kill -9); Linux has them."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", stop_by.name.removeprefix("SIG")] if setpriv else []
