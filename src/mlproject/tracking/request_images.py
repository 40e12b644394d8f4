"""The images of a request to a served model: judged by their headers before anything is allocated for what they claim.

Whoever can reach a server can send it anything. Here a request meets its limits; what is written to disk for
the readers is a plain NIfTI file whose header, size and extensions have been looked at.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from mlproject.data.image_files import GZIP_MAGIC, check_size, decompressed
from mlproject.data.nifti_header import HEADER_BYTES, NUMBERS, NiftiHeader, read_header
from mlproject.errors import DataError, SettingsError

VARIABLE = "STROKE_LESION_MAX_"
BLOCK = 2**16  # bytes
EXTENSION_BYTES = 2**24
"""Between header and voxels; a DICOM header in full, as some converters keep it there, is far smaller."""
TRAILING_BYTES = 2**20
"""Behind the voxels, where some programs fill up their last block."""


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask of a server. Each is set in the server's environment, as STROKE_LESION_MAX_VOXELS.

    Attributes:
        rows: cases in one request.
        base64: characters of base64 of one image.
        bytes: of one image, decompressed.
        voxels: of one image, and of the grid on which the network sees it.
        edge: voxels along one axis of an image.
    """

    rows: int = 16
    base64: int = 2**28
    bytes: int = 2**30
    voxels: int = 2**27
    edge: int = 2048

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The limits that the environment sets, else the defaults. Raises SettingsError for what is no limit."""
        given: dict[str, int] = {}
        for field in fields(cls):
            name = f"{VARIABLE}{field.name.upper()}"
            text = environment.get(name, str(field.default))
            if not text.isascii() or not text.isdigit() or int(text) < 1:
                raise SettingsError(f"{name}={text!r}: give a whole number above 0, as {field.default}")
            given[field.name] = int(text)
        return cls(**given)


def write_image(text: Any, folder: Path, channel: str, limits: RequestLimits, where: str) -> Path:
    """Write the image that a base64 text stands for as an uncompressed NIfTI file into `folder`.

    Its voxels and its grid are those that were sent; extensions are left out.

    Args:
        text: base64 of a .nii.gz or .nii file.
        folder: which only this request sees.
        channel: after which the file is called.
        limits: what it may be.
        where: row and channel, for messages.

    Raises:
        DataError: it is no such text, beyond a limit, or no NIfTI file whose header can be believed.
    """
    if not isinstance(text, str) or not text:
        raise DataError(f"{where}: no image; send base64 of a .nii.gz or .nii file")
    if len(text) > limits.base64:
        raise DataError(f"{where}: {len(text)} characters of base64: {limits.base64} are the most ({VARIABLE}BASE64)")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{where}: not valid base64") from None
    path, compressed = folder / f"{channel}.nii", content.startswith(GZIP_MAGIC)
    blocks = _cut(content)
    try:
        _write(decompressed(blocks) if compressed else blocks, path, limits)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return path


def _cut(content: bytes) -> Iterator[bytes]:
    return (content[start : start + BLOCK] for start in range(0, len(content), BLOCK))


def _write(blocks: Iterator[bytes], path: Path, limits: RequestLimits) -> None:
    """Write header and voxels, and read on to the end: there stands the checksum."""
    source = _Source(blocks, limits.bytes)
    first = source.take(HEADER_BYTES)
    header = read_header(first)
    if header is None:
        raise DataError("is no NIfTI file; send a .nii.gz or .nii file")
    _refuse_large(header, limits)
    before = first + source.take(header.start - len(first))
    if len(before) < header.start:
        raise DataError(f"is truncated: {len(before)} of {header.start + header.size} bytes are there")
    length = header.raw.sizeof_hdr
    _refuse_broken_extensions(before[length : header.start], header.raw.endianness)
    header.raw["vox_offset"] = length + 4
    with path.open("wb") as file:
        file.write(header.raw.binaryblock + bytes(4))
        written = file.write(before[header.start :][: header.size])
        while written < header.size and (block := source.take(min(BLOCK, header.size - written))):
            written += file.write(block)
    if written < header.size:
        raise DataError(f"is truncated: {header.start + written} of {header.start + header.size} bytes are there")
    if len(source.take(TRAILING_BYTES + 1)) > TRAILING_BYTES:
        raise DataError(f"has more than {TRAILING_BYTES} bytes behind its voxels: is its header damaged?")


class _Source:
    """Blocks as one stream, of which no more than a number of bytes is read."""

    def __init__(self, blocks: Iterator[bytes], most: int) -> None:
        self.blocks, self.left, self.most = blocks, most, most
        self.held = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or what there is. Raises DataError where the stream is longer than it may be."""
        parts, wanted = [], count
        while wanted > 0:
            if not self.held and (block := next(self.blocks, None)) is not None:
                self.held = block
                self.left -= len(block)
                if self.left < 0:
                    raise DataError(f"has more than {self.most} bytes when it is decompressed ({VARIABLE}BYTES)")
                continue
            if not self.held:
                break
            parts.append(self.held[:wanted])
            self.held = self.held[wanted:]
            wanted -= len(parts[-1])
        return b"".join(parts)


def _refuse_large(header: NiftiHeader, limits: RequestLimits) -> None:
    if header.pair:
        raise DataError("is the header of two files (.hdr and .img): send one .nii.gz or .nii file")
    dtype = header.raw.get_data_dtype()
    if dtype.kind not in NUMBERS:
        raise DataError(f"holds 2 values a voxel or more ({dtype}): give one real number a voxel")
    check_size((None,), header.values, *header.shape)
    if max(header.shape) > limits.edge:
        raise DataError(f"has {max(header.shape)} voxels along one axis: {limits.edge} are the most ({VARIABLE}EDGE)")
    if header.voxels > limits.voxels:
        raise DataError(f"has {header.voxels} voxels: {limits.voxels} are the most ({VARIABLE}VOXELS)")
    if header.start + header.size > limits.bytes:
        raise DataError(f"has {header.start + header.size} bytes: {limits.bytes} are the most ({VARIABLE}BYTES)")
    if header.start - header.raw.sizeof_hdr > EXTENSION_BYTES:
        raise DataError(
            f"its header is damaged: its voxels begin at byte {header.start}, and {EXTENSION_BYTES} bytes of "
            "extensions are the most"
        )


def _refuse_broken_extensions(block: bytes, order: str) -> None:
    """Refuse a chain of extensions that does not end where the voxels begin."""
    place = 4
    while block[0] and len(block) - place >= 16:
        size = int.from_bytes(block[place : place + 4], "little" if order == "<" else "big")
        if size < 16 or place + size > len(block):
            raise DataError(f"its header is damaged: one of its extensions claims {size} bytes")
        place += size
