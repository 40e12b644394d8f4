"""What the prepared volumes of a case depend on, as one SHA-256; its files are hashed once, not at every start."""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlproject.data.case import Case
from mlproject.data.image_files import read_image_file
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.errors import DataError

NOTES = "keys"
"""Folder of the notes, in the cache."""
DETACHED_HEADERS = (".mhd", ".nhdr", ".hdr", ".img")
SETTLED_SECONDS = 2.0
"""A file that was changed later than this before it is hashed may be changed again and keep its date."""


class CaseKeys:
    """The keys of cases in a cache.

    A key is taken over the bytes of every file of the case, the channels' names and order (those that are missing too),
    which volume of a file a channel is, which values of the label are lesion, the settings and the format version; it
    depends on no path and no name of a case. A note keeps it under what is known of the files without reading them:
    path, inode, size, and the times of the last change of content and of status. Nobody can set the latter, so a file
    whose date was put back is hashed again. A note is named by a SHA-256, too, and holds the key alone.
    """

    def __init__(self, folder: Path, settings: PreprocessingSettings, format_version: int) -> None:
        self.folder = folder / NOTES
        self.fixed = {"format": format_version, "settings": asdict(settings)}

    def of(self, case: Case, labelled: bool) -> str:
        """The key of a case, with its label or without. Raises DataError where one of its files cannot be read."""
        began = time.time()
        files = list(dict.fromkeys(case.images.values()))
        if labelled and case.label is not None:
            files.append(case.label)
        note, changed = self._note(case, labelled, files)
        if note is not None and (noted := _read(note)):
            return noted
        key = self._hash(case, labelled, {path: _file_digest(path) for path in files})
        if (
            note is not None
            and changed < began - SETTLED_SECONDS
            and (note, changed) == self._note(case, labelled, files)
        ):
            _write(note, key)
        return key

    def _note(self, case: Case, labelled: bool, files: list[Path]) -> tuple[Path | None, float]:
        """Where the key of files in this state is noted, and when the last of them changed.

        None where a file is none, or is a header whose voxels lie in another one.
        """
        try:
            states = {path: path.stat() for path in files}
        except OSError:
            return None, 0.0
        if any(path.is_dir() or path.suffix.lower() in DETACHED_HEADERS for path in files):
            return None, 0.0
        known = {
            path: json.dumps([str(path.absolute()), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns])
            for path, s in states.items()
        }
        return self.folder / self._hash(case, labelled, known), max(s.st_ctime for s in states.values())

    def _hash(self, case: Case, labelled: bool, of_files: dict[Path, str]) -> str:
        """SHA-256 (hex) of a case, given a text that stands for each of its files."""
        content: dict[str, Any] = {
            **self.fixed,
            "channels": [_channel_identity(case, name, of_files) for name in case.channels],
            "label": of_files[case.label] if labelled and case.label is not None else None,
        }
        if content["label"] and case.lesion_labels is not None:
            content["lesion_labels"] = sorted(set(case.lesion_labels))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def mark_used(file: Path) -> None:
    """Give a file the present date, by which `clean` knows what is in use: not every disk keeps when it was read."""
    with suppress(OSError):  # another user's
        os.utime(file)


def _read(note: Path) -> str:
    """The key in a note; "" where there is none."""
    with suppress(OSError, UnicodeDecodeError):
        key = note.read_text()
        if re.fullmatch(r"[0-9a-f]{64}", key):
            mark_used(note)
            return key
    return ""


def _write(note: Path, key: str) -> None:
    """Keep a key; where that fails, the files are hashed again next time."""
    draft = note.with_name(f".{uuid4().hex}")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(key)
        draft.replace(note)
    with suppress(OSError):
        draft.unlink()


def _channel_identity(case: Case, channel: str, of_files: dict[Path, str]) -> tuple[str | int | None, ...]:
    """What a channel is made of: its name, what stands for its file (None: missing), and which volume of it."""
    if channel in case.missing:
        return channel, None
    component = (case.components[channel],) if channel in case.components else ()
    return channel, of_files[case.images[channel]], *component


def _file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of the decoded voxels where those lie in another file than `path`."""
    try:
        if path.is_dir() or path.suffix.lower() in DETACHED_HEADERS:
            return read_image_file(path).digest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
