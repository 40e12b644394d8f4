"""`predict`: segment one case with a logged model, through that model's own code, as the server does."""

import tempfile
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

from mlproject.data.cases import Case
from mlproject.data.volumes import read_volume
from mlproject.data.writing import EXTENSIONS, write_like
from mlproject.errors import DataError, SettingsError
from mlproject.stages.console import console
from mlproject.stages.settings import PredictSettings
from mlproject.tracking import registry
from mlproject.tracking.server import connect


def run(settings: PredictSettings) -> None:
    """The entry point `predict`."""
    outputs = {"mask": Path(settings.output).expanduser()}
    if settings.probability:
        outputs["probability"] = Path(settings.probability).expanduser()
    _check_outputs(outputs, settings.overwrite)
    images = {channel: Path(file).expanduser() for channel, file in settings.images.items()}
    for channel, file in images.items():
        if not file.is_file():
            raise DataError(f"images.{channel}: no file {file.absolute()}")
    connect()
    with tempfile.TemporaryDirectory() as folder:
        model = registry.fetch(settings.model, Path(folder) / "model")
        channels = registry.read_description(model)["channels"]
        if set(images) != set(channels):
            raise SettingsError(
                f"the model {settings.model} takes the channels {', '.join(channels)}; given: {', '.join(images)}. "
                f"Give {' '.join(f'--images.{channel} FILE' for channel in channels)}"
            )
        images = {channel: images[channel] for channel in channels}
        read_volume(Case("the case", images, None, "the case"), labelled=False)
        params: dict[str, bool | float] = {"crf": settings.crf, "return_probability": bool(settings.probability)}
        if settings.threshold is not None:
            params["threshold"] = settings.threshold
        answer = registry.run_model(model, [images], params, Path(folder) / "answers")[0]
        if "error" in answer:
            raise DataError(answer["error"])
        for name, output in outputs.items():
            values = np.asarray(Nifti1Image.from_filename(answer[name]).dataobj)
            write_like(values, images[channels[0]], output)
    console.print(
        f"{outputs['mask']}: {answer['lesion_volume_ml']:.2f} ml in {answer['lesion_count']} lesions, "
        f"by {answer['model_version']}. Research software, not a medical device."
    )


def _check_outputs(outputs: dict[str, Path], overwrite: bool) -> None:
    for name, path in outputs.items():
        if not path.name.lower().endswith(EXTENSIONS):
            raise SettingsError(f"the {name}'s file {path} must end in one of {', '.join(EXTENSIONS)}")
        if path.exists() and not overwrite:
            raise SettingsError(f"{path} exists: give another name, or overwrite=true")
