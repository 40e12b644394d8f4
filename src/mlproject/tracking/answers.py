"""What is asked of a model about a case, and what it answers, whether it runs here or on a server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from mlproject.data.case import Case
from mlproject.data.image_files import read_image_file
from mlproject.data.writing import NIFTI_EXTENSIONS, write_like
from mlproject.errors import DataError

Params = Mapping[str, bool | float]
"""`threshold` in (0, 1), `crf`, `return_probability`; what is not given is as the model was tuned."""


@dataclass(frozen=True)
class Answer:
    """A model's answer for one case.

    Attributes:
        mask: a .nii.gz of 0 and 1 with the shape of the case's first channel.
        probability: a .nii.gz in [0, 1] of that shape, or None where it was not asked for.
        lesion_ml: volume of the mask.
        lesion_count: its 26-connected components.
        model_version: name/number of a registered model, or the id under which MLflow logged it.
        model_id: that id, which no other model has: numbers begin again at 1 on another tracking server.
    """

    mask: Path
    probability: Path | None
    lesion_ml: float
    lesion_count: int
    model_version: str
    model_id: str


class Model(Protocol):
    """A model that can be asked; close it by leaving its `with` block."""

    channels: tuple[str, ...]
    version: str
    model_id: str

    def start(self) -> None:
        """Load the model, unless that is done; `segment` does it, too. Raises ModelError where it does not run."""

    def segment(self, case: Case, params: Params, folder: Path) -> Answer:
        """Segment a case; what is exchanged is written into `folder`, which is empty.

        Raises:
            DataError: the model refuses this case, or failed on it; others may succeed.
            ModelError: the model does not run at all.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def request_files(case: Case, folder: Path) -> dict[str, Path]:
    """Each channel as a file that a request can hold: 3-D NIfTI as it is, else the same voxels and grid as NIfTI."""
    files: dict[str, Path] = {}
    for channel, path in case.images.items():
        component = case.components.get(channel)
        if component is None and path.name.lower().endswith(NIFTI_EXTENSIONS):
            files[channel] = path.absolute()
            continue
        files[channel] = folder / f"request_{channel}.nii.gz"
        try:
            write_like(read_image_file(path, component).voxels, path, files[channel])
        except DataError as error:
            raise DataError(f"{channel} {path.name}: {error}") from error
    return files


def about(case: Case, message: str) -> str:
    """A model's complaint about `row 1` of its request, in one line about the case's own files."""
    text = re.sub(r"^row 1(: |, )", "", " ".join(message.split()))
    text = text.replace("no image; send base64 of a .nii.gz or .nii file", "no image, and the model needs one")
    for channel, path in case.images.items():
        name = re.escape(channel)
        servers = rf"channel {re.escape(repr(channel))}(?=: (?!no image))|(?<!\S){name} {name}\.nii(?:\.gz)?"
        text = f"{channel} {path.name}".join(re.split(servers, text))
    return text if len(text) <= 500 else f"{text[:500]} ..."
