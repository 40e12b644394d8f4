"""A real `mlflow models serve`: the same mask as predict's and evaluate's, and a clear no to what is wrong."""

import base64
import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import requests
from nibabel.nifti1 import Nifti1Image

from end_to_end.conftest import PROJECT, Workplace
from mlproject.evaluation.metrics import case_metrics

Row = dict[str, str | None]


@pytest.fixture(scope="module")
def server(workplace: Workplace) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/stroke-lesion/1", "--env-manager", "local", "-p", str(port)]
    environment = {**workplace.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{workplace.folder / 'mlflow.db'}"}
    log = (workplace.folder / "serve.log").open("w")
    elsewhere = workplace.folder / "elsewhere"
    elsewhere.mkdir()
    process = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{address}/health", timeout=1).ok:
                break
        except requests.RequestException:
            time.sleep(0.5)
    else:
        process.kill()
    yield f"{address}/invocations"
    process.terminate()
    process.wait(20)


def ask(server: str, rows: list[Row], **params: Any) -> requests.Response:
    return requests.post(server, json={"dataframe_records": rows, "params": params}, timeout=60)


def first_test_case(workplace: Workplace) -> tuple[str, dict[str, Path], Path]:
    """Name, images and label of the first test case."""
    run = workplace.runs("train")[0].info.run_id
    split = pd.read_csv(workplace.client().download_artifacts(run, "split.csv"))
    name = str(split[split["split"] == "test"]["case"].iloc[0])
    images = {c: workplace.data / f"rawdata/{name}/ses-0001/{name}_ses-0001_{c}.nii.gz" for c in ("dwi", "adc")}
    return name, images, workplace.data / f"derivatives/{name}/ses-0001/{name}_ses-0001_msk.nii.gz"


def row_of(images: dict[str, Path]) -> Row:
    return {channel: base64.b64encode(path.read_bytes()).decode() for channel, path in images.items()}


def decoded(text: str) -> Nifti1Image:
    return Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_served_mask_is_predicts_and_evaluates(workplace: Workplace, server: str) -> None:
    name, images, label = first_test_case(workplace)
    answer = ask(server, [row_of(images)], return_probability=True)
    assert answer.status_code == 200, answer.text
    served = answer.json()["predictions"][0]
    mask = np.asarray(decoded(served["mask"]).dataobj)

    output = workplace.folder / "mask.nii.gz"
    command = [sys.executable, str(PROJECT / "src" / "run.py"), "predict", "--model", "models:/stroke-lesion/1"]
    command += [word for channel, path in images.items() for word in (f"--images.{channel}", str(path))]
    done = workplace.run([*command, "--output", str(output)])
    assert done.returncode == 0, done.stderr
    predicted = nibabel.load(output)
    np.testing.assert_array_equal(np.asarray(predicted.dataobj), mask)  # type: ignore[attr-defined]

    evaluated = pd.read_csv(
        workplace.client().download_artifacts(workplace.runs("evaluate")[0].info.run_id, "report/per_case.csv")
    )
    summary = json.loads(
        Path(
            workplace.client().download_artifacts(workplace.runs("evaluate")[0].info.run_id, "report/summary.json")
        ).read_text()
    )
    row = evaluated[(evaluated["variant"] == summary["chosen"]) & (evaluated["case"] == name)].iloc[0]
    reference = Nifti1Image.from_filename(label)
    metrics = case_metrics(np.asarray(reference.dataobj), mask, tuple(map(float, reference.header.get_zooms())))
    for metric, value in metrics.items():
        np.testing.assert_allclose(row[metric], value, rtol=1e-6, err_msg=metric)
    assert served["lesion_volume_ml"] == pytest.approx(row["prediction_ml"], rel=1e-6)
    assert served["model_version"] == "stroke-lesion/1"

    dwi = Nifti1Image.from_filename(images["dwi"])
    for image in (predicted, decoded(served["mask"]), decoded(served["probability"])):
        assert image.shape == dwi.shape
        np.testing.assert_array_equal(image.affine, dwi.affine)  # type: ignore[attr-defined]


def test_threshold_crf_and_several_rows(workplace: Workplace, server: str) -> None:
    _, images, _ = first_test_case(workplace)
    answers = ask(server, [row_of(images)] * 2, threshold=0.001, crf=False, return_probability=True)
    first, second = answers.json()["predictions"]
    assert first["mask"] == second["mask"]
    everything = np.asarray(decoded(first["mask"]).dataobj)
    probability = np.asarray(decoded(first["probability"]).dataobj)
    assert ((everything == 1) <= (probability >= 0.001)).all()
    few = ask(server, [row_of(images)], threshold=0.999, crf=False).json()["predictions"][0]
    assert few["lesion_volume_ml"] <= first["lesion_volume_ml"]


def changed(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> str:
    image = Nifti1Image.from_filename(path)
    values = change(np.asarray(image.dataobj, dtype=np.float32).copy())
    made = Nifti1Image(values, image.affine if affine is None else affine)
    return base64.b64encode(gzip.compress(made.to_bytes())).decode()


def with_nan(values: np.ndarray) -> np.ndarray:
    values[10, 10, 10] = np.nan
    return values


def bad_rows(images: dict[str, Path]) -> dict[str, tuple[Row, str]]:
    good = row_of(images)
    truncated = base64.b64encode(images["adc"].read_bytes()[:2000]).decode()
    return {
        "missing column": ({"dwi": good["dwi"]}, "row 1, channel 'adc': no image"),
        "null": ({**good, "adc": None}, "row 1, channel 'adc': no image"),
        "not base64": ({**good, "adc": "%%%"}, "not valid base64"),
        "not an image": ({**good, "adc": base64.b64encode(b"hello").decode()}, "adc"),
        "truncated": ({**good, "adc": truncated}, "adc"),
        "a path": ({**good, "adc": "/etc/passwd"}, "adc"),
        "4-D": ({**good, "dwi": changed(images["dwi"], lambda v: np.stack([v, v], -1))}, "holds 2 values"),
        "NaN": ({**good, "dwi": changed(images["dwi"], with_nan)}, "1 "),
        "constant": ({**good, "adc": changed(images["adc"], np.ones_like)}, "constant"),
    }


KINDS = ["missing column", "null", "not base64", "not an image", "truncated", "a path", "4-D", "NaN", "constant"]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_request_is_a_400_in_one_line(workplace: Workplace, server: str, kind: str) -> None:
    _, images, _ = first_test_case(workplace)
    row, words = bad_rows(images)[kind]
    answer = ask(server, [row])
    assert answer.status_code == 400, answer.text[:500]
    message = answer.json()["message"]
    assert words in message and "\n" not in message.strip() and len(message) < 500, message
    assert "stack_trace" not in answer.json() and "/tmp" not in message
    assert ask(server, [row_of(images)]).status_code == 200  # the server lives on


def test_bad_threshold(workplace: Workplace, server: str) -> None:
    _, images, _ = first_test_case(workplace)
    answer = ask(server, [row_of(images)], threshold=1.5)
    assert answer.status_code == 400 and "threshold must lie between 0 and 1" in answer.json()["message"]
