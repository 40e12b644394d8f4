"""The process that runs a model: how its end is told, and that others are not lost with one case. Real models run in
test_champion.py and end_to_end/test_serving.py."""

import json
from pathlib import Path

import pytest

from mlproject.data.case import Case
from mlproject.errors import DataError, ModelError
from mlproject.tracking import local_model
from mlproject.tracking.answers import about
from mlproject.tracking.local_model import LocalModel

CASE = Case("a", {"dwi": Path("a.nii.gz"), "adc": Path("b.nii")}, None, "a")
ANSWER = {"lesion_volume_ml": 1.5, "lesion_count": 2, "model_version": "m/1"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    """A model whose process answers with what stands in the file `answer`, or ends where it is `die`."""
    folder = tmp_path / "model"
    (folder / "artifacts" / "model").mkdir(parents=True)
    (folder / "artifacts" / "model" / "model.json").write_text(json.dumps({"channels": ["dwi", "adc"]}))
    (folder / "MLmodel").write_text("model_id: m-1")
    script = tmp_path / "process.py"
    script.write_text(
        "import os, signal, sys\n"
        "answer = lambda: open(sys.argv[1] + '/answer').read()\n"
        "open(sys.argv[1] + '/starts', 'a').write('x')\n"
        "if answer() == 'no': sys.exit('torch is missing')\n"
        "print('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if answer() == 'die': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print(answer(), flush=True)\n"
    )
    monkeypatch.setattr(local_model.model_process, "__file__", str(script))
    return LocalModel(folder)


def ask(model: LocalModel, answer: str, folder: Path) -> local_model.Answer:
    (model.folder / "answer").write_text(answer)
    return model.segment(CASE, {}, folder)


def test_one_process_for_all_cases_and_another_after_its_death(model: LocalModel, tmp_path: Path) -> None:
    with model:
        assert model.channels == ("dwi", "adc") and model.version == "m-1"
        for _ in range(2):
            assert ask(model, json.dumps(ANSWER), tmp_path).lesion_count == 2
        with pytest.raises(DataError, match=r"row 9: dwi a\.nii\.gz: is 4-D"):
            ask(model, json.dumps({"error": "row 1: row 9: dwi dwi.nii.gz: is 4-D"}), tmp_path)
        assert (model.folder / "starts").read_text() == "x"
        with pytest.raises(DataError, match=r"signal SIGKILL; was there too little memory"):
            ask(model, "die", tmp_path)
        assert ask(model, json.dumps(ANSWER), tmp_path).lesion_ml == 1.5
        assert (model.folder / "starts").read_text() == "xx"
        process = model._process
    assert process is not None and process.poll() is not None


def test_a_model_that_does_not_start(model: LocalModel, tmp_path: Path) -> None:
    with model, pytest.raises(ModelError, match=r"m-1 does not run \(exit code 1: torch is missing\)"):
        ask(model, "no", tmp_path)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("row 1: adc adc.nii: is truncated\nhere", "adc b.nii: is truncated here"),
        ("row 1, channel 'adc': no image; send base64 of a .nii.gz or .nii file",
         "channel 'adc': no image, and the model needs one"),
        ("threshold must lie", "threshold must lie"),
        ("x" * 600, "x" * 500 + " ..."),
    ],
)  # fmt: skip
def test_complaints_speak_of_the_users_files(message: str, told: str) -> None:
    assert about(CASE, message) == told
