"""What is known of an object of a bucket before it is fetched, and where its copy lies on this machine."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath

SCHEME = "s3://"
OBJECTS = "objects"
"""Folder of the copies, in the cache."""


@dataclass(frozen=True)
class BucketObject:
    """An object in the state in which it was listed.

    Attributes:
        endpoint: URL of the server.
        bucket, key: its name there.
        size: in bytes.
        etag: what the server calls this state of it, without quotes; another after every upload of other bytes.
    """

    endpoint: str
    bucket: str
    key: str
    size: int
    etag: str

    @property
    def uri(self) -> str:
        """Its full name, for people."""
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.key).name


class Stopped(Exception):
    """Whoever wanted an object wants it no more."""


def state_of(objects: Sequence[BucketObject]) -> str:
    """SHA-256 (hex) of the names and states of objects: the same for the same objects, unchanged, on one server."""
    return hashlib.sha256(json.dumps([astuple(one) for one in objects]).encode()).hexdigest()


def place_of_copy(cache: Path, objects: Sequence[BucketObject]) -> Path:
    """Where the copy of the first object lies, in a folder of its own with the others, which belong to it."""
    return cache / OBJECTS / state_of(objects) / objects[0].name
