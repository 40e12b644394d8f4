"""A pickle that would run code, where this software looks for weights, arrays and models: refused, and never run."""

import pickle
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml

from end_to_end.conftest import Workplace
from mlproject import cli
from mlproject.data.cache import PreparedCache
from mlproject.data.case import DataSettings
from mlproject.data.cases import find_cases
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.errors import ModelError
from mlproject.prediction.segmenter import Segmenter
from mlproject.stages.postprocess import cached_probabilities
from mlproject.tracking.local_model import LocalModel


class Planted:
    """Makes the file CANARY where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (self.canary, "w"))


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Planted(canary)))
    assert canary.exists()  # it works
    canary.unlink()
    return Planted(canary)


@pytest.fixture
def model(workplace: Workplace, tmp_path: Path) -> Path:
    """A copy of the model that was registered."""
    database = f"sqlite:///{workplace.folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(database)
    found = mlflow.artifacts.download_artifacts("models:/stroke-lesion/1", dst_path=str(tmp_path / "fetched"))
    return Path(shutil.copytree(found, tmp_path / "model"))


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("kind", ["pickle", "torch file"])
def test_weights_of_a_model(
    workplace: Workplace, model: Path, planted: Planted, kind: str, tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = model / "artifacts" / "model" / "weights.pt"
    if kind == "pickle":
        weights.write_bytes(pickle.dumps(planted))
    else:
        torch.save({"weight": planted}, weights)
    data = ["--data.root", str(workplace.data), "--work_dir", str(tracking / "work"), "--cases", "all"]
    assert "holds more than weights, and nothing of it is run" in refusal(
        ["evaluate", "--model", str(model), *data], capsys
    )
    if kind == "torch file":
        with LocalModel(model) as running, pytest.raises(ModelError, match="holds more than weights"):
            running.start()
    assert not Path(planted.canary).exists()


def test_a_model_that_is_a_pickle(model: Path, planted: Planted) -> None:
    description = yaml.safe_load((model / "MLmodel").read_text())
    pyfunc = description["flavors"]["python_function"]
    pyfunc |= {"python_model": "python_model.pkl", "cloudpickle_version": "3.1.2"}
    pyfunc.pop("model_code_path", None)
    (model / "MLmodel").write_text(yaml.safe_dump(description))
    (model / "python_model.pkl").write_bytes(pickle.dumps(planted))
    with LocalModel(model) as running, pytest.raises(ModelError, match=r"does not run.*MLFLOW_ALLOW_PICKLE"):
        running.start()
    assert not Path(planted.canary).exists()


def test_an_entry_of_the_cache_is_made_again(tiny_isles: Path, tmp_path: Path, planted: Planted) -> None:
    case = find_cases(DataSettings(root=str(tiny_isles)))[0]
    cache = PreparedCache(tmp_path / "cache", PreprocessingSettings())
    image = np.array(cache.load(case).image)
    (entry,) = [folder for folder in (tmp_path / "cache").iterdir() if (folder / "record.json").exists()]
    for content in (np.array([planted], dtype=object), None):
        if content is None:
            (entry / "image.npy").write_bytes(pickle.dumps(planted))
        else:
            np.save(entry / "image.npy", content, allow_pickle=True)
        np.testing.assert_array_equal(cache.load(case).image, image)
    assert not Path(planted.canary).exists()


def test_a_probability_that_is_kept_is_made_again(
    model: Path, tiny_isles: Path, tmp_path: Path, planted: Planted
) -> None:
    segmenter = Segmenter.load(model / "artifacts" / "model", "cpu")
    cases = find_cases(DataSettings(root=str(tiny_isles)))[:1]
    prepared = [PreparedCache(tmp_path / "cache", PreprocessingSettings()).load(case) for case in cases]
    (first,) = cached_probabilities(segmenter, prepared, tmp_path / "kept")
    probability = np.array(first.probability)
    (kept,) = (tmp_path / "kept").iterdir()
    np.save(kept, np.array([planted], dtype=object), allow_pickle=True)
    (again,) = cached_probabilities(segmenter, prepared, tmp_path / "kept")
    np.testing.assert_array_equal(again.probability, probability)
    assert not Path(planted.canary).exists()
