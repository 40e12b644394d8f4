"""A model that is quick to make, and logged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.model import PythonModelContext

import tiny
from mlproject.data.case import Missing
from mlproject.network.architectures import build_network
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import Segmenter
from mlproject.tracking import registry
from mlproject.tracking.served_model import BUNDLE, StrokeLesionModel

THRESHOLD = 0.01  # about what an untrained network says


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = build_network(tiny.NETWORK, 2, tiny.PATCHES.size)
    return Segmenter(tiny.description(postprocessing=Postprocessing(threshold=THRESHOLD)), network)


@pytest.fixture
def logged(tracking: Path, segmenter: Segmenter) -> Callable[[Missing], PyFuncModel]:
    """Log the model as one that does so with missing channels, and load it."""

    def log(missing: Missing) -> PyFuncModel:
        changed = Segmenter(replace(segmenter.description, missing=missing), segmenter.network, "cpu")
        run_id = mlflow.MlflowClient().create_run("0").info.run_id
        return mlflow.pyfunc.load_model(registry.log_model(changed, run_id))

    return log


@pytest.fixture
def served(tmp_path: Path, segmenter: Segmenter) -> Callable[..., StrokeLesionModel]:
    """Load the model as a server does, with the postprocessing given, and without MLflow around it."""

    def load(**postprocessing: Any) -> StrokeLesionModel:
        folder = tmp_path / "served"
        chosen = replace(segmenter.description.postprocessing, **postprocessing)
        described = replace(segmenter.description, postprocessing=chosen)
        Segmenter(described, segmenter.network, "cpu").save(folder / "artifacts" / BUNDLE)
        (folder / "MLmodel").write_text("model_id: m-1")
        model = StrokeLesionModel()
        model.load_context(PythonModelContext({BUNDLE: str(folder / "artifacts" / BUNDLE)}, None))
        return model

    return load
