"""Reading one image file: TorchIO decodes it, and what TorchIO would let pass in silence is refused."""

# mypy: allow-untyped-calls

import hashlib
import logging
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import torchio as tio
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from numpy.typing import NDArray

from mlproject.data import dicom
from mlproject.data.geometry import Affine, Shape, describe_grid, largest_shift_mm, spacing_of
from mlproject.data.nifti_header import HEADER_BYTES, read_header
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

MAX_VOXELS = 2**29
"""More than any MRI volume has (800 voxels a side): a damaged header, refused before allocation."""
READ, BLOCK = 2**16, 2**20  # bytes: of a file at a time, and of what comes of it decompressed
GZIP_MAGIC = b"\x1f\x8b"
GZIP = 16  # tells zlib to expect a gzip header
MOST_PARTS = 2**16
"""Gzip streams that may be joined to one file; block-wise compression (bgzip) makes one for every 64 kB."""
SIDE_MM = (0.01, 100)
"""Of a voxel: far more than MRI has. Others would ask for grids without end."""
AMBIGUOUS_MM = 0.1
"""sform and qform that differ by more are two opinions, not two roundings of one."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One decoded 3-D image file, or one volume of a 4-D file.

    Attributes:
        voxels: float32 (I, J, K), as stored on disk.
        affine: float64 (4, 4), voxel to scanner space (RAS, mm).
    """

    voxels: NDArray[np.float32]
    affine: Affine

    @property
    def shape(self) -> Shape:
        """Number of voxels along I, J, K."""
        i, j, k = self.voxels.shape
        return i, j, k

    def digest(self) -> str:
        """SHA-256 (hex) of voxels, shape and affine to 1e-3; independent of compression and format."""
        grid = np.round(self.affine, 3) + 0.0  # + 0.0 makes -0.0 and 0.0 the same bytes
        content = hashlib.sha256(repr(self.shape).encode())
        content.update(grid.astype("<f8").tobytes())
        content.update(np.ascontiguousarray(self.voxels, dtype="<f4").data)
        return content.hexdigest()


def read_image_file(path: Path, component: int | None = None) -> ImageFile:
    """Read a 3-D image, or volume number `component` of a 4-D one; raises as `read_image_volumes`."""
    return read_image_volumes(path, (component,))[0]


def read_image_volumes(path: Path, components: Sequence[int | None]) -> list[ImageFile]:
    """Read volumes of one file in any format that TorchIO reads (NIfTI, MetaImage, NRRD ...); it is decoded once.

    Args:
        path: the file.
        components: which volumes of a 4-D file, from 0; None for a 3-D file.

    Raises:
        DataError: the file is missing, damaged, truncated or DICOM, lacks a component, or is not one 3-D volume
            of finite real numbers with an invertible affine and voxels of a possible size. The text does not repeat
            the path.
    """
    if not path.is_file():
        raise DataError(dicom.why_no_file(path))
    if dicom.is_dicom(path):
        raise DataError(f"is DICOM: {dicom.ADVICE}")
    # A broken file makes the readers raise almost anything, even UnboundLocalError.
    try:
        with warnings.catch_warnings():  # TorchIO warns at length before each of the errors told below
            warnings.filterwarnings("ignore", message="Error loading image with SimpleITK")
            nifti_affine = _check_nifti(path, components)
            image = tio.ScalarImage(path)
            check_size(components, *image.shape)
            voxels = [image.data[component or 0].numpy() for component in components]
    except DataError:
        raise
    except Exception as error:
        reason = str(error).replace(f'"{path}" ', "").split("\n")[0].split(". ")[0]
        raise DataError(
            f"cannot be read: truncated, damaged or no image? ({type(error).__name__}: {reason})"
        ) from error
    affine = np.asarray(image.affine, dtype=np.float64)
    for opinion in (affine, nifti_affine):
        if opinion is not None:
            _refuse_affine(opinion)
    with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite, and is refused as such
        volumes = [ImageFile(np.ascontiguousarray(values, dtype=np.float32), affine) for values in voxels]
    for volume in volumes:
        _refuse_non_finite(volume.voxels)
    if nifti_affine is not None:
        _warn_of_ambiguous_place(path, volumes[0], nifti_affine)
    return volumes


def check_size(components: Sequence[int | None], values: int, *shape: int) -> None:
    """Refuse what is not one volume, lacks one of `components`, or is larger than any MRI volume.

    `values`: a voxel. `shape`: voxels along I, J, K. Raises DataError.
    """
    last = max(component or 0 for component in components)
    if last >= values:
        raise DataError(f"holds {values} volumes of {shape} voxels; volume number {last + 1} is missing")
    if None in components and values > 1:
        kinds = "a series, a vector or complex numbers"
        raise DataError(f"holds {values} values a voxel ({kinds}) in {shape} voxels; give one 3-D volume")
    if values * math.prod(shape) > MAX_VOXELS:
        raise DataError(f"claims {values} x {shape} voxels, more than any MRI volume: is its header damaged?")


def _check_nifti(path: Path, components: Sequence[int | None]) -> Affine | None:
    """Refuse a NIfTI file that lacks bytes or holds NaN; return its affine by nibabel's reading.

    SimpleITK, which TorchIO reads with, fills the voxels that a truncated NIfTI file lacks with whatever is
    in memory, does not look at a gzip checksum, turns NaN and infinite voxels into 0, and replaces an affine
    that is not finite, all in silence.
    """
    with Opener(str(path)) as file:
        read_header(file.read(HEADER_BYTES))  # refuses what it cannot mean
    try:
        image = nib.load(path)
    except ImageFileError:
        return None  # no NIfTI file: SimpleITK notices what is wrong with the other formats
    if not isinstance(image, nib.Nifti1Pair):
        return None
    data_file = Path(str(image.file_map["image"].filename))
    voxels = cast(ArrayProxy, image.dataobj)
    check_size(components, math.prod(voxels.shape[3:]), *voxels.shape[:3])
    needed = voxels.offset + math.prod(voxels.shape) * voxels.dtype.itemsize
    stored = _gzip_size(data_file) if data_file.suffix == ".gz" else data_file.stat().st_size
    if stored < needed:
        raise DataError(f"is truncated: {stored} of {needed} bytes are there")
    if voxels.dtype.kind == "f":
        _refuse_non_finite(voxels.get_unscaled())
    return np.asarray(image.affine, dtype=np.float64)


def _refuse_affine(affine: Affine) -> None:
    """Refuse an affine that gives voxels no place, or no possible size."""
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"its affine is not invertible, so its voxels have no place in space: {affine.tolist()}")
    sides = spacing_of(affine)
    if not all(SIDE_MM[0] <= side <= SIDE_MM[1] for side in sides):
        raise DataError(
            f"its voxels measure {' x '.join(f'{side:g}' for side in sides)} mm, and {SIDE_MM[0]:g} to {SIDE_MM[1]:g} "
            "is possible: is its header damaged, or its unit not mm?"
        )


def _warn_of_ambiguous_place(path: Path, image: ImageFile, nifti_affine: Affine) -> None:
    """Say so where sform and qform disagree or are unset: SimpleITK and nibabel then choose differently."""
    shift = largest_shift_mm(image.shape, image.affine, nifti_affine)
    if shift > AMBIGUOUS_MM:
        logger.warning(
            "%s: its header places it in two ways, up to %.1f mm apart (sform and qform disagree or are "
            "unset, or the unit is not mm); used is %s with voxel (0, 0, 0) at %s mm",
            path, shift, describe_grid(image.shape, image.affine), np.round(image.affine[:3, 3], 1).tolist(),
        )  # fmt: skip


def _refuse_non_finite(voxels: NDArray[np.floating]) -> None:
    if bad := int(np.count_nonzero(~np.isfinite(voxels))):
        raise DataError(f"{bad} of {voxels.size} voxels are NaN or infinite; replace them (0 outside the brain)")


def _gzip_size(path: Path) -> int:
    """Decompress a whole gzip file, which also checks its checksums, and count the bytes."""
    with path.open("rb") as file:
        return sum(map(len, decompressed(iter(partial(file.read, READ), b""))))


def decompressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress a gzip file and check its checksums; Python's gzip would take twice as long.

    Args:
        blocks: of the file, in small pieces: what is left of one is copied for every stream that ends in it.

    Raises:
        DataError: it is damaged, has no end, or is made of too many streams.
    """
    stream, parts = zlib.decompressobj(zlib.MAX_WBITS | GZIP), 1
    for block in blocks:
        while block:
            if stream.eof:  # another one is joined to it, or zeros fill it up, as on tapes
                if not (block := block.lstrip(b"\0")):
                    break
                stream, parts = zlib.decompressobj(zlib.MAX_WBITS | GZIP), parts + 1
                if parts > MOST_PARTS:
                    raise DataError(f"is made of more than {MOST_PARTS} gzip streams")
            try:
                yield stream.decompress(block, BLOCK)
            except zlib.error as error:
                raise DataError(f"cannot be read: its gzip stream is damaged ({error})") from error
            block = stream.unconsumed_tail or stream.unused_data
    if not stream.eof:
        raise DataError("is truncated: its gzip stream has no end")
