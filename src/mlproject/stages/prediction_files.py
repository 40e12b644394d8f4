"""What is asked of a model by `predict`, and its answer as files beside the scan's own."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from mlproject.data.case import Case
from mlproject.data.geometry import largest_shift_mm
from mlproject.data.image_files import ImageFile, read_image_file
from mlproject.data.storage import is_s3
from mlproject.data.writing import write_like
from mlproject.errors import DataError, SettingsError
from mlproject.stages.settings import PredictSettings
from mlproject.tracking.answers import Answer

TOLERANCE_MM = 0.1


def params_of(settings: PredictSettings) -> dict[str, bool | float]:
    """The parameters of each request."""
    params: dict[str, bool | float] = {"crf": settings.crf, "return_probability": settings.probability}
    if settings.threshold is not None:
        params["threshold"] = settings.threshold
    return params


def checked(answer: Answer, case: Case, names: Mapping[str, str], scratch: Path) -> dict[str, Path]:
    """An answer's images as files on the grid of the case's first channel, once they are found to be about it.

    Args:
        answer: a model's answer.
        case: what it is about.
        names: file name of the `mask` (and of the `probability`), whose ending gives the format.
        scratch: the folder of this machine where the files go.

    Returns:
        The file of each of `names`.

    Raises:
        DataError: the answer is not about this case: another grid, values that are no mask, other numbers than the
            mask's own.
    """
    channel = case.channels[0]
    reference = read_image_file(case.images[channel], case.components.get(channel))
    files = {}
    for what, name in names.items():
        image = _image(answer, what)
        if image.shape != reference.shape:
            raise DataError(f"the model's {what} has {image.shape} voxels, the scan {reference.shape}")
        shift_mm = largest_shift_mm(image.shape, image.affine, reference.affine)
        if shift_mm > TOLERANCE_MM:
            raise DataError(f"the model's {what} does not lie where the scan does: it is {shift_mm:.1f} mm away")
        if what == "mask":
            _refuse_other_numbers(image, answer)
        elif not (image.voxels.min() >= 0 and image.voxels.max() <= 1):
            raise DataError("the model's probability does not lie in 0 to 1")
        values = image.voxels.astype(np.uint8) if what == "mask" else image.voxels
        files[what] = scratch / f"stored_{name}"
        write_like(values, case.images[channel], files[what])
    return files


def _image(answer: Answer, what: str) -> ImageFile:
    file = answer.mask if what == "mask" else answer.probability
    if file is None:
        raise DataError(f"the model sent no {what}")
    try:
        return read_image_file(file)
    except DataError as error:
        raise DataError(f"the model's {what} cannot be read: {error}") from error


def _refuse_other_numbers(mask: ImageFile, answer: Answer) -> None:
    if not np.isin(mask.voxels, (0, 1)).all():
        raise DataError("the model's mask holds other values than 0 and 1")
    volume_ml = float(mask.voxels.sum()) * abs(float(np.linalg.det(mask.affine[:3, :3]))) / 1000
    _, count = ndimage.label(mask.voxels, np.ones((3, 3, 3)))
    if not math.isclose(volume_ml, answer.lesion_ml, rel_tol=1e-3, abs_tol=1e-6) or count != answer.lesion_count:
        raise DataError(
            f"the model's mask holds {volume_ml:.4g} ml in {count} lesions, but it says {answer.lesion_ml:.4g} ml in "
            f"{answer.lesion_count}"
        )


def refuse_input_as_output(cases: Iterable[Case], files: Iterable[str]) -> None:
    """Raise SettingsError where a file to be written (a path on this machine) is one of the cases' own, even forced."""
    outputs = {Path(file).resolve() for file in files if not is_s3(file)}
    for case in cases:
        for file in [*case.images.values(), *([case.label] if case.label else [])]:
            if file.resolve() in outputs:
                raise SettingsError(
                    f"output: {file} is an input of {case.name}, and would be replaced; write elsewhere"
                )
