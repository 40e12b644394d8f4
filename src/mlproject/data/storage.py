"""Folders of files on this machine or in an S3 bucket, with the same few operations."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from mlproject.data.objects import SCHEME
from mlproject.errors import DataError

logger = logging.getLogger(__name__)


class Folder(Protocol):
    """Where files with plain names are read and written. All methods raise DataError with the file's full name."""

    def names(self) -> set[str]:
        """Names of the files directly in the folder; empty where the folder does not exist."""

    def read(self, name: str) -> bytes:
        """The whole content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; what has the name is replaced."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def locate(self, name: str) -> str:
        """The full name of a file, for people."""

    def locked(self) -> AbstractContextManager[None]:
        """Within: no other process may hold the same folder; it is made if need be. A bucket knows no lock."""


class LocalFolder:
    """A folder of this machine; made when something is written into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> set[str]:  # noqa: D102 - see Folder
        with os_errors(self.path):
            return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def read(self, name: str) -> bytes:  # noqa: D102
        with os_errors(self.path / name):
            return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        temporary = self.path / f".{uuid4().hex}"
        with os_errors(self.path / name):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                temporary.replace(self.path / name)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:  # noqa: D102
        with os_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def locate(self, name: str) -> str:  # noqa: D102
        return str(self.path / name)

    @contextmanager
    def locked(self) -> Iterator[None]:  # noqa: D102
        if self.path.is_file():
            raise DataError(f"{self.path} is a file: give a folder")
        with os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise DataError(
                f"{self.path}: another command is writing there: wait for it, or give another folder"
            ) from error
        except OSError as error:  # some network file systems lock no folders
            logger.warning("%s cannot be locked (%s): let no second command write there", self.path, error.strerror)
        try:
            yield
        finally:
            os.close(handle)


def is_s3(location: str) -> bool:
    """Whether a location is in a bucket rather than on this machine."""
    return location.lower().startswith(SCHEME)


def folder_of(location: str) -> Folder:
    """The folder that a path or s3://BUCKET/PREFIX stands for."""
    return _bucket(location) if is_s3(location) else LocalFolder(Path(location).expanduser().absolute())


def split(location: str) -> tuple[Folder, str]:
    """The folder and the name of the one file that a path or s3://BUCKET/KEY stands for."""
    if not is_s3(location):
        path = Path(location).expanduser().absolute()
        return LocalFolder(path.parent), path.name
    bucket, _, key = location[len(SCHEME) :].partition("/")
    parent, _, name = key.rpartition("/")
    return _bucket(f"{SCHEME}{bucket}/{parent}"), name


def _bucket(uri: str) -> Folder:
    from mlproject.data.s3 import S3Folder  # only now: boto3 takes a third of a second

    return S3Folder(uri)


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Within: an error of the system becomes a DataError of one line about `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
