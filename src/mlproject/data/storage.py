"""Folders of files on this machine or in an S3 bucket, with the same few operations. The only importer of boto3.

Credentials and region come from boto3's own chain (environment, ~/.aws, a machine's role), never from a setting.
AWS_ENDPOINT_URL names a server other than Amazon's (MinIO, Ceph, rclone ...).
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from uuid import uuid4

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from mlproject.errors import DataError

logger = logging.getLogger(__name__)

SCHEME = "s3://"
NO_CREDENTIALS = (
    "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "(and AWS_ENDPOINT_URL where the server is not Amazon's)"
)
ADVICE = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "404": "there is no such bucket or object",
    "403": "access is denied: these credentials may not do this",
    "AccessDenied": "access is denied: these credentials may not do this",
    "InvalidAccessKeyId": "the access key is unknown: see AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key is wrong: see AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
    "ExpiredToken": "the credentials have expired: sign in again",
}


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
        with _os_errors(self.path):
            return {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()

    def read(self, name: str) -> bytes:  # noqa: D102
        with _os_errors(self.path / name):
            return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        temporary = self.path / f".{uuid4().hex}"
        with _os_errors(self.path / name):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                temporary.replace(self.path / name)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:  # noqa: D102
        with _os_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def locate(self, name: str) -> str:  # noqa: D102
        return str(self.path / name)

    @contextmanager
    def locked(self) -> Iterator[None]:  # noqa: D102
        if self.path.is_file():
            raise DataError(f"{self.path} is a file: give a folder")
        with _os_errors(self.path):
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


class S3Folder:
    """A prefix of a bucket, as s3://BUCKET/PREFIX."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri[len(SCHEME) :].partition("/")
        if not bucket:
            raise DataError(f"{uri!r} names no bucket: write s3://BUCKET/PREFIX")
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/".lstrip("/")
        with self._errors(""):
            config = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})
            self.client: Any = boto3.Session().client("s3", config=config)

    def names(self) -> set[str]:  # noqa: D102
        return set(self.sizes(Delimiter="/"))

    def sizes(self, **listing: str) -> dict[str, int]:
        """Size in bytes of every object below the prefix, by its name after the prefix."""
        found: dict[str, int] = {}
        pages = self.client.get_paginator("list_objects_v2")
        with self._errors(""):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix, **listing):
                found |= {entry["Key"].removeprefix(self.prefix): entry["Size"] for entry in page.get("Contents", ())}
        return {name: size for name, size in found.items() if name and not name.endswith("/")}

    def read(self, name: str) -> bytes:  # noqa: D102
        with self._errors(name):
            return bytes(self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read())

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        with self._errors(name):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content)

    def remove(self, name: str) -> None:  # noqa: D102
        with self._errors(name):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def locate(self, name: str) -> str:  # noqa: D102
        return f"{SCHEME}{self.bucket}/{self.prefix}{name}"

    def locked(self) -> AbstractContextManager[None]:  # noqa: D102
        return nullcontext()

    def download(self, folder: Path) -> None:
        """Copy every object below the prefix into a local folder.

        Raises:
            DataError: no object; more bytes than the disk has; a name that leaves the folder; S3 refuses.
        """
        sizes = self.sizes()
        if not sizes:
            raise DataError(f"{self.locate('')}: there is no object below this prefix")
        free = shutil.disk_usage(folder).free
        if sum(sizes.values()) > free:
            raise DataError(
                f"{self.locate('')}: {sum(sizes.values()) / 1e9:.1f} GB do not fit into {folder}, which has "
                f"{free / 1e9:.1f} GB free: set TMPDIR to a folder on a larger disk"
            )
        for name in sizes:
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise DataError(f"{self.locate(name)}: a name that leaves its folder is not fetched; rename it")
            self.fetch(name, folder / name)

    def fetch(self, name: str, file: Path) -> None:
        """Copy one object to a local file; missing folders are made."""
        with self._errors(name), _os_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(self.bucket, self.prefix + name, str(file))

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Within: what boto3 raises becomes a DataError of one line."""
        where = self.locate(name)
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise DataError(f"{where}: {NO_CREDENTIALS}") from error
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            raise DataError(f"{where}: S3 refuses ({code}): {ADVICE.get(code, error)}") from error
        except (BotoCoreError, Boto3Error, ValueError) as error:
            raise DataError(f"{where}: S3 fails: {error}") from error


def is_s3(location: str) -> bool:
    """Whether a location is in a bucket rather than on this machine."""
    return location.lower().startswith(SCHEME)


def folder_of(location: str) -> Folder:
    """The folder that a path or s3://BUCKET/PREFIX stands for."""
    return S3Folder(location) if is_s3(location) else LocalFolder(Path(location).expanduser().absolute())


def split(location: str) -> tuple[Folder, str]:
    """The folder and the name of the one file that a path or s3://BUCKET/KEY stands for."""
    if not is_s3(location):
        path = Path(location).expanduser().absolute()
        return LocalFolder(path.parent), path.name
    bucket, _, key = location[len(SCHEME) :].partition("/")
    parent, _, name = key.rpartition("/")
    return S3Folder(f"{SCHEME}{bucket}/{parent}"), name


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
