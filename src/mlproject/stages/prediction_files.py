"""What is asked of a model by `predict`, and its answer as files beside the scan's own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from mlproject.data.case import Case
from mlproject.data.storage import Folder
from mlproject.data.writing import write_like
from mlproject.errors import DataError
from mlproject.stages.settings import PredictSettings
from mlproject.tracking.answers import Answer


def params_of(settings: PredictSettings) -> dict[str, bool | float]:
    """The parameters of each request."""
    params: dict[str, bool | float] = {"crf": settings.crf, "return_probability": settings.probability}
    if settings.threshold is not None:
        params["threshold"] = settings.threshold
    return params


def store(answer: Answer, case: Case, names: Mapping[str, str], folder: Folder, scratch: Path) -> None:
    """Write an answer's images on the grid of the case's first channel.

    Args:
        answer: a model's answer.
        case: what it is about.
        names: file name of the `mask` (and of the `probability`), whose ending gives the format.
        folder: where they go.
        scratch: an empty folder of this machine.

    Raises:
        DataError: the answer is no mask of this case, or cannot be written. Nothing is stored then.
    """
    reference = case.images[case.channels[0]]
    written = {}
    for what, name in names.items():
        values = _values(answer, what)
        if what == "mask" and not np.isin(values, (0, 1)).all():
            raise DataError("the model's mask holds other values than 0 and 1")
        written[name] = scratch / f"stored_{name}"
        try:
            write_like(values, reference, written[name])
        except ValueError as error:
            raise DataError(f"the model's {what} is not on the scan's grid: {error}") from error
    for name, file in written.items():
        folder.write(name, file.read_bytes())


def _values(answer: Answer, what: str) -> NDArray[np.generic]:
    file = answer.mask if what == "mask" else answer.probability
    if file is None:
        raise DataError(f"the model sent no {what}")
    try:
        return np.asarray(Nifti1Image.from_filename(file).dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise DataError(f"the model's {what} cannot be read: {error}") from error
