"""The model as MLflow logs it and `mlflow models serve` runs it: code, not a pickle.

A request has one row a case and one column a channel: the image as base64 of a .nii.gz or .nii file. The
answer has one row a case: the mask as base64 of a .nii.gz on the image's own grid, and what was measured
on it. A model that was trained on cases with missing channels takes null for a channel other than the first.
Whatever is wrong with a request is answered with status 400 and one line. Nothing but the request
is read: no path, no address; request_images.py has the limits.
"""

import base64
import json
import logging
import os
import tempfile
import threading
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from pandas.api.types import is_scalar

from mlproject.data.cases import Case
from mlproject.data.volumes import read_volume
from mlproject.data.writing import write_like
from mlproject.errors import UserError
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import Segmenter
from mlproject.tracking.request_images import RequestLimits, write_image
from mlproject.tracking.scoring_server import be_strict

BUNDLE = "model"
DEVICE_VARIABLE = "STROKE_LESION_DEVICE"
SHOWN = 50  # characters of a value that a message repeats


def signature(channels: tuple[str, ...]) -> ModelSignature:
    """What a request and an answer consist of, for a model with these image channels."""
    return ModelSignature(
        # All are needed, but only what MLflow lets through can be refused in one line of our own.
        inputs=Schema([ColSpec("string", channel, required=False) for channel in channels]),
        outputs=Schema(
            [
                ColSpec("string", "mask"),
                ColSpec("double", "lesion_volume_ml"),
                ColSpec("long", "lesion_count"),
                ColSpec("string", "model_version"),
                ColSpec("string", "model_id"),
                ColSpec("string", "probability", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("threshold", "double", None),
                ParamSpec("crf", "boolean", True),
                ParamSpec("return_probability", "boolean", False),
            ]
        ),
    )


class BadRequestError(MlflowException):
    """Status 400 with this text alone: MLflow's server would put a piece of the request's data before it."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The text as it was given."""
        return self.text

    @message.setter
    def message(self, _: str) -> None:
        """Keep the text."""


class StrokeLesionModel(PythonModel):
    """Preprocessing, network, CRF and threshold behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network once, onto the device of the environment variable or else of the model's setting."""
        folder = Path(context.artifacts[BUNDLE])
        self.segmenter = Segmenter.load(folder, os.environ.get(DEVICE_VARIABLE))
        self.version, self.model_id = version_of(folder.parents[1]), id_of(folder.parents[1])
        self.limits = RequestLimits.of(os.environ)
        be_strict()
        self.one_at_a_time = threading.Lock()  # MLflow answers requests in threads; memory shall stay bounded

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Segment each row; `params`: threshold in (0, 1), crf, return_probability; null is as if not given."""
        try:
            return self._predict(model_input, params or {})
        except MlflowException:
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("a request failed")
            raise MlflowException(f"the model failed on this request ({type(error).__name__})") from None

    def _predict(self, table: pd.DataFrame, params: Mapping[str, Any]) -> pd.DataFrame:
        postprocessing = self._postprocessing(params)
        with_probability = _switch(params, "return_probability", False)
        if table.empty:  # MLflow drops unknown columns, and a row of nothing else with them
            channels = json.dumps(self.segmenter.description.channels)
            raise BadRequestError(
                f"no image in the request: send one row a case with the columns {channels}, each base64 of a "
                f".nii.gz or .nii file, to the model {self.version} ({self.model_id})"
            )
        if len(table) > self.limits.rows:
            raise BadRequestError(f"{len(table)} cases in one request: send {self.limits.rows} at the most")
        rows = []
        for number, row in enumerate(table.to_dict("records"), start=1):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    with self.one_at_a_time:
                        case = self._case(row, number, Path(folder))
                        volume = read_volume(case, labelled=False)
                        found = self.segmenter.segment(volume, postprocessing, self.limits.voxels)
                except UserError as error:
                    faults = str(error).replace(f"{folder}/", "").splitlines()
                    raise BadRequestError("; ".join(faults)) from None
                reference = next(iter(case.images.values()))
                rows.append(
                    {
                        "mask": _encoded(found.mask, reference),
                        "lesion_volume_ml": found.lesion_ml,
                        "lesion_count": found.lesion_count,
                        "model_version": self.version,
                        "model_id": self.model_id,
                        **({"probability": _encoded(found.probability, reference)} if with_probability else {}),
                    }
                )
        return pd.DataFrame(rows)

    def _postprocessing(self, params: Mapping[str, Any]) -> Postprocessing:
        """The model's own, changed as the parameters say."""
        postprocessing, threshold = self.segmenter.description.postprocessing, params.get("threshold")
        if threshold is not None:
            if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
                raise BadRequestError(
                    f"threshold must lie between 0 and 1, both excluded, got {repr(threshold)[:SHOWN]}"
                )
            postprocessing = replace(postprocessing, threshold=float(threshold))
        return postprocessing if _switch(params, "crf", True) else replace(postprocessing, crf=None)

    def _case(self, row: Mapping[Hashable, Any], number: int, folder: Path) -> Case:
        """The images of a row, written where only this request sees them; what may be missing is missing."""
        described = self.segmenter.description
        may_be_missing = described.channels[1:] if described.missing == "zero" else ()
        missing = tuple(c for c in may_be_missing if is_scalar(row.get(c)) and pd.isna(row.get(c)))
        name = f"row {number}"
        images = {
            channel: write_image(row.get(channel), folder, channel, self.limits, f"{name}, channel {channel!r}")
            for channel in described.channels
            if channel not in missing
        }
        return Case(name, images, None, name, missing=missing, order=described.channels)


def _switch(params: Mapping[str, Any], name: str, default: bool) -> bool:
    """A parameter that is true or false; null is as if not given."""
    value = params.get(name)
    if value is not None and not isinstance(value, bool | np.bool_):
        raise BadRequestError(f"{name} must be true or false, got {repr(value)[:SHOWN]}")
    return default if value is None else bool(value)


def _encoded(values: np.ndarray, reference: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.nii.gz"
        write_like(values, reference, path)
        return base64.b64encode(path.read_bytes()).decode()


def version_of(folder: Path) -> str:
    """`name/number` of a model that came from the registry, else the id under which MLflow logged it."""
    registered = folder / "registered_model_meta"
    if registered.exists():
        names = yaml.safe_load(registered.read_text())
        return f"{names['model_name']}/{names['model_version']}"
    return id_of(folder)


def id_of(folder: Path) -> str:
    """The id under which MLflow logged a model."""
    return str(yaml.safe_load((folder / "MLmodel").read_text()).get("model_id"))


set_model(StrokeLesionModel())
