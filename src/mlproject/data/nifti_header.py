"""What the header of a NIfTI file claims, judged before anything is read or allocated for it."""

# mypy: allow-untyped-calls

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from mlproject.errors import DataError

HEADER_BYTES = 540
"""Of NIfTI-2, the longer one; what `read_header` wants to see of a file, or all there is."""
VERSIONS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
SINGLE, PAIR = (b"n+1", b"n+2"), (b"ni1", b"ni2")
TEXTS = ("data_type", "db_name", "descrip", "aux_file", "intent_name")
NUMBERS = "iuf"  # kinds of NumPy that are one real number a voxel


@dataclass(frozen=True)
class NiftiHeader:
    """Where a file's voxels are, by its header.

    Attributes:
        raw: nibabel's header, its fields as they stand in the file.
        shape: voxels along I, J, K.
        values: how many a voxel, the product of the other dimensions.
        start: byte at which the voxels begin.
        size: bytes of all values.
        pair: the voxels are in a file of their own (.img).
    """

    raw: Any
    shape: tuple[int, int, int]
    values: int
    start: int
    size: int
    pair: bool

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)


def read_header(first: bytes) -> NiftiHeader | None:
    """Read the header in the first bytes of a file; None where that is no NIfTI file.

    Raises:
        DataError: what it claims cannot be: dimensions, data type, scaling, or where the voxels are.
    """
    orders = {int.from_bytes(first[:4], "little"): "<", int.from_bytes(first[:4], "big"): ">"}
    length = next((size for size in VERSIONS if size in orders), 0)
    if not length or len(first) < length:
        return None
    raw = VERSIONS[length](first[:length], orders[length], check=False)
    magic = bytes(raw["magic"].item())[:3]
    if magic not in (*SINGLE, *PAIR):
        return None
    pair = magic in PAIR
    shape, values = _dimensions(raw)
    _refuse_scaling(float(raw["scl_slope"]), float(raw["scl_inter"]))
    return NiftiHeader(raw, shape, values, _start(raw, pair), math.prod(shape) * values * _bytes_a_value(raw), pair)


def without_text(file: bytes) -> bytes:
    """An uncompressed NIfTI file without what its header says in words, and without extensions; it is as long.

    Description, names and extensions may identify the patient. Raises DataError as `read_header`, and for another
    format: nobody knows what that says.
    """
    header = read_header(file[:HEADER_BYTES])
    if header is None:
        raise DataError("is no NIfTI file, whatever its name says")
    if header.pair:
        raise DataError("is the header of two files (.hdr and .img): give one .nii.gz or .nii file")
    for field in TEXTS:
        if field in header.raw:
            header.raw[field] = b""
    length = header.raw.sizeof_hdr
    return bytes(header.raw.binaryblock) + bytes(header.start - length) + file[header.start :]


def _dimensions(raw: Any) -> tuple[tuple[int, int, int], int]:
    """Voxels along I, J, K, and values a voxel."""
    count, *lengths = (int(length) for length in raw["dim"])
    if not 1 <= count <= 7 or min(lengths[:count]) < 1:
        raise DataError(f"its header is damaged: it claims {count} dimensions of {lengths[: max(count, 0)]} voxels")
    i, j, k, *others = [*lengths[:count], 1, 1][: max(count, 3)]
    return (i, j, k), math.prod(others)


def _bytes_a_value(raw: Any) -> int:
    try:
        dtype = raw.get_data_dtype()
    except (HeaderDataError, KeyError):  # nibabel looks some codes up unchecked
        dtype = None
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if dtype is None or dtype.itemsize == 0:
        raise DataError(f"its header is damaged: there is no data type {code}")
    if dtype.kind in NUMBERS and dtype.itemsize * 8 != bits:
        raise DataError(f"its header is damaged: its data type {dtype.name} has {dtype.itemsize * 8} bits, not {bits}")
    return int(dtype.itemsize)


def _refuse_scaling(slope: float, intercept: float) -> None:
    """Readers take a slope of 0 or NaN in different ways where the intercept says that there is a scaling."""
    if not (np.isfinite(slope) and np.isfinite(intercept)) or (slope == 0 and intercept != 0):
        raise DataError(
            f"its header is damaged: it scales the voxels by scl_slope {slope:g} and scl_inter {intercept:g}; "
            "1 and 0 are none"
        )


def _start(raw: Any, pair: bool) -> int:
    """Where the voxels begin; behind the header, and behind the 4 bytes that say whether extensions follow."""
    offset, least = float(raw["vox_offset"]), 0 if pair else raw.sizeof_hdr + 4
    if not (np.isfinite(offset) and offset == int(offset) and offset >= least):
        raise DataError(
            f"its header is damaged: its voxels begin at byte {offset:g}, and {least} is the first possible"
        )
    return int(offset)
