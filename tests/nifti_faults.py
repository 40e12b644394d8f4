"""NIfTI files with something wrong in them, for whoever reads files from strangers."""

import gzip
import struct
from collections.abc import Callable
from random import Random

import numpy as np
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image

SHAPE = (18, 20, 16)
FIELDS = {  # of a NIfTI-1 header: offset, struct format, how many
    "sizeof_hdr": (0, "i", 1), "dim": (40, "h", 8), "datatype": (70, "h", 1), "bitpix": (72, "h", 1),
    "pixdim": (76, "f", 8), "vox_offset": (108, "f", 1), "scl_slope": (112, "f", 1), "scl_inter": (116, "f", 1),
    "xyzt_units": (123, "b", 1), "qform_code": (252, "h", 1), "sform_code": (254, "h", 1), "quatern": (256, "f", 3),
    "qoffset": (268, "f", 3), "srow": (280, "f", 12), "magic": (344, "i", 1), "extender": (348, "b", 4),
}  # fmt: skip
ODD = {
    "b": [-128, -1, 0, 1, 2, 3, 8, 127],
    "h": [-32768, -1, 0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256, 511, 512, 768, 1024, 1536, 2304, 4096, 32767],
    "i": [-(2**31), -1, 0, 1, 348, 352, 540, 2**31 - 1],
    "f": [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1.0, 1e-30, 1e30, 3e38, 0.5, 351.0, 352.0, 353.5, 1e9],
}


def sound_file(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> bytes:
    """An uncompressed scan: a noisy box of tissue in a background of 0."""
    voxels = np.zeros(shape, np.int16)
    inner = tuple(slice(2, n - 2) for n in shape)
    voxels[inner] = np.random.default_rng(seed).integers(50, 150, [n - 4 for n in shape])
    return bytes(Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])).to_bytes())


def with_field(file: bytes, name: str, value: float, place: int = 0) -> bytes:
    """The file with another number in a field of its header, the `place`-th of several."""
    offset, kind, _ = FIELDS[name]
    at = offset + place * struct.calcsize(kind)
    packed = struct.pack(f"<{kind}", value if kind == "f" else int(value))
    return file[:at] + packed + file[at + len(packed) :]


def fields() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Ways to change one field of a header."""

    def change(name: str) -> st.SearchStrategy[Callable[[bytes], bytes]]:
        _, kind, count = FIELDS[name]
        bits = struct.calcsize(kind) * 8
        whole = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        any_value: st.SearchStrategy[float] = st.floats(width=32) if kind == "f" else whole
        values = st.one_of(st.sampled_from(ODD[kind]), any_value)
        return st.builds(
            lambda value, place: lambda file: with_field(file, name, value, place), values, st.integers(0, count - 1)
        )

    return st.sampled_from(sorted(FIELDS)).flatmap(change)


def mutated(file: bytes, chance: Random) -> bytes:
    """A .nii.gz file with random faults: bytes in header, voxels or gzip stream, a wrong length, joined rubbish."""
    content = bytearray(gzip.decompress(file))
    for _ in range(chance.randint(0, 6)):
        content[chance.randrange(352)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del content[chance.randrange(len(content)) :]
    if chance.random() < 0.2:
        content += chance.randbytes(chance.choice((1, 100, 2**16)))
    if chance.random() < 0.3:
        return bytes(content)
    packed = bytearray(gzip.compress(bytes(content), 1))
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        packed[chance.randrange(len(packed))] = chance.randrange(256)
    if chance.random() < 0.1:
        del packed[chance.randrange(len(packed)) :]
    if chance.random() < 0.1:
        packed += chance.choice((bytes(1000), chance.randbytes(1000), bytes(packed)))
    return bytes(packed)
