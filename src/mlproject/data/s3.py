"""A prefix of an S3 bucket: listed, read, written, and its objects copied to this machine.

Credentials and region come from boto3's own chain (environment, ~/.aws, a machine's role), never from a setting.
AWS_ENDPOINT_URL names a server other than Amazon's (MinIO, Ceph, rclone ...).
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

from mlproject.data.etag import Etag
from mlproject.data.objects import SCHEME, BucketObject, Stopped
from mlproject.data.s3_errors import CHANGED, code_of, in_words, line_of
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECTIONS = 16
BLOCK = 2**20  # bytes
ATTEMPTS = 4
"""How often botocore sends a request, unless AWS_MAX_ATTEMPTS or ~/.aws say otherwise; and how often an object is
begun whose content breaks off or is damaged."""
FIRST_WAIT_SECONDS = 1.0
"""Before the second attempt; it doubles."""
PASSING = (HTTPClientError, ConnectionError, IncompleteReadError, FlexibleChecksumError)
NOT_NOW = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded")


class _InPassing(Exception):
    """What may be another in the next attempt."""


class S3Folder:
    """A prefix of a bucket, as s3://BUCKET/PREFIX."""

    def __init__(self, uri: str) -> None:
        bucket, _, prefix = uri[len(SCHEME) :].partition("/")
        if not bucket:
            raise DataError(f"{uri!r} names no bucket: write s3://BUCKET/PREFIX")
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/".lstrip("/")
        with in_words(self.locate("")):
            self.client = client()

    def names(self) -> set[str]:  # noqa: D102 - see Folder
        listed = (one.key.removeprefix(self.prefix) for one in self.objects(Delimiter="/"))
        return {name for name in listed if name and not name.endswith("/")}

    def objects(self, **listing: Any) -> list[BucketObject]:
        """The objects below the prefix, sorted by their keys; `listing` goes to list_objects_v2."""
        given = {"Bucket": self.bucket, "Prefix": self.prefix, **listing}
        with in_words(self.locate("")):
            pages = self.client.get_paginator("list_objects_v2").paginate(**given)
            found = [
                BucketObject(
                    self.client.meta.endpoint_url, self.bucket, entry["Key"], entry["Size"], entry["ETag"].strip('"')
                )
                for page in pages
                for entry in page.get("Contents", ())
            ]
        return sorted(found, key=lambda one: one.key)

    def find(self, name: str) -> BucketObject:
        """The object of this name, in its present state."""
        with in_words(self.locate(name)):
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + name)
        endpoint, etag = self.client.meta.endpoint_url, head["ETag"].strip('"')
        return BucketObject(endpoint, self.bucket, self.prefix + name, head["ContentLength"], etag)

    def read(self, name: str) -> bytes:  # noqa: D102
        def once() -> bytes:
            with in_words(self.locate(name)):
                body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]
                with _in_passing():  # botocore repeats what it asks, and not what it reads of the answer
                    return bytes(body.read())

        return _in_attempts(self.locate(name), once)

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        with in_words(self.locate(name)):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content)

    def remove(self, name: str) -> None:  # noqa: D102
        with in_words(self.locate(name)):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def locate(self, name: str) -> str:  # noqa: D102
        return f"{SCHEME}{self.bucket}/{self.prefix}{name}"

    def locked(self) -> AbstractContextManager[None]:  # noqa: D102
        return nullcontext()


def client() -> Any:
    """A client for several threads; raises what boto3 raises."""
    core = botocore.session.Session()
    attempts = core.get_config_variable("max_attempts") or ATTEMPTS
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=2 * CONNECTIONS,  # a thread may ask for the size of a part meanwhile
    )
    return boto3.Session(botocore_session=core).client("s3", config=config)


def download(s3: Any, source: BucketObject, file: Path, is_stopped: Callable[[], bool] = lambda: False) -> bool:
    """Copy an object into a new file, and check it; what comes damaged or without its end is fetched again.

    Always checked are the number of bytes, and that the object is in the state that was listed (the request says
    If-Match). Besides, where there is any: the MD5 that its ETag is (`Etag`), and the checksum of the whole that was
    stored with it (CRC or SHA, by botocore).

    Args:
        s3: a `client`.
        source: the object.
        file: where the copy goes; its folder exists. Half a file is left there where this fails.
        is_stopped: asked after each block.

    Returns:
        Whether there was a checksum besides the size.

    Raises:
        DataError: the bucket refuses, or the object is not whole in any attempt.
        Stopped: `is_stopped` said so.
        OSError: the file cannot be written.
    """
    return _in_attempts(source.uri, lambda: _download_once(s3, source, file, is_stopped), is_stopped)


def _in_attempts(uri: str, once: Callable[[], T], is_stopped: Callable[[], bool] = lambda: False) -> T:
    """What `once` returns, which may raise _InPassing; raises DataError where it does so each time."""
    for attempt in range(1, ATTEMPTS):
        try:
            return once()
        except _InPassing as error:
            logger.debug("%s: attempt %d: %s", uri, attempt, error)
        _wait(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1), is_stopped)
    try:
        return once()
    except _InPassing as error:
        raise DataError(f"{uri}: cannot be fetched, after {ATTEMPTS} attempts: {error}") from error


def _download_once(s3: Any, source: BucketObject, file: Path, is_stopped: Callable[[], bool]) -> bool:
    """One attempt; raises _InPassing where another one may succeed."""
    with in_words(source.uri), _in_passing():
        answer = s3.get_object(Bucket=source.bucket, Key=source.key, IfMatch=f'"{source.etag}"')
        if answer["ETag"].strip('"') != source.etag:  # a server that does not know If-Match
            raise DataError(f"{source.uri}: {CHANGED}")
        etag = Etag(source, answer, lambda: _size_of_part(s3, source))
        with file.open("wb") as copy:
            for block in answer["Body"].iter_chunks(BLOCK):
                if is_stopped():
                    raise Stopped
                copy.write(block)
                etag.update(block)
    if etag.size != source.size:
        raise _InPassing(f"{etag.size} of {source.size} bytes came")
    if etag.is_known and etag.value != source.etag:
        raise _InPassing(f"what came is damaged: its MD5 gives the ETag {etag.value}, the bucket's is {source.etag}")
    return etag.is_known or answer.get("ChecksumType") == "FULL_OBJECT"


def _size_of_part(s3: Any, source: BucketObject) -> int:
    """Bytes of the first part that an object was uploaded in; 0 where the server does not tell."""
    try:
        return int(s3.head_object(Bucket=source.bucket, Key=source.key, PartNumber=1)["ContentLength"])
    except ClientError:
        return 0


@contextmanager
def _in_passing() -> Iterator[None]:
    """Within: what boto3 raises, and may not raise again, becomes _InPassing."""
    try:
        yield
    except PASSING as error:
        raise _InPassing(line_of(error)) from error
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or code_of(error) in NOT_NOW:
            raise _InPassing(f"S3 refuses for now ({code_of(error)})") from error
        raise


def _wait(seconds: float, is_stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if is_stopped():
            raise Stopped
        time.sleep(min(left, 0.1))
