"""Prepared cases on disk: found again by the content of the files and the settings, never by name or date."""

import json
import logging
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from mlproject.data.case import Case
from mlproject.data.case_keys import CaseKeys, mark_used
from mlproject.data.preprocessing import Geometry, PreparedCase, prepare
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import read_volume
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Raise it whenever preparation or the files of an entry change: entries of another version are not found."""


class PreparedCache:
    """Prepares each case once and keeps it as memory-mapped arrays.

    An entry is a folder named by the case's key (see CaseKeys); it holds no path and no name of a case. It is written
    beside its place and renamed into it, so several processes may share a cache.
    """

    def __init__(self, folder: Path, settings: PreprocessingSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.keys = CaseKeys(folder, settings, FORMAT_VERSION)

    def load(self, case: Case, labelled: bool = True) -> PreparedCase:
        """The prepared case, from the cache or made now; its arrays are read-only and memory-mapped.

        Raises:
            DataError: the case cannot be read or prepared, its files change meanwhile, or the folder is not
                writable or full.
        """
        key = self.keys.of(case, labelled)
        entry = self.folder / key
        if entry.exists():
            try:
                prepared = _open(entry, case)
                mark_used(entry / "record.json")
                return prepared
            except _DamagedEntry as damage:
                logger.warning("The cache entry %s is damaged (%s) and is made again", entry, damage)
                _discard(entry)
        prepared = prepare(read_volume(case, labelled), self.settings)
        if self.keys.of(case, labelled) != key:
            raise DataError(f"{case.name}: its files changed while they were read; start again when they are complete")
        _write(prepared, entry)
        return _open(entry, case)


class _DamagedEntry(Exception):
    """What is wrong with an entry."""


def _write(prepared: PreparedCase, entry: Path) -> None:
    """Write an entry; where another process has put the same entry there meanwhile, that one stays."""
    record = {
        "format": FORMAT_VERSION,
        "geometry": prepared.geometry.to_dict(),
        "channel_digests": prepared.channel_digests,
        "labelled": prepared.label is not None,
    }
    arrays = {"image": prepared.image, "brain": prepared.brain}
    if prepared.label is not None and prepared.native_label is not None:
        arrays |= {"label": prepared.label, "native_label": prepared.native_label}
    unfinished = entry.with_name(f".{entry.name}.{uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        (unfinished / "record.json").write_text(json.dumps(record, indent=1))
        unfinished.rename(entry)
    except OSError as error:
        if not entry.exists():
            raise DataError(f"cannot write to the cache {entry.parent} ({error}); free space or move it") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _open(entry: Path, case: Case) -> PreparedCase:
    """Map an entry's arrays; nothing in it is ever unpickled."""
    try:
        record = json.loads((entry / "record.json").read_text())
        if record["format"] != FORMAT_VERSION:
            raise _DamagedEntry(f"format {record['format']}, expected {FORMAT_VERSION}")
        geometry = Geometry.from_dict(record["geometry"])
        digests = {str(channel): str(digest) for channel, digest in record["channel_digests"].items()}
        labelled = record["labelled"]
        missing = case.places_of_missing  # part of the key
        return PreparedCase(
            name=case.name,
            image=_array(entry / "image.npy", np.float32, (len(digests) + len(missing), *geometry.shape)),
            brain=_array(entry / "brain.npy", np.bool_, geometry.shape),
            label=_array(entry / "label.npy", np.uint8, geometry.shape) if labelled else None,
            native_label=_array(entry / "native_label.npy", np.uint8, geometry.native_shape) if labelled else None,
            geometry=geometry,
            channel_digests=digests,
            missing=missing,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise _DamagedEntry(f"{type(error).__name__}: {error}") from error


def _array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an array of this kind, read-only.

    np.load would read the header with Python's parser: slow, and in 3.11 two threads that parse at once may fail
    ("SystemError: AST constructor recursion depth mismatch").
    """
    header = BytesIO()
    kind = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, kind)
    with path.open("rb") as file:
        if file.read(header.tell()) != header.getvalue():
            raise ValueError(f"{path.name} is not {np.dtype(dtype)} {shape}")
    array: NDArray[Any] = np.memmap(path, dtype, "r", header.tell(), shape)
    return array


def _discard(entry: Path) -> None:
    """Take a damaged entry away in one step; another process may do so at the same time."""
    unwanted = entry.with_name(f".{entry.name}.{uuid4().hex}")
    try:
        entry.rename(unwanted)
    except FileNotFoundError:
        return
    shutil.rmtree(unwanted, ignore_errors=True)
