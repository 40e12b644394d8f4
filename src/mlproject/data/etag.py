"""What S3 calls the state of an object, its ETag, as a checksum of the bytes that come."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from mlproject.data.objects import BucketObject

OF_KMS = ("aws:kms", "aws:kms:dsse")
EXPRESS = "--x-s3"
"""End of the names of buckets (S3 Express One Zone) whose ETags say nothing of the content."""


class Etag:
    """The ETag that the bytes of an object should have, computed while they come.

    It is known for an object uploaded in one piece (the MD5) and for one uploaded in parts of one size (the MD5 of the
    parts' MD5s, and their number), unless it is encrypted with a key of KMS or of the client.

    Args:
        source: the object, with the ETag that the bucket gives.
        answer: of the server, to the request for it.
        size_of_part: asks the server for the size of the first part, in bytes; called for an upload in parts alone.

    Attributes:
        size: bytes so far.
        is_known: whether `value` can be compared with the bucket's.
    """

    def __init__(self, source: BucketObject, answer: Mapping[str, Any], size_of_part: Callable[[], int]) -> None:
        match = re.fullmatch(r"[0-9a-f]{32}(?:-(\d+))?", source.etag)
        is_encrypted = answer.get("ServerSideEncryption") in OF_KMS or "SSECustomerAlgorithm" in answer
        self.is_known = match is not None and not is_encrypted and not source.bucket.endswith(EXPRESS)
        self.is_in_parts = match is not None and match[1] is not None
        self.part_size = source.size
        if self.is_known and match is not None and match[1]:
            self.part_size = size_of_part()
            # A server that knows no parts gives the whole size.
            self.is_known = self.part_size > 0 and -(-source.size // self.part_size) == int(match[1])
        self.size = 0
        self._parts = [hashlib.md5(usedforsecurity=False)]

    def update(self, block: bytes) -> None:
        """Take the next bytes."""
        rest = memoryview(block)
        while rest:
            left = len(self._parts) * self.part_size - self.size if self.is_known and self.is_in_parts else len(rest)
            if left <= 0:
                self._parts.append(hashlib.md5(usedforsecurity=False))
                continue
            self._parts[-1].update(rest[:left])
            self.size += len(rest[:left])
            rest = rest[left:]

    @property
    def value(self) -> str:
        """The ETag of the bytes so far."""
        if not self.is_in_parts:
            return self._parts[0].hexdigest()
        of_parts = hashlib.md5(b"".join(part.digest() for part in self._parts), usedforsecurity=False)
        return f"{of_parts.hexdigest()}-{len(self._parts)}"
