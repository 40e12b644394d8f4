"""Models in MLflow: logged with a run, registered under a name, and fetched."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
import yaml
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

import mlproject
from mlproject.errors import ModelError
from mlproject.prediction.segmenter import DESCRIPTION, ModelDescription, Segmenter
from mlproject.tracking import patience, served_model
from mlproject.tracking.input_example import input_example
from mlproject.tracking.model_card import CARD, about, shortened
from mlproject.tracking.served_model import BUNDLE, signature

PACKAGE = Path(mlproject.__file__).parent
CHAMPION = "champion"
MODEL, MODELS = "model", "models:/"
KEY_TAG = "key"


def requirements() -> list[str]:
    """The pinned run-time dependencies: the pip section of conda.yaml."""
    environment = yaml.safe_load((PACKAGE.parents[1] / "conda.yaml").read_text())
    return [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]


def save(segmenter: Segmenter, folder: Path) -> None:
    """Write a model into an empty folder as MLflow keeps it: a pyfunc from code, with the present code.

    Raises OSError where the folder cannot be written.
    """
    description = segmenter.description
    with tempfile.TemporaryDirectory() as files, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmenter.save(Path(files) / BUNDLE)
        try:
            mlflow.pyfunc.save_model(
                path=str(folder),
                python_model=served_model.__file__,
                artifacts={BUNDLE: str(Path(files) / BUNDLE)},
                code_paths=[str(PACKAGE)],
                signature=signature(description.channels),
                input_example=input_example(description.channels),
                pip_requirements=requirements(),
            )
        except MlflowException as error:
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None
    for compiled in folder.rglob("__pycache__"):
        shutil.rmtree(compiled)


def parameters_of(description: ModelDescription) -> dict[str, str]:
    """What the page of a logged model shows beside the settings of its run."""
    chosen = description.postprocessing
    parameters = {
        "channels": ", ".join(description.channels),
        "network": description.network.name,
        "patch_size": list(description.patch_size),
        "threshold": chosen.threshold,
        "min_lesion_ml": chosen.min_lesion_ml,
        "crf": chosen.crf is not None,
        "members": description.members,
    }
    return {name: str(value) for name, value in parameters.items()}


def log_model(segmenter: Segmenter, run_id: str, key: str = "") -> str:
    """Log a model to a run, and return its URI, models:/ID; `key` as `upload` takes it, by default one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        save(segmenter, Path(folder))
        return upload(run_id, Path(folder), parameters_of(segmenter.description), key or uuid4().hex)


def upload(run_id: str, folder: Path, parameters: Mapping[str, str], key: str) -> str:
    """Log a model that `save` has written to a run, and return its URI, models:/ID.

    `key`: a run has one model of a key: called again, it goes on with what an upload that was cut off has left, and
    does nothing where the model is there.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    of_key = f"source_run_id = '{run_id}' AND tags.{KEY_TAG} = '{key}'"
    everything = {**parameters, **run.data.params}
    begin = partial(client.create_logged_model, run.info.experiment_id, MODEL, run_id, {KEY_TAG: key}, everything)
    find = partial(client.search_logged_models, [run.info.experiment_id], of_key, max_results=1)
    begun = find()
    model = begun[0] if begun else patience.once(begin, find)
    if model.status != LoggedModelStatus.READY:
        client.log_model_artifacts(model.model_id, str(folder))
        with tempfile.TemporaryDirectory() as other:
            # Model.load takes a path for an address, in which # and % mean something else.
            saved = Model.from_dict(yaml.safe_load((folder / MLMODEL_FILE_NAME).read_text()))
            saved.model_id = saved.model_uuid = model.model_id
            saved.run_id, saved.artifact_path = run_id, model.artifact_location
            saved.save(str(Path(other) / MLMODEL_FILE_NAME))
            client.log_model_artifact(model.model_id, str(Path(other) / MLMODEL_FILE_NAME))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    known = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in known}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return f"{MODELS}{model.model_id}"


def id_in(model_uri: str) -> str:
    """The id in models:/ID."""
    return model_uri.removeprefix(MODELS)


def register(model_uri: str, name: str, channels: Sequence[str]) -> int:
    """Make a logged model (models:/ID) a version of a registered one, unless it is one, and return its number.

    `channels`: the model's, for the page of a registered model that is new.
    """
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description=about(name, channels))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):  # perhaps since a moment ago
            raise
    model = client.get_logged_model(id_in(model_uri))

    def known() -> list[ModelVersion]:
        """The version that it is already, made by a process that died since, or by a call whose answer was lost."""
        return [one for one in client.search_model_versions(f"source_path = '{model_uri}'") if one.name == name]

    found, create = known(), partial(client.create_model_version, name, model_uri, model_id=model.model_id)
    version = found[0] if found else patience.once(create, known)
    # What mlflow.register_model does: it links the model's page with the version's.
    linked, link = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]")), {"name": name, "version": version.version}
    if link not in linked:
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*linked, link])})
    return int(version.version)


def model_of(run_id: str) -> str:
    """The URI (models:/ID) of the model that a run has logged last."""
    outputs = mlflow.MlflowClient().get_run(run_id).outputs
    if not (outputs and outputs.model_outputs):
        raise ModelError(f"run {run_id} has logged no model: give a run that is finished")
    return f"models:/{outputs.model_outputs[-1].model_id}"


def exact_uri(uri: str) -> str:
    """models:/NAME/VERSION in place of models:/NAME@ALIAS, which may mean another version tomorrow; else the same.

    Raises ModelError for an unknown alias.
    """
    name, alias_of, alias = uri.removeprefix("models:/").rpartition("@")
    if not (uri.startswith("models:/") and alias_of):
        return uri
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(name, alias).version
    except MlflowException as error:
        raise _no_model(uri, error) from error
    return f"models:/{name}/{version}"


def _no_model(uri: str, error: Exception) -> ModelError:
    """What to say where a URI leads to no model."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"no model at {uri!r}: {reason}. Give models:/NAME@ALIAS, models:/NAME/VERSION, "
        "runs:/RUN_ID/model or a folder, and MLFLOW_TRACKING_URI where the server is another one"
    )


def logged_uri(folder: Path) -> str:
    """The URI (models:/ID) of a fetched model; "" where this server does not know it."""
    model_id = yaml.safe_load((folder / "MLmodel").read_text()).get("model_id")
    try:
        mlflow.MlflowClient().get_logged_model(model_id)
    except MlflowException:
        return ""
    return f"models:/{model_id}"


def give_card(name: str, version: int, model_uri: str, card: str) -> None:
    """Make a model card (Markdown) the description of a version and of its model, and lay it beside its files."""
    client = mlflow.MlflowClient()
    client.update_model_version(name, str(version), shortened(card))
    client.set_logged_model_tags(id_in(model_uri), {MLFLOW_RUN_NOTE: shortened(card)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / CARD
        file.write_text(card)
        client.log_model_artifact(id_in(model_uri), str(file))


def fetch(uri: str, folder: Path) -> Path:
    """The folder of a logged model, downloaded below `folder`. Raises ModelError where it cannot be had.

    After a signal, threads of MLflow may still write into `folder` while it is removed.

    `uri`: models:/NAME@ALIAS, models:/NAME/VERSION, models:/ID, runs:/RUN/model, or a local folder.
    """
    if ":/" not in uri and not Path(uri).is_dir():
        raise _no_model(uri, FileNotFoundError("there is no such folder"))
    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except Exception as error:  # the libraries that reach the buckets share no class of errors
        raise _no_model(uri, error) from error
    if not (found / "artifacts" / BUNDLE).is_dir():
        raise ModelError(f"{uri!r} is not a model of this software: it has no artifacts/{BUNDLE}")
    return found


def read_description(folder: Path) -> dict[str, Any]:
    """What a fetched model says of itself, as plain values: its `channels` in their order, what it has `seen` ..."""
    return dict(json.loads((folder / "artifacts" / BUNDLE / DESCRIPTION).read_text()))


def load(uri: str, device: str | None = None) -> Segmenter:
    """A logged model in this process, run by the present code."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return Segmenter.load(fetch(uri, Path(folder)) / "artifacts" / BUNDLE, device)


def has_present_code(folder: Path) -> bool:
    """Whether the code logged with a fetched model is the code of this process."""

    def sources(package: Path) -> dict[str, bytes]:
        return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}

    return sources(folder / "code" / PACKAGE.name) == sources(PACKAGE)
