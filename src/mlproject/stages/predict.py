"""`predict`: segment one case or a whole folder with a logged model, through that model's own code, or on a server."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproject.data.case import Case
from mlproject.data.dicom import why_no_file
from mlproject.data.storage import Folder, LocalFolder, split
from mlproject.data.writing import EXTENSIONS
from mlproject.errors import DataError, SettingsError
from mlproject.stages import predict_folder
from mlproject.stages.console import console
from mlproject.stages.prediction_files import checked, params_of, refuse_input_as_output
from mlproject.stages.settings import PredictSettings
from mlproject.tracking import registry
from mlproject.tracking.answers import Model
from mlproject.tracking.local_model import LocalModel
from mlproject.tracking.model_server import ModelServer
from mlproject.tracking.server import connect


def run(settings: PredictSettings) -> dict[str, Any]:
    """The entry point `predict`; returns where the masks are and what was measured on them."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        if settings.images:
            result = _segment_one(settings, Path(scratch))
        else:
            with _model(settings, Path(scratch)) as model:
                result = predict_folder.segment(settings, model, Path(scratch))
    console.print("Research software, not a medical device.")
    return result


@contextmanager
def _model(settings: PredictSettings, scratch: Path) -> Iterator[Model]:
    model: Model
    if settings.on_server:
        model = ModelServer(settings.model, settings.timeout_s)
    else:
        connect()
        model = LocalModel(registry.fetch(settings.model, scratch / "model"))
    with model:
        yield model


def _segment_one(settings: PredictSettings, scratch: Path) -> dict[str, Any]:
    folder, names = _outputs(settings)
    images = {channel: _local(channel, file, scratch) for channel, file in settings.images.items()}
    given = Case("the case", images, None, "the case")
    refuse_input_as_output([given], map(folder.locate, names.values()))
    answers = scratch / "answers"
    answers.mkdir()
    with _model(settings, scratch) as model:
        unknown = set(images) - set(model.channels)
        if unknown or model.channels[0] not in images:
            raise SettingsError(
                f"the model {settings.model} takes the channels {', '.join(model.channels)}; given: "
                f"{', '.join(images)}. Give {' '.join(f'--images.{channel} FILE' for channel in model.channels)}"
            )
        images = {channel: images[channel] for channel in model.channels if channel in images}
        case = replace(given, images=images)
        answer = model.segment(case, params_of(settings), answers)
    for what, file in checked(answer, case, names, answers).items():
        folder.write(names[what], file.read_bytes())
    files = {what: folder.locate(name) for what, name in names.items()}
    console.print(
        f"{files['mask']}: {answer.lesion_ml:.2f} ml in {answer.lesion_count} lesions, by {answer.model_version}"
    )
    return {
        **files,
        "lesion_volume_ml": answer.lesion_ml,
        "lesion_count": answer.lesion_count,
        "model_version": answer.model_version,
    }


def _outputs(settings: PredictSettings) -> tuple[Folder, dict[str, str]]:
    """Where the one case's files go; refused where there are such files."""
    folder, mask = split(settings.output)
    ending = next((known for known in EXTENSIONS if mask.lower().endswith(known)), None)
    if ending is None:
        raise SettingsError(f"the mask's file {settings.output} must end in one of {', '.join(EXTENSIONS)}")
    names = {"mask": mask}
    if settings.probability:
        names["probability"] = f"{mask[: -len(ending)]}_probability{mask[-len(ending) :]}"
    there = folder.names()
    for name in names.values():
        if name in there and not settings.force:
            raise SettingsError(f"{folder.locate(name)} exists: give another name, or --force true to replace it")
    return folder, names


def _local(channel: str, file: str, scratch: Path) -> Path:
    """The channel's file on this machine."""
    folder, name = split(file)
    if isinstance(folder, LocalFolder):
        path = folder.path / name
        if not path.is_file():
            raise DataError(f"images.{channel}: {path} {why_no_file(path)}")
        return path
    from mlproject.data import s3  # only now: boto3 takes a third of a second

    if not name.lower().endswith(EXTENSIONS):
        raise DataError(
            f"images.{channel}: {folder.locate(name)} may keep its voxels in a second file, which is not fetched; "
            f"give one of {', '.join(EXTENSIONS)}, or the whole folder as data.root"
        )
    copy = scratch / channel / name
    copy.parent.mkdir()
    assert isinstance(folder, s3.S3Folder)
    s3.download(folder.client, folder.find(name), copy)
    return copy
