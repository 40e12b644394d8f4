"""What bad input gets: one clear error, exit code 2, no run and no training."""

import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from mlproject import cli

PROJECT = Path(__file__).resolve().parents[1]
NAME = "sub-synthetic0001"


def image(root: Path, channel: str) -> Path:
    return root / f"rawdata/{NAME}/ses-0001/{NAME}_ses-0001_{channel}.nii.gz"


def label(root: Path) -> Path:
    return root / f"derivatives/{NAME}/ses-0001/{NAME}_ses-0001_msk.nii.gz"


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    loaded = Nifti1Image.from_filename(path)
    values = change(np.asarray(loaded.dataobj, dtype=np.float32).copy())
    nib.save(Nifti1Image(values, loaded.affine if affine is None else affine), path)


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[12, 14, 10] = value
        return values

    return change


BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "no case": (lambda root: shutil.rmtree(root / "rawdata") or shutil.rmtree(root / "derivatives"), "no case"),
    "missing channel": (lambda root: image(root, "adc").unlink(), f"{NAME}.*adc"),
    "missing label": (lambda root: label(root).unlink(), f"{NAME}.*label|label.*{NAME}|msk"),
    "truncated": (lambda root: image(root, "dwi").write_bytes(image(root, "dwi").read_bytes()[:1500]), NAME),
    "no image": (lambda root: image(root, "dwi").write_text("hello"), NAME),
    "4-D": (lambda root: rewrite(image(root, "dwi"), lambda v: np.stack([v, v], -1)), f"{NAME}.*3-D"),
    "label of 0 and 2": (lambda root: rewrite(label(root), lambda v: v * 2), f"{NAME}.*2"),
    "label on another grid": (lambda root: rewrite(label(root), lambda v: v[:-1]), f"{NAME}.*grid"),
    "label turned": (
        lambda root: rewrite(label(root), lambda v: v, np.diag([1.0, -1, 1, 1]) @ nib.load(label(root)).affine),
        f"{NAME}.*orientation",
    ),
    "NaN": (lambda root: rewrite(image(root, "dwi"), put(np.nan)), f"{NAME}.*1 "),
    "infinite": (lambda root: rewrite(image(root, "adc"), put(np.inf)), f"{NAME}.*1 "),
    "constant": (lambda root: rewrite(image(root, "adc"), np.ones_like), f"{NAME}.*constant"),
}


@pytest.fixture
def root(tiny_isles: Path, tracking: Path) -> Path:
    shutil.copytree(tiny_isles, tracking / "data")
    return tracking / "data"


def refused(capsys: pytest.CaptureFixture[str], stage: str, *arguments: str) -> str:
    """The error of a command that must end with exit code 2 and leave no MLflow run behind."""
    code = cli.main([stage, *arguments])
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    client = mlflow.MlflowClient()
    assert not client.search_runs([e.experiment_id for e in client.search_experiments()])
    return captured.err


def main(root: Path, *more: str) -> list[str]:
    return ["--data.root", str(root), "--work_dir", str(root.parent / "work"), *more]


@pytest.mark.parametrize("kind", BREAK)
def test_broken_case(kind: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do, words = BREAK[kind]
    do(root)
    error = refused(capsys, "main", *main(root))

    assert re.search(words, error, re.DOTALL), error


def test_all_faults_are_listed_together(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(image(root, "dwi"), put(np.nan))
    other = Path(str(image(root, "adc")).replace("0001_ses", "0002_ses").replace(NAME, "sub-synthetic0002"))
    rewrite(other, np.ones_like)
    error = refused(capsys, "main", *main(root))
    assert "2 of 6 cases" in error and NAME in error and "sub-synthetic0002" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.root", "/nowhere"], "/nowhere does not exist"),
        ([], "data.root is empty"),
        (["--training.stepz", "3"], "did you mean 'training.steps'"),
        (["--training.steps", "many"], "training.steps: expected"),
        (["--patches.size", "[20,20,20]"], "patches.size"),
        (["--loss.dice", "-1"], "loss"),
        (["--config", "nowhere.yaml"], "no configuration file 'nowhere.yaml'"),
        (["--prediction.device", "tpu"], "device"),
    ],
)
def test_settings(arguments: list[str], words: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, "main", *arguments)


def test_split_without_a_lesion(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["train", "train", "train", "test", "validation", "test"]  # the fifth case is lesion-free
    rows = [f"sub-synthetic{number:04d},{part}" for number, part in enumerate(parts, start=1)]
    (root / "split.csv").write_text("case,split\n" + "\n".join(rows) + "\n")
    error = refused(capsys, "main", *main(root, "--data.split_file", str(root / "split.csv")))
    assert "validation" in error and "no lesion" in error


@pytest.mark.parametrize("uri", ["models:/none@champion", "models:/none/7", "runs:/0123/model", "/no/folder"])
def test_unknown_model(uri: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uri in refused(capsys, "evaluate", *main(root, "--model", uri))


def test_predict_refuses_before_any_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "models:/x/1", "--images.dwi", str(image(root, "dwi")), "--output"]
    (root / "mask.nii.gz").write_text("mine")
    assert "exists" in refused(capsys, "predict", *given, str(root / "mask.nii.gz"))
    assert (root / "mask.nii.gz").read_text() == "mine"
    assert "must end in" in refused(capsys, "predict", *given, str(root / "mask.png"))
    assert "not given: model, images or data.root, output" in refused(capsys, "predict")
    command = ["predict", "--model", "models:/x/1", "--output", "m.nii.gz", "--images.dwi"]
    assert "images.dwi: /no/dwi.nii.gz does not exist" in refused(capsys, *command, "/no/dwi.nii.gz")
    (root / "series").mkdir()
    assert "series is a folder; give one image file" in refused(capsys, *command, str(root / "series"))
    (root / "series" / "IM1.dcm").touch()
    assert "series is DICOM: convert it to NIfTI first" in refused(capsys, *command, str(root / "series"))


def test_dead_server_is_said_in_time(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlproject.tracking.server.SECONDS_TO_ANSWER", 0.1)
    mlflow.set_tracking_uri("http://someone:secret@127.0.0.1:9")
    code = cli.main(["main", *main(root)])
    error = capsys.readouterr().err
    assert code == 2 and "127.0.0.1:9 does not answer" in error and "secret" not in error
    mlflow.set_tracking_uri(f"sqlite:///{root.parent / 'mlflow.db'}")


def test_without_the_environment_it_is_said_how_to_get_it() -> None:
    command = [sys.executable, "-S", str(PROJECT / "src" / "run.py"), "--help"]  # -S: without installed packages
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"error: .* has no \w+: `source .*bin/activate`.*\n", done.stderr)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert cli.main(["trian"]) == 2
    assert "no stage is called 'trian'" in capsys.readouterr().err


def test_more_cases_may_be_open_than_a_process_has_files_at_its_start() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
        assert cli.main(["--help"]) == 0
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
