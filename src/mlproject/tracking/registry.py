"""Models in MLflow: logged with a run, registered under a name, fetched, and run with their own code."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException

import mlproject
from mlproject.data.image_files import read_image_file
from mlproject.data.writing import NIFTI_EXTENSIONS, write_like
from mlproject.errors import ModelError
from mlproject.prediction.segmenter import DESCRIPTION, Segmenter
from mlproject.tracking import model_process, served_model
from mlproject.tracking.served_model import BUNDLE, signature

PACKAGE = Path(mlproject.__file__).parent
CHAMPION = "champion"


def requirements() -> list[str]:
    """The pinned run-time dependencies: the pip section of conda.yaml."""
    environment = yaml.safe_load((PACKAGE.parents[1] / "conda.yaml").read_text())
    return [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]


def log_model(segmenter: Segmenter) -> str:
    """Log a model to the active run as a pyfunc from code, and return its URI."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmenter.save(Path(folder) / BUNDLE)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=served_model.__file__,
            artifacts={BUNDLE: str(Path(folder) / BUNDLE)},
            code_paths=[str(PACKAGE)],
            signature=signature(segmenter.description.channels),
            pip_requirements=requirements(),
        )
    return str(info.model_uri)


def register(model_uri: str, name: str) -> int:
    """Make a logged model a new version of a registered one, and return the version's number."""
    return int(mlflow.register_model(model_uri, name).version)


def fetch(uri: str, folder: Path) -> Path:
    """The folder of a logged model, downloaded below `folder`. Raises ModelError for an unknown URI.

    `uri`: models:/NAME@ALIAS, models:/NAME/VERSION, models:/ID, runs:/RUN/model, or a local folder.
    """
    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"no model at {uri!r}: {str(error).splitlines()[0]}. Give models:/NAME@ALIAS, models:/NAME/VERSION, "
            "runs:/RUN_ID/model or a folder, and MLFLOW_TRACKING_URI where the server is another one"
        ) from error
    if not (found / "artifacts" / BUNDLE).is_dir():
        raise ModelError(f"{uri!r} is not a model of this software: it has no artifacts/{BUNDLE}")
    return found


def run_model(
    folder: Path, cases: Sequence[Mapping[str, Path]], params: Mapping[str, Any], answers: Path
) -> list[dict[str, Any]]:
    """Segment cases with a fetched model, in a process of its own with its own logged code.

    Returns what each case's answer says, its mask's file as `mask` (and `probability`'s), or its `error`.
    Raises ModelError where the model does not run at all.
    """
    answers.mkdir(parents=True, exist_ok=True)
    request = answers / "request.json"
    rows = [
        {channel: str(_as_nifti(path, answers / f"{number}_{channel}.nii.gz")) for channel, path in images.items()}
        for number, images in enumerate(cases)
    ]
    request.write_text(json.dumps({"cases": rows, "params": dict(params)}))
    command = [sys.executable, model_process.__file__, str(folder), str(request), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"the model {folder} does not run (exit code {done.returncode}): {last}")
    results = []
    for number in range(len(cases)):
        answer = json.loads((answers / f"{number}.json").read_text())
        for name in ("mask", "probability"):
            file = answers / f"{number}_{name}.nii.gz"
            if file.exists():
                answer[name] = file
        results.append(answer)
    return results


def read_description(folder: Path) -> dict[str, Any]:
    """What a fetched model says of itself, as plain values: its `channels` in their order, what it has `seen` ..."""
    return dict(json.loads((folder / "artifacts" / BUNDLE / DESCRIPTION).read_text()))


def load(uri: str, device: str | None = None) -> Segmenter:
    """A logged model in this process, run by the present code."""
    with tempfile.TemporaryDirectory() as folder:
        return Segmenter.load(fetch(uri, Path(folder)) / "artifacts" / BUNDLE, device)


def has_present_code(folder: Path) -> bool:
    """Whether the code logged with a fetched model is the code of this process."""

    def sources(package: Path) -> dict[str, bytes]:
        return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}

    return sources(folder / "code" / PACKAGE.name) == sources(PACKAGE)


def _as_nifti(path: Path, converted: Path) -> Path:
    """The file itself where a request can hold it, else the same voxels on the same grid as NIfTI."""
    if path.name.lower().endswith(NIFTI_EXTENSIONS):
        return path.resolve()
    write_like(read_image_file(path).voxels, path, converted)
    return converted
