"""What a run has logged and its server has not got yet: numbered entries in a folder, each whole or not there."""

import fcntl
import json
import logging
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from mlproject.errors import TrackingError
from mlproject.training.checkpoint import to_disk

logger = logging.getLogger(__name__)

NAME = re.compile(r"(\d{8})-(\w+)")
ASIDE = "refused"
"""Folder, in a spool, of the entries that the server did not take; `sync` tries them once more."""
_open_here: set[Path] = set()
LOCK, ORIGIN, CONTENT, FILES = "lock", "origin.json", "entry.json", "files"
REASON = "reason.txt"
"""In an entry of which the run's readers were told that it was refused, or may be: until it is delivered after all."""


@dataclass(frozen=True)
class Entry:
    """Something that a run has logged.

    Attributes:
        folder: where it lies.
        kind: what is to be done with it; see run_on_server.RunOnServer.
        values: plain values.
    """

    folder: Path
    kind: str
    values: dict[str, Any]

    @property
    def files(self) -> Path:
        """Folder of the files that belong to it; missing where it has none."""
        return self.folder / FILES


class SpoolBusyError(TrackingError):
    """Another process has the spool open."""


class Spool:
    """The entries of one run, first in, first out; one process at a time has it open, several threads may use it.

    Attributes:
        folder: named by the run's id, below `work_dir/spool`.
    """

    def __init__(self, folder: Path, server: str) -> None:
        """Open a spool, or make it. `server`: address to which the entries belong, for people.

        Raises:
            SpoolBusyError: another process has it open.
            TrackingError: it cannot be written.
        """
        self.folder = folder
        try:
            if folder in _open_here:  # such a lock does not keep its own process out
                raise BlockingIOError
            self._lock_file = _locked(folder)
            _open_here.add(folder)
            if not (folder / ORIGIN).exists():
                _write_whole(folder / ORIGIN, json.dumps({"server": server}))
            for unfinished in folder.glob(".*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        except BlockingIOError as error:
            raise SpoolBusyError(
                f"run {folder.name} is at work in another process on this work_dir: wait for its end, or stop it"
            ) from error
        except OSError as error:
            _open_here.discard(folder)
            raise _cannot_keep(folder, error) from error
        self._names = deque(_names_in(folder))
        known = [*self._names, *_names_in(folder / ASIDE)]
        self._next = max((int(name[:8]) for name in known), default=0) + 1
        self._changed = threading.Condition()
        self._failures: list[float] = []

    @property
    def server(self) -> str:
        """The server's address, as it was when the spool was made."""
        return str(json.loads((self.folder / ORIGIN).read_text())["server"])

    def put(
        self, kind: str, values: dict[str, Any], fill: Callable[[Path], object] | None = None, only_last: bool = False
    ) -> None:
        """Add an entry; when this returns, it is on the disk.

        Args:
            kind: as in Entry.
            values: as in Entry.
            fill: puts the entry's files into the folder given.
            only_last: of the entries of this kind that still wait, only this one is needed.

        Raises:
            TrackingError: it cannot be written, for instance because the disk is full; those before it are intact.
        """
        draft = self.folder / f".{uuid4().hex}"
        try:
            draft.mkdir()
            write_entry(draft, kind, values, fill)
            for path in (*draft.rglob("*"), draft):
                to_disk(path)
            with self._changed:
                name = f"{self._next:08d}-{kind}"
                self._next += 1  # first: a signal may raise here at any moment, and no number is given twice
                draft.rename(self.folder / name)
                to_disk(self.folder)
                # Not the first one, which may be on its way.
                superseded = [other for other in list(self._names)[1:] if only_last and other.endswith(f"-{kind}")]
                self._names = deque([*(other for other in self._names if other not in superseded), name])
                self._changed.notify_all()
        except OSError as error:
            raise _cannot_keep(self.folder, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for other in superseded:
            self._discard(self.folder / other)

    def first(self, seconds: float = 0) -> Entry | None:
        """The entry that is next, waiting so long for one; None where there is none. It stays until `remove`.

        Raises ValueError or OSError where it is damaged.
        """
        with self._changed:
            if not self._names:
                self._changed.wait(seconds)
            if not self._names:
                return None
            name = self._names[0]
        return read_entry(self.folder / name)

    def failed(self) -> tuple[int, float]:
        """Note that the first entry could not be delivered: how often that has been so, and over how many seconds."""
        self._failures.append(time.monotonic())
        return len(self._failures), self._failures[-1] - self._failures[0]

    def remove(self) -> None:
        """Take the first entry away: it is delivered."""
        with self._changed:
            name = self._names.popleft()
            self._failures.clear()
            self._discard(self.folder / name)
            self._changed.notify_all()

    def set_aside(self, reason: str) -> Path:
        """Move the first entry to where it stops nothing, and say why in it; returns where it is."""
        with self._changed:
            name = self._names[0]
            place = self.folder / ASIDE / name
            place.parent.mkdir(exist_ok=True)  # on a full disk it fails, and the entry waits where it is
            (self.folder / name).rename(place)
            self._names.popleft()
            self._failures.clear()
            with suppress(OSError):
                (place / REASON).write_text(f"{reason}\n")
            self._changed.notify_all()
        return place

    def try_again(self) -> None:
        """Put back in its place what was set aside."""
        with self._changed:
            for name in _names_in(self.folder / ASIDE):
                (self.folder / ASIDE / name).rename(self.folder / name)
            self._names = deque(_names_in(self.folder))

    def wait(self, seconds: float) -> None:
        """Wait until an entry comes or goes, or so long."""
        with self._changed:
            self._changed.wait(seconds)

    def __len__(self) -> int:
        """How many entries wait, without those that were set aside."""
        return len(self._names)

    @property
    def aside(self) -> int:
        """How many entries were set aside."""
        return len(_names_in(self.folder / ASIDE))

    def close(self) -> None:
        """Let go of it; one that is empty is removed."""
        if not waiting(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        _open_here.discard(self.folder)
        self._lock_file.close()

    def _discard(self, path: Path) -> None:
        """Take an entry away in one step, so that a kill leaves no half of it."""
        unwanted = self.folder / f".{uuid4().hex}"
        with suppress(OSError):
            path.rename(unwanted)
            shutil.rmtree(unwanted)


def write_entry(folder: Path, kind: str, values: dict[str, Any], fill: Callable[[Path], object] | None) -> Entry:
    """Write an entry into an empty folder; see Spool.put."""
    entry = Entry(folder, kind, values)
    if fill is not None:
        entry.files.mkdir()
        fill(entry.files)
    (folder / CONTENT).write_text(json.dumps({"kind": kind, "values": values}))
    return entry


def read_entry(folder: Path) -> Entry:
    """The entry in a folder. Raises ValueError or OSError where it is damaged."""
    content = json.loads((folder / CONTENT).read_text())
    if not isinstance(content, dict) or set(content) != {"kind", "values"}:
        raise ValueError(f"{folder / CONTENT} is no entry")
    return Entry(folder, content["kind"], content["values"])


def waiting(folder: Path) -> int:
    """How many entries a spool's folder holds, those set aside too; it need not be open.

    Raises TrackingError where this user may not look into it.
    """
    try:
        return len(_names_in(folder)) + refused(folder)
    except PermissionError as error:
        raise _of_another_user(folder, error) from error


def refused(folder: Path) -> int:
    """How many of them were set aside."""
    return len(_names_in(folder / ASIDE))


def spools_in(folder: Path) -> list[Path]:
    """The folders of all spools below `work_dir/spool`. Raises TrackingError where this user may not look into it."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise _of_another_user(folder, error) from error


def _names_in(folder: Path) -> list[str]:
    """The names of the entries in a folder, in order; none where it is gone."""
    try:
        return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def _locked(folder: Path) -> IO[bytes]:
    """Make the folder and lock it; raises BlockingIOError where another process has it.

    A lock of this kind ends with its process and is not inherited by the processes that it forks.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / LOCK).open("ab")
        except FileNotFoundError:  # another process has just removed it
            continue
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
                return file
        except FileNotFoundError:
            pass
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise BlockingIOError(*error.args) from error
        except OSError as error:  # some network file systems lock no files
            logger.warning("%s cannot be locked (%s): let no second command work in this run", folder, error.strerror)
            return file
        file.close()


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{uuid4().hex}")
    draft.write_text(text)
    draft.replace(path)


def _of_another_user(folder: Path, error: PermissionError) -> TrackingError:
    return TrackingError(
        f"{folder} is not this user's ({error.strerror}): another one has made it, perhaps root in a container. Give "
        f"the same command as that user, or take it over: sudo chown -R {os.getuid()} {folder}"
    )


def _cannot_keep(folder: Path, error: OSError) -> TrackingError:
    if isinstance(error, PermissionError):
        return _of_another_user(folder if os.path.lexists(folder) else folder.parent, error)
    # Of a folder that was copied in vain, the reason of its first file.
    reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or str(error)
    return TrackingError(
        f"what the run logs cannot be kept in {folder} ({reason}): what was kept before is intact. Free some "
        "space, or move work_dir to another disk, and resume the run"
    )
