"""A real `mlflow models serve`: the same mask as predict's and evaluate's, and a clear no to what is wrong."""

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import requests
from nibabel.nifti1 import Nifti1Image

from end_to_end.conftest import Workplace
from mlproject import cli
from mlproject.evaluation.metrics import case_metrics

Row = dict[str, str | None]


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

    # The same from predict on the server; on this machine: test_serving_docs.py.
    many = ["--data.root", str(workplace.data), "--probability", "true"]
    assert cli.main(["predict", "--model", server, *many, "--output", str(workplace.folder / "masks")]) == 0
    predicted = nibabel.load(workplace.folder / "masks" / f"{name}.nii.gz")
    np.testing.assert_array_equal(np.asarray(predicted.dataobj), mask)  # type: ignore[attr-defined]
    assert len(list((workplace.folder / "masks").glob("*.nii.gz"))) == 12
    given = [word for channel, path in images.items() for word in (f"--images.{channel}", str(path))]
    one = workplace.folder / "one.nii.gz"
    assert cli.main(["predict", "--model", server, *given, "--output", str(one)]) == 0
    assert one.read_bytes() == (workplace.folder / "masks" / f"{name}.nii.gz").read_bytes()

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


def test_a_request_without_an_image_says_what_is_needed(server: str) -> None:
    for rows in ([], [{}], [{"flair": "x"}]):
        answer = ask(server, rows)
        assert answer.status_code == 400
        assert 'columns ["dwi", "adc"]' in answer.json()["message"] and "stroke-lesion/1" in answer.json()["message"]


def test_predict_goes_on_after_what_the_server_refuses(
    workplace: Workplace, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(workplace.data, tmp_path / "data")
    broken, lacking = (next((tmp_path / "data").rglob(f"*{number}_*_adc.nii.gz")) for number in ("0002", "0003"))
    broken.write_bytes(broken.read_bytes()[:2000])
    lacking.unlink()
    given = ["--model", server, "--data.root", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert cli.main(["predict", *given, "--parallel", "3"]) == 1
    error = capsys.readouterr().err
    assert f"{broken.name}: is truncated" in error and "0003: channel 'adc': no image" in error
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 6
    one = ["--images.dwi", str(broken), "--output", str(tmp_path / "a.nii")]
    assert cli.main(["predict", "--model", server, *one]) == 2
    assert not (tmp_path / "a.nii").exists()
