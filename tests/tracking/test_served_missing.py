"""A model trained on cases with missing channels, as it is logged and loaded: what it takes, and the same voxels."""

import base64
import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from nibabel.nifti1 import Nifti1Image

from mlproject.data.cache import PreparedCache
from mlproject.data.case import Case, DataSettings, Missing
from mlproject.data.cases import find_cases
from mlproject.prediction.postprocessing import apply
from mlproject.prediction.segmenter import ModelDescription, Segmenter


@pytest.fixture
def case(tiny_isles: Path) -> Case:
    return find_cases(DataSettings(root=str(tiny_isles)))[0]


def text(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def decoded(text: str) -> np.ndarray:
    return np.asarray(Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))).dataobj)


def test_zeros_are_served_as_they_are_evaluated(
    logged: Callable[[Missing], PyFuncModel], segmenter: Segmenter, case: Case, tmp_path: Path
) -> None:
    model = logged("zero")
    dwi = text(case.images["dwi"])
    rows: list[dict[str, str | None]] = [{"dwi": dwi}, {"dwi": dwi, "adc": None}]
    rows.append({"dwi": dwi, "adc": text(case.images["adc"])})
    answers = [model.predict(pd.DataFrame([row]), params={"return_probability": True}).iloc[0] for row in rows]
    gap = replace(case, images={"dwi": case.images["dwi"]}, missing=("adc",), order=("dwi", "adc"))
    for asked, answer in zip((gap, gap, case), answers, strict=True):
        prepared = PreparedCache(tmp_path / "cache", segmenter.description.preprocessing).load(asked)
        mask, probability = apply(segmenter.probability(prepared), prepared, segmenter.description.postprocessing)
        np.testing.assert_array_equal(decoded(answer["mask"]), mask)
        np.testing.assert_array_equal(decoded(answer["probability"]), probability)
    assert decoded(answers[0]["mask"]).sum() > 0
    assert not np.array_equal(decoded(answers[0]["probability"]), decoded(answers[2]["probability"]))

    with pytest.raises(MlflowException, match="row 1, channel 'dwi': no image"):
        model.predict(pd.DataFrame([{"adc": dwi}]))
    with pytest.raises(MlflowException, match="row 1, channel 'adc': no image"):
        model.predict(pd.DataFrame([{"dwi": dwi, "adc": ""}]))  # an empty text is no null


def test_a_model_of_complete_cases_refuses_gaps(logged: Callable[[Missing], PyFuncModel], case: Case) -> None:
    with pytest.raises(MlflowException, match="row 1, channel 'adc': no image"):
        logged("refuse").predict(pd.DataFrame([{"dwi": text(case.images["dwi"]), "adc": None}]))


def test_models_of_older_code_refuse_gaps(segmenter: Segmenter) -> None:
    tree = replace(segmenter.description, missing="zero").to_dict()
    assert ModelDescription.from_dict(tree).missing == "zero"
    del tree["missing"]
    assert ModelDescription.from_dict(tree).missing == "refuse"
