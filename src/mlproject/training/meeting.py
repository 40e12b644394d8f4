"""Where the processes of a fit find each other: a key-value store, PyTorch's TCPStore, that machine 0 holds."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

from mlproject.errors import TrainingError
from mlproject.training.settings import TrainingSettings

START_SECONDS = 3600.0
"""For which a process waits for the others before the first step: their machines may still be preparing cases."""
_WORD = "failure"


@dataclass(frozen=True)
class MeetingPlace:
    """The address of the store. Picklable: the workers get it from their parent.

    Attributes:
        host: name or address of machine 0, as the other machines know it.
        port: where the store listens.
    """

    host: str
    port: int

    def wait_for_all(self, rank: int, processes: int, seconds: float = START_SECONDS) -> None:
        """Return as soon as all processes have called this. Raises TrainingError if that takes longer than `seconds`.

        torch.distributed would wait, too, but no longer than for any exchange, and would print pages where machine 0
        is not there yet.
        """
        until = time.monotonic() + seconds
        store = self._connect(until)
        store.set(f"here/{rank}", "")
        missing = list(range(processes))
        while missing := [other for other in missing if not store.check([f"here/{other}"])]:
            if time.monotonic() > until:
                raise TrainingError(
                    f"training cannot begin: after {seconds:g} s, {processes - len(missing)} of {processes} processes "
                    f"have come, not number {', '.join(map(str, missing))} (counted from 0 on machine 0): run the same "
                    "command on every machine, with the same training.devices"
                )
            time.sleep(0.05)

    def interface(self) -> str:
        """Name of the network interface that leads to machine 0; "" if it has none.

        Left to itself, gloo takes the one that this machine's own name resolves to, on Debian often loopback.
        """
        with socket.create_connection((self.host, self.port), timeout=30) as connection:
            own = connection.getsockname()[0]
        interfaces = psutil.net_if_addrs().items()
        return next((name for name, addresses in interfaces if own in {entry.address for entry in addresses}), "")

    def is_open(self) -> bool:
        """Whether machine 0 still answers."""
        try:
            socket.create_connection((self.host, self.port), timeout=2).close()
        except OSError:
            return False
        return True

    def leave_word(self, text: str) -> None:
        """Tell machine 0 why this machine failed; nothing happens where it cannot be reached."""
        try:
            self._connect(time.monotonic() + 1).set(_WORD, text)
        except (TrainingError, DistError):
            return

    def word(self, seconds: float) -> str:
        """What another machine has left as the reason of its failure, within `seconds`; "" for nothing."""
        try:
            store = self._connect(time.monotonic() + seconds)
            store.wait([_WORD], timedelta(seconds=seconds))
            return bytes(store.get(_WORD)).decode()
        except (TrainingError, DistError):
            return ""

    def _connect(self, until: float) -> PrefixStore:
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=5).close()
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise TrainingError(
                        f"machine 0 does not answer at training.main_address={self.host}:{self.port} ({error}): run "
                        "the same command there, and let the other machines reach this port"
                    ) from error
                time.sleep(0.2)
        store = TCPStore(self.host, self.port, is_master=False, timeout=timedelta(seconds=30))
        # torchrun's store outlives a restart of the processes.
        return PrefixStore(f"fit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def meeting_place(training: TrainingSettings) -> Iterator[MeetingPlace]:
    """Within, this machine's share of the meeting place is open: machine 0 holds the store, unless torchrun does.

    Raises TrainingError where it cannot listen at training.main_address.
    """
    host, port, store = "127.0.0.1", 0, None
    if training.nodes > 1:
        host, _, digits = training.main_address.rpartition(":")
        port = int(digits)
    if training.node_rank == 0 and not _held_by_torchrun(host, port):
        try:
            with socket.socket(socket.AF_INET) as free:
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("", port))
            store = TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
        except (OSError, OverflowError, DistError) as error:
            raise TrainingError(
                f"this machine cannot listen at training.main_address={host}:{port} "
                f"({str(error).splitlines()[0]}): give its own name and a free port"
            ) from error
        port = store.port
    yield MeetingPlace(host, port)
    del store  # not before


def _held_by_torchrun(host: str, port: int) -> bool:
    environment = os.environ
    address = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and address == (host, str(port))
