"""A hospital's own files, named after patients: no name, number or path of theirs in anything that MLflow gets."""

import base64
import gzip
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import optuna
import pandas as pd
import pytest
import requests

from end_to_end.conftest import TINY
from mlproject import cli, config
from mlproject.data import case_names
from mlproject.data.case import Case, DataSettings
from mlproject.data.cases import find_cases
from mlproject.data.writing import EXTENSIONS, write_like
from mlproject.errors import DataError
from mlproject.stages import settings as stage_settings
from mlproject.tracking import runs
from mlproject.tracking.model_server import _text
from mlproject.tracking.run_on_server import RunOnServer
from mlproject.tracking.settings import TrackingSettings
from mlproject.tracking.spool import spools_in, waiting
from mlproject.tuning.study_attempt import Attempt, Failed

MARKS = (b"Mustermann", b"Erika", b"M\xc3\xbcller", b"PAT-770", b"mustermann", b"1950-02-28")


@pytest.fixture
def hospital(tiny_isles: Path, tmp_path: Path) -> Path:
    """A table of the tiny cases whose names, patients, folders, files and headers say who they are."""
    rows = ["case,patient,dwi,adc,label"]
    for number, case in enumerate(find_cases(DataSettings(root=str(tiny_isles)))):
        name = f"Mustermann Erika {number} 1950-02-28" if number else "Müller"
        folder = tmp_path / "hospital" / f"{name} PAT-770{number}"
        folder.mkdir(parents=True)
        assert case.label is not None
        for file, source in {**case.images, "label": case.label}.items():
            image = nib.load(source)
            for field in ("descrip", "db_name", "intent_name", "aux_file", "data_type"):
                image.header[field] = b"Mustermann"
            image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Mustermann Erika"))
            nib.save(image, folder / f"mustermann_{file}.nii.gz")
        files = [f"{folder.name}/mustermann_{file}.nii.gz" for file in ("dwi", "adc", "label")]
        rows.append(",".join([name, f"PAT-770{number}", *files]))
    table = tmp_path / "hospital" / "cases.csv"
    table.write_text("\n".join(rows))
    return table


def run(stage: str, hospital: Path, code: int = 0, **settings: str) -> None:
    usual = {**TINY, "data.layout": "table", "data.root": str(hospital), "work_dir": "work"}
    kind = getattr(stage_settings, cli.STAGES[stage][1])
    taken = {name for name, _ in config.leaves(kind) if config.is_taken(kind, name)}
    given = {name: value for name, value in usual.items() if name in taken}
    given |= {name.replace("__", "."): value for name, value in settings.items()}
    assert cli.main([stage, *(word for name, value in given.items() for word in (f"--{name}", value))]) == code


def contents(file: Path) -> Iterator[bytes]:
    """The bytes of a file, and of what is packed in it."""
    yield file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    if file.suffix == ".gz":
        yield gzip.decompress(file.read_bytes())


def marked(folder: Path) -> list[str]:
    """The files below a folder that hold a mark, in their bytes or in their own names."""
    return [
        f"{file}: {mark.decode()}"
        for file in folder.rglob("*")
        for mark in MARKS
        if mark in str(file.relative_to(folder)).encode()
        or (file.is_file() and any(mark in content for content in contents(file)))
    ]


def test_no_name_in_anything_that_a_pipeline_writes(
    hospital: Path, tracking: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.move(hospital.parent, tracking.parent / f"{tracking.name} data")
    table = tracking.parent / f"{tracking.name} data" / "cases.csv"
    run("main", table)
    run("evaluate", table, model="models:/stroke-lesion/1", cases="all")
    run("evaluate", table, model="models:/stroke-lesion/1", compare="models:/stroke-lesion/1", cases="all")
    assert marked(tracking) == []
    assert str(table.with_name("cases_case_names.csv")) in capfd.readouterr().out

    pairs = pd.read_csv(table.with_name("cases_case_names.csv"))
    assert sorted(pairs["pseudonym"]) == [f"case-{number:04d}" for number in range(1, 7)]
    client = mlflow.MlflowClient()
    (parent,) = client.search_runs(["1"], "tags.stage = 'main'")
    split = pd.read_csv(client.download_artifacts(parent.info.run_id, "split.csv"))
    assert sorted(split["case"]) == sorted(pairs["pseudonym"])
    tested, alone, compared = (
        pd.read_csv(client.download_artifacts(found.info.run_id, "report/per_case.csv"))
        for found in client.search_runs(["1"], "tags.stage = 'evaluate'", order_by=["start_time"])
    )
    assert set(tested["case"]) == set(split[split["split"] == "test"]["case"])
    assert set(alone["case"]) == set(compared["case"]) == set(pairs["pseudonym"])
    for case in set(tested["case"]):  # the same pseudonym is the same case
        one, other = (frame[frame["case"] == case]["reference_ml"].iloc[0] for frame in (tested, alone))
        assert one == other


@pytest.mark.long
def test_no_name_in_anything_that_the_other_stages_write(
    hospital: Path, tracking: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Temporary files that are left, what waits for a server and what is printed, too; beside the masks, nothing."""
    scratch, masks = tracking / "scratch", tracking.with_name(f"{tracking.name} masks")
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    table = Path(shutil.move(hospital.parent, tracking.with_name(f"{tracking.name} data"))) / "cases.csv"
    run("train", table)
    (trained,) = mlflow.MlflowClient().search_runs(["1"], "tags.stage = 'train'")
    run("postprocess", table, run=trained.info.run_id)
    run("crossvalidate", table, data__folds="2")
    run("search", table, search__trials="1", search__space='[{"name": "loss.dice", "low": 0.2, "high": 0.8}]')
    Path("small.yaml").write_text("training: {batch_size: 2}")
    networks = dict.fromkeys(("reproduce__paper", "reproduce__platform"), "small.yaml")
    run("reproduce", table, reproduce__parts="[crf]", reproduce__validations="2", **networks)
    run("predict", table, model="models:/stroke-lesion/1", output=str(masks))
    with monkeypatch.context() as away:
        away.setattr(RunOnServer, "take", raising(requests.ConnectionError("refused")))
        run("train", table, code=3, tracking__wait_s="0")
    assert sum(map(waiting, spools_in(Path("work/spool")))) > 10
    assert marked(tracking) == []
    printed = "".join(capfd.readouterr())
    assert "pseudonyms" in printed and not [mark for mark in MARKS if mark.decode() in printed]
    written = list(masks.glob("*.nii.gz"))  # called as the cases are: they are for whoever has the scans
    assert len(written) == 6
    assert not [file for file in written for content in contents(file) if any(mark in content for mark in MARKS)]


def raising(error: Exception) -> Callable[..., None]:
    def stand_in(*_: object) -> None:
        raise error

    return stand_in


def test_the_failure_of_a_run_names_nobody(hospital: Path, tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_names, "_hidden", {})
    data = DataSettings(layout="table", root=str(hospital))
    settings = TrackingSettings(system_metrics=False)
    cases = settings.case_naming.apply(find_cases(data), data)
    for case in cases:
        with pytest.raises(OSError), runs.open_run(settings, "a run", "train"):
            raise OSError(f"{case.images['dwi']}: no. Case {case.own_name} of patient {case.patient}")
    assert marked(tracking / "mlruns") == []
    for mark in MARKS:
        assert mark not in Path("mlflow.db").read_bytes()
    failures = [found.data.tags["failure"] for found in mlflow.MlflowClient().search_runs(["1"])]
    assert all(re.fullmatch(r"<a file of (case-\d+)>: no. Case \1 of patient <the patient of \1>", f) for f in failures)


def test_the_failure_of_a_trial_names_nobody(hospital: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_names, "_hidden", {})
    data = DataSettings(layout="table", root=str(hospital))
    case = TrackingSettings().case_naming.apply(find_cases(data), data)[0]

    def objective(_: optuna.Trial) -> float:
        raise OSError(f"{case.label}: no")

    study = optuna.create_study()
    study.optimize(Attempt(objective, lambda _: None), n_trials=1, catch=(Failed,))
    assert study.trials[0].user_attrs["failure"] == f"OSError: <a file of {case.name}>: no"


def test_plain_names_where_they_are_asked_for(hospital: Path, tracking: Path) -> None:
    run("train", hospital, tracking__case_names="plain", training__steps="2")
    (found,) = mlflow.MlflowClient().search_runs(["1"])
    split = pd.read_csv(mlflow.MlflowClient().download_artifacts(found.info.run_id, "split.csv"))
    assert "Müller" in set(split["case"])
    assert not hospital.with_name("cases_case_names.csv").exists()


def test_no_place_for_the_table_is_said_before_anything_is_logged(
    hospital: Path, tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data.layout", "table", "--data.root", str(hospital), "--work_dir", "work"]
    assert cli.main([*command, "--tracking.case_table", "missing/names.csv"]) == 2
    assert re.search(r"error: .*cannot be kept there \(No such file or directory\): set tracking\.case_table",
                     " ".join(capsys.readouterr().err.split()))  # fmt: skip
    assert mlflow.MlflowClient().search_runs(["0", "1"]) == []


def test_what_is_sent_to_a_server_says_nothing_of_the_header(hospital: Path) -> None:
    case: Case = find_cases(DataSettings(layout="table", root=str(hospital)))[0]
    file = case.images["dwi"]
    sent = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(_text("dwi", file))))
    assert b"Mustermann" in gzip.decompress(file.read_bytes()) and b"Mustermann" not in sent.to_bytes()
    assert not sent.header.extensions
    assert (sent.get_fdata() == nib.load(file).get_fdata()).all() and (sent.affine == nib.load(file).affine).all()


def zipped(content: bytes, flags: int = 8) -> bytes:
    """A gzip stream whose header holds what these flags say: a checksum of it, a field, a name, a comment."""
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
    for flag, part in ((4, b"\x0a\0Mustermann"), (8, b"Mustermann.nii\0"), (16, b"of Mustermann\0")):
        header += part if flags & flag else b""
    header += (zlib.crc32(header) % 2**16).to_bytes(2, "little") if flags & 2 else b""
    return header + gzip.compress(content)[10:]


@pytest.mark.parametrize("flags", [0, 2, 4, 8, 16, 8 | 16, 2 | 4 | 8 | 16])
@pytest.mark.parametrize("parts", ["one", "joined", "first empty", "last empty"])
def test_the_name_that_gzip_keeps_is_not_sent(parts: str, flags: int, tmp_path: Path) -> None:
    scan = nib.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8)).astype("f4"), np.eye(4)).to_bytes()
    file = tmp_path / "Mustermann.nii.gz"
    cuts = {"one": [], "joined": [1000], "first empty": [0], "last empty": [len(scan)]}[parts]
    edges = [0, *cuts, len(scan)]
    file.write_bytes(b"".join(zipped(scan[a:b], flags) for a, b in pairwise(edges)))
    sent = base64.b64decode(_text("dwi", file))
    assert gzip.decompress(file.read_bytes()) == gzip.decompress(sent) == scan
    assert b"Mustermann" not in sent and sent[3:8] == bytes(5)  # nor a date


def test_what_is_no_nifti_file_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"Mustermann" + bytes(600))
    with pytest.raises(DataError, match=r"^dwi a\.nii: is no NIfTI file"):
        _text("dwi", tmp_path / "a.nii")
    nib.save(nib.Nifti1Pair(np.zeros((4, 4, 4), "f4"), np.eye(4)), tmp_path / "b.img")
    (tmp_path / "b.hdr").rename(tmp_path / "b.nii")
    with pytest.raises(DataError, match=r"^dwi b\.nii: is the header of two files"):
        _text("dwi", tmp_path / "b.nii")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_mask_keeps_no_name_of_a_file(extension: str, tmp_path: Path) -> None:
    scan, mask = tmp_path / "Mustermann.nii.gz", tmp_path / f"Mustermann{extension}"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), "f4"), np.eye(4)), scan)
    write_like(np.ones((8, 8, 8), bool), scan, mask)
    written = mask.read_bytes()
    assert b"Mustermann" not in written and str(tmp_path).encode() not in written
    assert all(written[place + 3] == 0 for place in [written.find(b"\x1f\x8b\x08")] if place >= 0)
