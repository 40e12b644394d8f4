"""Writing a mask or a probability map on the own grid of the image it belongs to."""

# mypy: allow-untyped-calls

from pathlib import Path
from typing import Any
from uuid import uuid4

import nibabel as nib
import numpy as np
import SimpleITK
import torch
import torchio as tio
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from mlproject.errors import DataError

NIFTI_EXTENSIONS = (".nii.gz", ".nii")
EXTENSIONS = (*NIFTI_EXTENSIONS, ".mha", ".nrrd")
NIFTI_GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def write_like(values: NDArray[Any], reference: Path, output: Path) -> None:
    """Write `values` with the geometry of `reference`, in the format of the output's extension, atomically.

    NIfTI after NIfTI keeps the reference's sform, qform, their codes and its units to the bit. Nothing else
    of its header is copied: description, names and extensions may identify the patient; scaling and intent
    (vector, z-score ...) describe the reference's own voxels. The intent is NIFTI_INTENT_NONE. Other formats
    get the same origin, spacing and direction. An existing output is replaced.

    Args:
        values: (I, J, K), in the reference's voxel order; a mask (bool or integer) is written as uint8, a
            probability (floating) as float32.
        reference: an image file with I x J x K voxels.
        output: ends in .nii.gz, .nii, .mha or .nrrd; missing folders are made.

    Raises:
        DataError: another extension, or the output cannot be written.
    """
    extension = next((known for known in EXTENSIONS if output.name.lower().endswith(known)), None)
    if extension is None:
        raise DataError(f"{output}: unknown image format; end the name in one of {', '.join(EXTENSIONS)}")
    values = values.astype(np.float32 if np.issubdtype(values.dtype, np.floating) else np.uint8)
    temporary = output.with_name(f".{uuid4().hex}{extension}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        header = _nifti_header(reference) if extension in NIFTI_EXTENSIONS else None
        if header is not None:
            _write_nifti(values, header, temporary)
        else:
            _write_with_sitk(values, reference, temporary)
        temporary.replace(output)
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError where a disk is full
        raise DataError(f"{output}: cannot be written ({str(error).strip().splitlines()[-1]})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _nifti_header(path: Path) -> nib.Nifti1Header | None:
    """The header of a NIfTI file; None for another format."""
    try:
        image = nib.load(path)
    except ImageFileError:
        return None
    return image.header if isinstance(image, nib.Nifti1Pair) else None


def _write_nifti(values: NDArray[Any], reference: nib.Nifti1Header, path: Path) -> None:
    image_class = nib.Nifti2Image if isinstance(reference, nib.Nifti2Header) else nib.Nifti1Image
    header = image_class.header_class()
    header.set_data_shape(reference.get_data_shape()[:3])
    header["pixdim"][:4] = reference["pixdim"][:4]  # [0] is the handedness of the qform
    for field in NIFTI_GEOMETRY:
        header[field] = reference[field]
    _require_shape(values, header.get_data_shape())
    # With the header's own best affine nibabel leaves both forms and their codes as they are.
    image = image_class(values, header.get_best_affine(), header, dtype=values.dtype)
    image.header.set_slope_inter(1, 0)
    nib.save(image, path)


def _write_with_sitk(values: NDArray[Any], reference: Path, path: Path) -> None:
    source = tio.ScalarImage(reference)
    _require_shape(values, source.spatial_shape)
    image = tio.ScalarImage(tensor=torch.from_numpy(np.ascontiguousarray(values[None])), affine=source.affine)
    SimpleITK.WriteImage(image.as_sitk(force_3d=True), str(path), useCompression=True)


def _require_shape(values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != tuple(shape):
        raise ValueError(f"values have shape {values.shape}, the reference {tuple(shape)}")
