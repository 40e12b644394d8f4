"""What lies in work_dir, and whether a run still needs it; what is not known for sure counts as needed."""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlproject.data import copies
from mlproject.data.case_keys import NOTES
from mlproject.data.objects import OBJECTS
from mlproject.errors import TrackingError
from mlproject.stages.settings import SPOOL
from mlproject.tracking.spool import waiting
from mlproject.training.job import BEST, LAST

CACHE_ENTRY = re.compile(r"[0-9a-f]{64}")
UNFINISHED_ENTRY = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{32}")
KEY_NOTE = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{32}")
PROBABILITY = re.compile(r"[0-9a-f]{40}\.npy")
RUN = re.compile(r"[0-9a-f]{32}")
DEMO = re.compile(r"demo-\d+-v\d+")
CHECKPOINT = re.compile(rf"{BEST}|{LAST}|\.({BEST}|{LAST})\.(\d+|part)|download|probabilities")  # last two: of trials
STUDY = re.compile(r"study\.db.*")
SECONDS_A_DAY = 86_400
AT_WORK = ("RUNNING", "SCHEDULED")
NEVER_GONE_ON_WITH = ("trial",)  # stages whose runs are begun anew after a stop
PAGES = {"report": "report", "search": "study page"}


@dataclass(frozen=True)
class RunState:
    """What the tracking server says of a run.

    Attributes:
        stage: the run's stage, such as train or trial.
        status: MLflow's.
        has_model: a model was logged.
        deleted: in the UI, from where it can be restored.
    """

    stage: str
    status: str
    has_model: bool
    deleted: bool = False


@dataclass(frozen=True)
class Item:
    """Something in work_dir.

    Attributes:
        path: file or folder.
        kind: what it is.
        name: by which a reader knows it.
        size: of all its files, in bytes.
        days_unused: since one of them was last read (where the disk keeps that) or written.
        needed: whether it stays.
        reason: why it stays or may go.
        files: what of `path` is meant, where not all of it.
    """

    path: Path
    kind: str
    name: str
    size: int
    days_unused: float
    needed: bool
    reason: str
    files: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is meant, and goes where it is not needed."""
        return self.files or (self.path,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "paths": [str(path) for path in self.paths],
            "kind": self.kind,
            "bytes": self.size,
            "days_unused": round(self.days_unused, 2),
            "needed": self.needed,
            "reason": self.reason,
        }


def find_items(
    folder: Path, days: float, state_of: Callable[[str], RunState | None], running: Sequence[str] = ()
) -> list[Item]:
    """Everything in work_dir; links are not followed, and what vanishes meanwhile is left out.

    Args:
        folder: work_dir.
        days: after which what can be made again, and was not used, is not needed.
        state_of: what the server says of a run, None where it does not know it or cannot be asked.
        running: ids of the runs that are at work with this work_dir: what runs share stays as long.
    """
    items: list[Item] = []
    for path in _inside(folder):
        if path.is_symlink() or (not path.is_dir() and not STUDY.fullmatch(path.name)):
            items.append(_unknown(path, folder))
        elif not path.is_dir():
            items.append(_item(path, "study", path.name, needed=True, reason="the record of searches"))
        elif path.name == "cache":
            for entry in _inside(path):
                items += _cache_items(entry, folder, days, running)
        elif path.name == "probabilities":
            items += [_probability(entry, folder, days, running) for entry in _inside(path)]
        elif path.name == "demo":
            items += [_demo(entry, folder, days, running) for entry in _inside(path)]
        elif path.name == "studies":
            items.append(_item(path, "study", path.name, needed=True, reason="locks of studies"))
        elif path.name == SPOOL:
            items += [_undelivered(entry, folder) for entry in _inside(path)]
        elif path.name == "runs":
            for entry in _inside(path):
                items += _run_items(entry, folder, days, state_of)
        else:
            items.append(_unknown(path, folder))
    return [item for item in items if os.path.lexists(item.path)]


def _cache_items(path: Path, folder: Path, days: float, running: Sequence[str]) -> list[Item]:
    if path.name != OBJECTS or path.is_symlink() or not path.is_dir():
        return [_cache_entry(path, folder, days, running)]
    in_use = copies.in_use(path)
    return [_copy(entry, folder, days, running, in_use) for entry in _inside(path) if entry.name not in copies.OWN]


def _copy(path: Path, folder: Path, days: float, running: Sequence[str], in_use: Collection[str]) -> Item:
    """A copy of an object of a bucket; commands that are no runs may need it, too."""
    if path.is_symlink() or not path.is_dir() or not copies.FOLDER.fullmatch(path.name):
        return _unknown(path, folder)
    name = path.name.lstrip(".")
    if name in in_use:
        return _item(path, "copy from a bucket", name[:12], needed=True, reason="a command at work needs it")
    if path.name != name:
        return _aged(path, "unfinished", name[:12], 1, "left by a process that died")
    return _shared(path, "copy from a bucket", name[:12], days, running)


def _cache_entry(path: Path, folder: Path, days: float, running: Sequence[str]) -> Item:
    files = {file.name for file in _inside(path)} if path.is_dir() and not path.is_symlink() else set()
    if path.name == NOTES and files and all(KEY_NOTE.fullmatch(name) for name in files):
        return _shared(path, "keys of cases", path.name, days, running)
    if UNFINISHED_ENTRY.fullmatch(path.name):
        return _aged(path, "unfinished", path.name[:12], 1, "left by a process that died")
    arrays = all(name == "record.json" or name.endswith(".npy") for name in files)
    if not (CACHE_ENTRY.fullmatch(path.name) and "record.json" in files and arrays):
        return _unknown(path, folder)
    return _shared(path, "prepared case", path.name[:12], days, running)


def _probability(path: Path, folder: Path, days: float, running: Sequence[str]) -> Item:
    if path.is_symlink() or not PROBABILITY.fullmatch(path.name):
        return _unknown(path, folder)
    return _shared(path, "probability", path.name[:12], days, running)


def _demo(path: Path, folder: Path, days: float, running: Sequence[str]) -> Item:
    if path.is_symlink() or not DEMO.fullmatch(path.name):
        return _unknown(path, folder)
    return _shared(path, "demo data", path.name, days, running)


def _undelivered(path: Path, folder: Path) -> Item:
    """What a run has logged and its server has not got: nowhere else to be had."""
    if path.is_symlink() or not path.is_dir() or not RUN.fullmatch(path.name):
        return _unknown(path, folder)
    try:
        left = waiting(path)
    except TrackingError as error:  # of another user
        return _item(path, "not delivered", f"of run {path.name[:8]}", needed=True, reason=str(error))
    reason = f"{left} entries wait for the server: `python src/run.py sync`" if left else "nothing waits: small"
    return _item(path, "not delivered", f"of run {path.name[:8]}", needed=True, reason=reason)


def _shared(path: Path, kind: str, name: str, days: float, running: Sequence[str]) -> Item:
    """What any run of this work_dir may have open, on whatever machine."""
    if running:
        return _item(path, kind, name, needed=True, reason=f"run {running[0][:8]} RUNNING, perhaps with it")
    return _aged(path, kind, name, days, "made or fetched again where it is missing")


def _run_items(path: Path, folder: Path, days: float, state_of: Callable[[str], RunState | None]) -> Iterator[Item]:
    """A run's checkpoints, its pages, and the rest of its folder."""
    if path.is_symlink() or not path.is_dir() or not RUN.fullmatch(path.name):
        yield _unknown(path, folder)
        return
    state, name = state_of(path.name), f"of run {path.name[:8]}"
    files = _inside(path)
    checkpoints = [file for file in files if not file.is_symlink() and CHECKPOINT.fullmatch(file.name)]
    if checkpoints:
        yield _checkpoints(path, name, days, state, checkpoints)
    for file in files:
        if file in checkpoints:
            continue
        if file.is_symlink() or file.name not in (*PAGES, "config.yaml"):
            yield _unknown(file, folder)
        elif file.name == "config.yaml":
            yield _item(file, "settings of a run", name, needed=True, reason="small")
        elif state is not None and (state.status == "FINISHED" or (state.deleted and state.status not in AT_WORK)):
            yield _aged(file, PAGES[file.name], name, days, "also in the run's artifacts")
        else:
            reason = "run not known to this server" if state is None else f"run {state.status}"
            yield _item(file, PAGES[file.name], name, needed=True, reason=reason)


def _checkpoints(path: Path, name: str, days: float, state: RunState | None, files: Sequence[Path]) -> Item:
    stage = f" ({state.stage})" if state and state.stage else ""
    if state is not None and state.deleted and state.status not in AT_WORK:
        return _aged(path, "checkpoints", name + stage, days, "run deleted on the server", *files)
    return _item(path, "checkpoints", name + stage, *_checkpoints_needed(state), *files)


def _checkpoints_needed(state: RunState | None) -> tuple[bool, str]:
    if state is None:
        return True, "run not known to this server: perhaps to another"
    if state.status in AT_WORK:
        return True, f"run {state.status}"
    if state.stage in NEVER_GONE_ON_WITH:
        return False, f"trial {state.status}: it is begun anew, not gone on with"
    if state.status == "FINISHED" and state.has_model:
        return False, "run FINISHED, its model is logged"
    if state.status == "FINISHED":
        return True, "run FINISHED, but without a model"
    return True, f"run {state.status}: it may be gone on with"


def _aged(path: Path, kind: str, name: str, days: float, why: str, *files: Path) -> Item:
    """An item that is needed until it has not been used for some days; `why` it may go then."""
    item = _item(path, kind, name, True, f"used within {days:g} days", *files)
    if item.days_unused < days:
        return item
    return replace(item, needed=False, reason=f"unused for {days:g} days; {why}")


def _unknown(path: Path, folder: Path) -> Item:
    return _item(path, "unknown", str(path.relative_to(folder)), needed=True, reason="not made by this software: left")


def _item(path: Path, kind: str, name: str, needed: bool, reason: str, *files: Path) -> Item:
    found = [status for top in files or (path,) for status in _statuses(top)]
    # Not the folder's own: to list it, as here, counts as reading it. An empty one has nothing else.
    used = max((max(status.st_atime, status.st_mtime) for status in found), default=_changed(path))
    size = sum(status.st_size for status in found)
    days = max(0.0, (time.time() - used) / SECONDS_A_DAY)
    return Item(path, kind, name, size, days, needed, reason, tuple(files))


def _inside(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(folder.iterdir())
    return []


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Of all files below a folder; of a file or a link itself. Beside a busy run, some vanish meanwhile."""
    is_folder = path.is_dir() and not path.is_symlink()
    files = (Path(parent) / name for parent, _, names in os.walk(path) for name in names) if is_folder else (path,)
    for file in files:
        with suppress(FileNotFoundError):
            yield file.lstat()


def _changed(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.lstat().st_mtime
    return time.time()
