"""The copies of a bucket's objects in the cache: which are there, which are in use, and room for more within a bound.

The folder `objects` of the cache holds
- SHA256/NAME: a copy, in a folder named by the object's state, with what belongs to it, and `used` beside it;
- .SHA256/: one that is being fetched;
- locks/XX: held while one whose name begins so is fetched;
- in_use/UUID: held by a process that needs the copies that it lists.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO
from uuid import uuid4

from mlproject.data.case_keys import mark_used
from mlproject.data.objects import BucketObject, Stopped
from mlproject.data.storage import os_errors
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

USED, LOCKS, IN_USE, LOCK = "used", "locks", "in_use", "lock"
OWN = (LOCKS, IN_USE, LOCK)
"""What lies beside the copies."""
FOLDER = re.compile(r"\.?[0-9a-f]{64}")
"""Names of the copies' folders; they begin with a dot while they are not whole."""
SECONDS_BETWEEN_LOOKS = 0.05
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that lock no files."""
GB = 1e9

_held: dict[Path, dict[str, int]] = {}
"""The copies that this process needs until it ends, by their folder: name and bytes. The open files that say so to
others are in `_notes`, and stay open as long."""
_notes: list[IO[str]] = []


@dataclass(frozen=True)
class Copy:
    """A copy, there or not.

    Attributes:
        folder: its own.
        objects: what lies in there: first the object itself, then what belongs to it.
    """

    folder: Path
    objects: tuple[BucketObject, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(one.size for one in self.objects)

    def is_whole(self) -> bool:
        """Whether it is there, with all its bytes; what was checked when it was fetched is not checked again."""
        try:
            return all((self.folder / one.name).stat().st_size == one.size for one in self.objects)
        except OSError:
            return False

    def mark_used(self) -> None:
        """Give it the present date. Not to the copy itself: the date is how `CaseKeys` knows it unchanged."""
        mark_used(self.folder / USED)


def reserve(copies: Sequence[Copy], limit_gb: float) -> None:
    """Make room for copies, and keep others from removing them until this process ends.

    Those that nobody at work needs make room, the least recently used first.

    Raises:
        DataError: the copies exceed the bound, alone or with what others at work need, or the disk.
    """
    folder = copies[0].folder.parent
    wanted = {copy.folder.name: copy.size for copy in copies}
    with os_errors(folder):
        (folder / IN_USE).mkdir(parents=True, exist_ok=True)
        (folder / LOCKS).mkdir(exist_ok=True)
        with locked(folder / LOCK):
            _make_room(folder, wanted, copies, limit_gb)
            if not wanted.keys() <= _held.get(folder, {}).keys():
                _hold(folder, wanted)


def _make_room(folder: Path, wanted: Mapping[str, int], copies: Sequence[Copy], limit_gb: float) -> None:
    folders = [path for path in folder.iterdir() if FOLDER.fullmatch(path.name)]
    there = {path.name: path for path in folders if not path.name.startswith(".")}
    sizes = {name: _size(path) for name, path in there.items()}
    needed = {**_in_use(folder), **wanted}
    missing = sum(copy.size for copy in copies if not copy.is_whole())
    names = f"{copies[0].objects[0].uri} and {len(copies) - 1} others"
    if sum(wanted.values()) > limit_gb * GB:
        raise DataError(
            f"{names} are {sum(wanted.values()) / GB:.3g} GB, and data.copies_gb={limit_gb:g} is the most that copies "
            f"may take in {folder}: give a higher data.copies_gb, fewer channels or cases"
        )
    total = sum({**sizes, **needed}.values())
    for path in folders:
        if path.name.startswith(".") and path.name[1:] not in needed:
            shutil.rmtree(path, ignore_errors=True)  # left by a process that died
    spare = sorted(set(there) - set(needed), key=lambda name: _last_used(there[name]))
    while spare and (total > limit_gb * GB or missing > shutil.disk_usage(folder).free):
        total -= sizes[spare[0]]
        discard(there[spare.pop(0)])
    if total > limit_gb * GB:
        raise DataError(
            f"{names} do not fit beside what other commands at work need: {total / GB:.3g} GB together, and "
            f"data.copies_gb={limit_gb:g} is the most that copies may take in {folder}: wait, or raise it"
        )
    if missing > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{names}: {missing / GB:.3g} GB are to be fetched into {folder}, whose disk has {free / GB:.3g} GB free: "
            "free some space, or give a work_dir on a larger disk"
        )


def in_use(folder: Path) -> set[str]:
    """The names of the copies that processes at work need."""
    with os_errors(folder), locked(folder / LOCK):
        return set(_in_use(folder))


def _in_use(folder: Path) -> dict[str, int]:
    """Bytes of the copies that processes at work need; what those said that died is removed. With the LOCK held."""
    needed = dict(_held.get(folder, {}))  # where nothing is locked, the note says it to nobody
    for file in (folder / IN_USE).glob("*"):
        with file.open("r+") as note:  # NFS gives such a lock on a file open for writing alone
            if _is_locked(note):
                file.unlink()
            else:
                needed |= json.load(note)
    return needed


def _hold(folder: Path, wanted: Mapping[str, int]) -> None:
    """Say that this process needs these copies, for as long as it lives: it alone knows when, and it may be killed."""
    file = folder / IN_USE / uuid4().hex
    note = file.open("x")
    try:
        _is_locked(note)  # at once: nobody else looks at it before we let the LOCK go
        note.write(json.dumps(wanted))
        note.flush()
    except OSError:
        note.close()
        file.unlink()
        raise
    _notes.append(note)
    _held.setdefault(folder, {}).update(wanted)


def _size(copy: Path) -> int:
    with suppress(OSError):
        return sum(entry.stat().st_size for entry in os.scandir(copy))
    return 0


def _last_used(copy: Path) -> float:
    with suppress(OSError):
        return (copy / USED).stat().st_mtime
    return 0.0


def discard(copy: Path) -> None:
    """Take a copy away in one step, so that nobody sees half of it."""
    unwanted = copy.with_name(f".{copy.name}")
    shutil.rmtree(unwanted, ignore_errors=True)
    with suppress(FileNotFoundError):
        copy.rename(unwanted)
    shutil.rmtree(unwanted, ignore_errors=True)


@contextmanager
def locked(file: Path, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within: no other thread or process holds this lock. Raises Stopped where `is_stopped` says so meanwhile."""
    with file.open("a") as lock:
        while not _is_locked(lock):
            if is_stopped():
                raise Stopped
            time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def _is_locked(file: IO[str]) -> bool:
    """Whether this process has the lock now; also where nobody can have any."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        place = Path(file.name).parent
        _say_that_nothing_is_locked(place.parent if place.name in OWN else place, error.strerror)
    return True


@cache
def _say_that_nothing_is_locked(folder: Path, reason: str) -> None:
    logger.warning("%s cannot be locked (%s): let no second command use this work_dir", folder, reason)
