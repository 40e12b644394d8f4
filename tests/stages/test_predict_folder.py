"""Many cases: goes on after a bad one, resumes, overwrites nothing unasked. The model here is a threshold; real ones
answer in end_to_end/test_serving.py."""

import csv
import gzip
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from scipy import ndimage

from mlproject import interrupts
from mlproject.data.case import Case
from mlproject.data.storage import LocalFolder
from mlproject.data.writing import write_like
from mlproject.errors import CasesFailedError, DataError, Interrupted, ModelError, SettingsError
from mlproject.stages import predict_folder
from mlproject.stages.settings import PredictSettings, ScanSettings
from mlproject.tracking.answers import Answer, Params
from mlproject.tracking.model_server import ServerGoneError


class Thresholder:
    """Calls the brightest voxels lesion; counts the cases it is asked about, and fails where it is told to."""

    channels = ("dwi", "adc")

    def __init__(self, version: str = "m/1", fails: Callable[[Case], Exception | None] = lambda _: None) -> None:
        self.version, self.model_id = version, f"m-{version}"
        self.fails, self.asked = fails, list[str]()

    def start(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def segment(self, case: Case, params: Params, folder: Path) -> Answer:
        self.asked.append(case.name)
        if error := self.fails(case):
            raise error
        if case.missing:
            raise DataError(f"channel {case.missing[0]!r}: no image, and the model needs one")
        try:
            image = Nifti1Image.from_filename(case.images["dwi"])
            values = np.asarray(image.dataobj, dtype=np.float32)
        except Exception as error:
            raise DataError("dwi cannot be read") from error
        mask = values > values.max() * params.get("threshold", 0.5)
        write_like(mask.astype(np.uint8), case.images["dwi"], folder / "mask.nii.gz")
        probability = folder / "probability.nii.gz" if params["return_probability"] else None
        if probability:
            write_like(values / values.max(), case.images["dwi"], probability)
        voxel_ml = float(np.prod(image.header.get_zooms()[:3])) / 1000
        _, count = ndimage.label(mask, np.ones((3, 3, 3)))
        volume_ml = float(mask.sum()) * voxel_ml
        return Answer(folder / "mask.nii.gz", probability, volume_ml, int(count), self.version, self.model_id)


@pytest.fixture
def data(tiny_isles: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_isles, tmp_path / "sc ans"))


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> PredictSettings:
    return PredictSettings(model="m", data=ScanSettings(root=str(data)), output=str(tmp_path / "out"))


def image(data: Path, number: int, channel: str) -> Path:
    return next(data.rglob(f"sub-synthetic{number:04d}_*_{channel}.nii.gz"))


def run(settings: PredictSettings, model: Thresholder, scratch: Path) -> dict[str, Any]:
    shutil.rmtree(scratch / "work", ignore_errors=True)
    (scratch / "work").mkdir()
    return predict_folder.segment(settings, model, scratch / "work")


def table(settings: PredictSettings) -> dict[str, dict[str, str]]:
    with (Path(settings.output) / "predictions.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def files(settings: PredictSettings) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(settings.output).iterdir() if path.suffix == ".gz"}


def test_bad_cases_are_listed_and_the_others_done(settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    image(data, 1, "dwi").write_bytes(b"no image")
    image(data, 2, "adc").unlink()
    image(data, 3, "dwi").unlink()
    for path in [*data.rglob("sub-synthetic0004_*"), *data.glob("*/sub-synthetic0004")]:
        path.rename(path.with_name(path.name.replace("sub-synthetic0004", "sub-ä b")))
    with pytest.raises(CasesFailedError, match="3 of 6 cases failed") as caught:
        run(settings, Thresholder(), tmp_path)
    assert caught.value.exit_code == 1 and json.dumps(caught.value.result)
    failed = caught.value.result["failed"]
    assert list(failed) and all(f"{name}: {failed[name]}" in str(caught.value) for name in failed)
    words = {"sub-synthetic0001": "cannot be read", "sub-synthetic0002": "'adc'", "sub-synthetic0003": "dwi is missing"}
    assert set(failed) == set(words) and all(word in failed[name] for name, word in words.items())
    assert set(files(settings)) == {f"{name}.nii.gz" for name in ("sub-ä b", "sub-synthetic0005", "sub-synthetic0006")}
    rows = table(settings)
    assert {name for name, row in rows.items() if row["status"] == "failed"} == set(words)
    mask = Nifti1Image.from_filename(Path(settings.output) / "sub-ä b.nii.gz")
    scan = Nifti1Image.from_filename(next(data.rglob("sub-ä b_*_dwi.nii.gz")))
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert float(rows["sub-ä b"]["lesion_count"]) > 0


def isles2017_case(data: Path, number: int, to: Path, kinds: tuple[str, ...] = ("DWI", "ADC", "MTT")) -> None:
    """The scans of a case under the challenge's names, with the IDs 1000, 1001 ... for number 1."""
    for place, kind in enumerate(kinds):
        name = f"VSD.Brain.XX.O.MR_{kind}.{1000 * number + place}"
        file = to / f"test_{number}" / name / f"{name}.nii"
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.decompress(image(data, number, "adc" if kind == "ADC" else "dwi").read_bytes()))


@pytest.fixture
def submission(tmp_path: Path) -> PredictSettings:
    scans = ScanSettings(root=str(tmp_path / "isles"), layout="isles2017")
    return PredictSettings(model="m", data=scans, output=str(tmp_path / "out"), naming="submission")


def test_submission_files_have_the_challenges_names_on_the_scans_grid(
    data: Path, submission: PredictSettings, tmp_path: Path
) -> None:
    for number in (1, 2):  # the ID of the MTT names the mask
        isles2017_case(data, number, tmp_path / "isles")
    assert run(submission, Thresholder(), tmp_path)["done"] == 2
    masks = {row["mask"] for row in table(submission).values()}
    assert masks == {"SMIR.test_1.1002.nii", "SMIR.test_2.2002.nii"} == {p.name for p in tmp_path.glob("out/SMIR*")}
    mask = Nifti1Image.from_filename(tmp_path / "out/SMIR.test_2.2002.nii")
    scan = Nifti1Image.from_filename(image(data, 2, "dwi"))
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert mask.shape == scan.shape and 0 < np.asarray(mask.dataobj).sum() < np.prod(mask.shape)


def test_a_case_without_a_name_for_the_challenge_does_not_stop_the_submission(
    data: Path, submission: PredictSettings, tmp_path: Path
) -> None:
    for number, kinds in enumerate((("DWI", "ADC"), ("DWI", "ADC", "MTT"), ("DWI", "ADC", "MTT", "MTT")), start=1):
        isles2017_case(data, number, tmp_path / "isles", kinds)
    with pytest.raises(CasesFailedError, match="2 of 3 cases failed") as caught:
        run(submission, Thresholder(), tmp_path)
    words = "naming=submission: the challenge names a mask after its case's MTT image, and"
    assert caught.value.exit_code == 1
    assert caught.value.result["failed"] == {"test_1": f"{words} there is none", "test_3": f"{words} there are 2"}
    assert {name: row["status"] for name, row in table(submission).items()} == {
        "test_1": "failed", "test_2": "done", "test_3": "failed",
    }  # fmt: skip
    assert [path.name for path in tmp_path.glob("out/*.nii*")] == ["SMIR.test_2.2002.nii"]


def test_no_submission_where_the_layout_gives_no_names(settings: PredictSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.layout=isles2022 gives cases no names for a challenge"):
        run(replace(settings, naming="submission"), Thresholder(), tmp_path)
    assert not Path(settings.output).exists()


def test_the_same_command_does_what_is_left(settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    kept = image(data, 1, "dwi").read_bytes()
    image(data, 1, "dwi").write_bytes(b"no image")
    with pytest.raises(CasesFailedError):
        run(settings, Thresholder(), tmp_path)
    before = files(settings)
    image(data, 1, "dwi").write_bytes(kept)
    (Path(settings.output) / "sub-synthetic0002.nii.gz").unlink()
    model = Thresholder()
    result = run(settings, model, tmp_path)
    assert model.asked == ["sub-synthetic0001", "sub-synthetic0002"]
    assert (result["done"], result["done_before"], result["failed"]) == (2, 4, {})
    assert files(settings).items() > before.items()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 0.4}, r"threshold tuned \(now 0.4\)"),
        ({"crf": False}, r"crf true \(now false\)"),
        ({"probability": True}, r"probability none \(now sub-synthetic0001_probability.nii.gz\)"),
        ("model", r"the model was m/1 \(m-m/1\), now m/2 \(m-m/2\)"),
        ("images", "its images were others"),
    ],
)
def test_results_of_another_kind_are_not_mixed(
    change: Any, words: str, settings: PredictSettings, data: Path, tmp_path: Path
) -> None:
    run(settings, Thresholder(), tmp_path)
    before, rows = files(settings), table(settings)
    model = Thresholder("m/2" if change == "model" else "m/1")
    if change == "images":
        shutil.copy(image(data, 2, "dwi"), image(data, 1, "dwi"))
    other = replace(settings, **change) if isinstance(change, dict) else settings
    with pytest.raises(SettingsError, match=words):
        run(other, model, tmp_path)
    assert not model.asked and files(settings) == before and table(settings) == rows
    run(replace(other, force=True), model, tmp_path)
    assert len(model.asked) == (1 if change == "images" else 6)
    again = Thresholder(model.version)
    run(other, again, tmp_path)
    assert not again.asked


def test_files_of_others_are_not_overwritten(settings: PredictSettings, tmp_path: Path) -> None:
    Path(settings.output).mkdir()
    mine = Path(settings.output) / "sub-synthetic0003.nii.gz"
    mine.write_text("drawn by hand")
    with pytest.raises(SettingsError, match=r"1 files exist .*sub-synthetic0003\.nii\.gz"):
        run(settings, Thresholder(), tmp_path)
    assert [path.name for path in Path(settings.output).iterdir()] == [mine.name]
    run(replace(settings, force=True), Thresholder(), tmp_path)
    assert mine.read_bytes() != b"drawn by hand"


def test_what_a_case_had_stays_when_it_fails_and_is_said_to_be_kept(settings: PredictSettings, tmp_path: Path) -> None:
    run(settings, Thresholder(), tmp_path)
    bad = Thresholder("m/2", lambda case: DataError("bad") if case.name.endswith("2") else None)
    with pytest.raises(CasesFailedError):
        run(replace(settings, force=True), bad, tmp_path)
    row = table(settings)["sub-synthetic0002"]
    assert (row["status"], row["model_version"], row["error"]) == ("kept", "m/1", "bad")
    assert len(files(settings)) == 6 and table(settings)["sub-synthetic0001"]["model_version"] == "m/2"
    model = Thresholder("m/2")
    run(replace(settings, force=True), model, tmp_path)
    assert model.asked == ["sub-synthetic0002"]


def test_stopped_in_the_midst(settings: PredictSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = predict_folder.checked

    def stop_at_third(answer: Answer, case: Case, *others: Any) -> dict[str, Path]:
        if case.name.endswith("3"):
            monkeypatch.setattr(interrupts, "_received", signal.SIGINT)
            raise Interrupted("stopped by SIGINT", signal.SIGINT)
        return entered(answer, case, *others)

    monkeypatch.setattr(predict_folder, "checked", stop_at_third)
    with pytest.raises(Interrupted, match=r"2 of 6 cases are done.*same command goes on") as caught:
        run(settings, Thresholder(), tmp_path)
    assert caught.value.exit_code == 130
    assert [row["status"] for row in table(settings).values()] == ["done"] * 2 + ["pending"] * 4
    monkeypatch.undo()
    # Killed between writing a mask and recording it: the file is its own, not another's.
    shutil.copy(Path(settings.output) / "sub-synthetic0001.nii.gz", Path(settings.output) / "sub-synthetic0003.nii.gz")
    model = Thresholder()
    assert run(settings, model, tmp_path)["done"] == 4 and len(model.asked) == 4


def test_a_server_that_is_gone_is_not_asked_for_ever(settings: PredictSettings, tmp_path: Path) -> None:
    model = Thresholder(fails=lambda case: ServerGoneError("gone") if case.name[-1] in "3456" else None)
    with pytest.raises(CasesFailedError, match="1 were not tried because the server is gone") as caught:
        run(settings, model, tmp_path)
    assert len(caught.value.result["failed"]) == 3 and caught.value.result["not_tried"] == 1


def test_a_model_that_does_not_run_ends_it(settings: PredictSettings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not run"):
        run(settings, Thresholder(fails=lambda case: ModelError("does not run")), tmp_path)


def test_a_server_that_changes_its_model(settings: PredictSettings, tmp_path: Path) -> None:
    class Changing(Thresholder):
        def segment(self, case: Case, params: Params, folder: Path) -> Answer:
            answer = super().segment(case, params, folder)
            return replace(answer, model_version="m/9", model_id="other") if case.name.endswith("6") else answer

    with pytest.raises(CasesFailedError, match=r"sub-synthetic0006: .*it is m/9 \(other\) now"):
        run(settings, Changing(), tmp_path)
    assert len(files(settings)) == 5


def cases_table(data: Path, names: list[str]) -> str:
    rows = []
    for number, name in enumerate(names):  # each file may stand once in a table
        files = [f"{number}_{channel}.nii.gz" for channel in ("dwi", "adc")]
        for file in files:
            shutil.copy(image(data, 1, file[2:5]), data / file)
        rows.append(",".join([f'"{name}"', *files]))
    (data / "cases.csv").write_text("\n".join(["case,dwi,adc", *rows]))
    return str(data / "cases.csv")


def test_names_that_are_no_file_names(settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    names = [
        "-rf",
        "ok",
        "OK",
        "x" * 300,
        "a_probability",
        "a",
        "two\nlines",
        "M\u00fcller",
        "Mu\u0308ller",
        "$(x) 'y' `z`",
    ]
    where = ScanSettings(layout="table", root=cases_table(data, names))
    with pytest.raises(CasesFailedError) as caught:
        run(replace(settings, data=where, probability=True), Thresholder(), tmp_path)
    assert len(caught.value.result["failed"]) == 6 and caught.value.result["done"] == 4
    assert (Path(settings.output) / "$(x) 'y' `z`.nii.gz").exists()
    assert all(path.parent == Path(settings.output) for path in Path(settings.output).rglob("*"))


def test_a_file_name_that_is_no_utf8(settings: PredictSettings, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number, name in enumerate(("sound", "no\udcffutf8")):
        (folder / name).mkdir(parents=True)
        for channel in ("dwi", "adc"):
            shutil.copy(image(tmp_path / "sc ans", 1 + number, channel), folder / name / f"{channel}.nii.gz")
    where = ScanSettings(layout="folders", root=str(folder))
    with pytest.raises(CasesFailedError, match="no file is written for a case of this name"):
        run(replace(settings, data=where), Thresholder(), tmp_path)
    assert sorted(files(settings)) == ["sound.nii.gz"]
    assert b"no\\udcffutf8" in (Path(settings.output) / "predictions.csv").read_bytes()


def test_output_among_the_scans_is_refused(settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="would be taken for scans"):
        run(replace(settings, output=str(data / "masks")), Thresholder(), tmp_path)
    run(replace(settings, output=str(data / "derivatives" / "masks")), Thresholder(), tmp_path)


def test_bucket_to_bucket(settings: PredictSettings, data: Path, tmp_path: Path, buckets: Path) -> None:
    shutil.copytree(data / "rawdata", buckets / "scans" / "set" / "rawdata")
    (buckets / "masks").mkdir()
    work = str(tmp_path / "home")
    remote = replace(settings, data=ScanSettings(root="s3://scans/set"), output="s3://masks/one", work_dir=work)
    assert run(remote, Thresholder(), tmp_path)["done"] == 6
    run(settings, Thresholder(), tmp_path)
    stored = {path.name: path.read_bytes() for path in (buckets / "masks" / "one").glob("*.gz")}
    assert stored == files(settings)
    assert run(remote, Thresholder(), tmp_path)["done_before"] == 6

    # One mask is gone, and another scan is another now: the first is made again, the second if forced.
    (buckets / "masks" / "one" / "sub-synthetic0001.nii.gz").unlink()
    shutil.copy(image(data, 3, "dwi"), image(buckets / "scans", 2, "dwi"))
    with pytest.raises(SettingsError, match="its images were others"):
        run(remote, Thresholder(), tmp_path)
    forced = Thresholder()
    assert run(replace(remote, force=True), forced, tmp_path)["done"] == 2
    assert forced.asked == ["sub-synthetic0001", "sub-synthetic0002"]


def test_an_image_that_is_missing_in_the_bucket_fails_alone(
    settings: PredictSettings, data: Path, tmp_path: Path, buckets: Path
) -> None:
    shutil.copytree(data / "rawdata", buckets / "scans" / "rawdata")
    image(buckets / "scans", 3, "dwi").unlink()
    remote = replace(settings, data=ScanSettings(root="s3://scans"), work_dir=str(tmp_path / "home"))
    with pytest.raises(CasesFailedError) as caught:
        run(remote, Thresholder(), tmp_path)
    assert list(caught.value.result["failed"]) == ["sub-synthetic0003"] and caught.value.result["done"] == 5


def test_a_mask_drawn_by_hand_for_a_failed_case_is_left_alone(settings: PredictSettings, tmp_path: Path) -> None:
    bad = Thresholder(fails=lambda case: DataError("bad") if case.name.endswith("2") else None)
    with pytest.raises(CasesFailedError):
        run(settings, bad, tmp_path)
    mine = Path(settings.output) / "sub-synthetic0002.nii.gz"
    mine.write_text("drawn by hand")
    with pytest.raises(SettingsError, match=r"1 files exist .*sub-synthetic0002"):
        run(settings, Thresholder(), tmp_path)
    with pytest.raises(CasesFailedError):
        run(replace(settings, force=True), bad, tmp_path)
    assert mine.read_text() == "drawn by hand"


def test_forced_but_gone_keeps_the_masks_there_are(settings: PredictSettings, tmp_path: Path) -> None:
    run(settings, Thresholder(), tmp_path)
    before = files(settings)
    gone = Thresholder("m/2", lambda _: ServerGoneError("gone"))
    with pytest.raises(CasesFailedError) as caught:
        run(replace(settings, force=True), gone, tmp_path)
    assert caught.value.result["kept"] == 3 and files(settings) == before


@pytest.mark.parametrize(("full_at", "status"), [("mask", "kept"), ("probability", "failed")])
def test_a_full_disk_leaves_an_old_result_or_none(
    full_at: str, status: str, settings: PredictSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, probability=True)
    run(settings, Thresholder(), tmp_path)
    before, write = files(settings), LocalFolder.write

    def until_full(folder: LocalFolder, name: str, content: bytes) -> None:
        if name.endswith(".gz") and (full_at == "mask" or "probability" in name):
            raise DataError(f"{name}: No space left on device")
        write(folder, name, content)

    monkeypatch.setattr(LocalFolder, "write", until_full)
    with pytest.raises(CasesFailedError, match="No space left"):
        run(replace(settings, force=True, threshold=0.1), Thresholder("m/2"), tmp_path)
    assert {row["status"] for row in table(settings).values()} == {status}
    assert {row["model_version"] for row in table(settings).values()} == {"m/1" if status == "kept" else "m/2"}
    assert files(settings) == (before if status == "kept" else {})


@pytest.mark.parametrize("force", [False, True])
def test_a_scan_is_never_replaced(force: bool, settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    where = ScanSettings(layout="table", root=cases_table(data, ["a"]))
    (data / "0_dwi.nii.gz").rename(data / "a.nii.gz")
    (data / "cases.csv").write_text("case,dwi,adc\na,a.nii.gz,0_adc.nii.gz")
    (tmp_path / "out").symlink_to(data)
    scan = (data / "a.nii.gz").read_bytes()
    with pytest.raises(SettingsError, match=r"a\.nii\.gz is an input of a|would be taken for scans"):
        run(replace(settings, data=where, force=force), Thresholder(), tmp_path)
    assert (data / "a.nii.gz").read_bytes() == scan


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("mirrored", "does not lie where the scan does"),
        ("volume", "but it says 99 ml"),
        ("count", "in 77"),
        ("values", "other values than 0 and 1"),
        ("probability", "does not lie in 0 to 1"),
        ("datatype", "mask cannot be read"),
    ],
)
def test_an_answer_that_is_not_about_the_case(
    wrong: str, words: str, settings: PredictSettings, tmp_path: Path
) -> None:
    class Wrong(Thresholder):
        def segment(self, case: Case, params: Params, folder: Path) -> Answer:
            answer = super().segment(case, params, folder)
            image = Nifti1Image.from_filename(answer.mask)
            values, affine = np.asarray(image.dataobj), image.affine
            if wrong == "mirrored":
                flip = np.diag([-1.0, 1, 1, 1])
                flip[0, 3] = values.shape[0] - 1
                Nifti1Image(values[::-1], affine @ flip).to_filename(answer.mask)
            elif wrong == "values":
                Nifti1Image(values * 2, affine).to_filename(answer.mask)
            elif wrong == "datatype":
                content = bytearray(gzip.decompress(answer.mask.read_bytes()))
                content[70:72] = b"\x63\x00"
                answer.mask.write_bytes(gzip.compress(bytes(content)))
            elif wrong == "probability":
                assert answer.probability is not None
                Nifti1Image(values.astype(np.float32) * 1.5, affine).to_filename(answer.probability)
            changes: dict[str, Any] = {"volume": {"lesion_ml": 99.0}, "count": {"lesion_count": 77}}
            return replace(answer, **changes.get(wrong, {}))

    with pytest.raises(CasesFailedError, match=words) as caught:
        run(replace(settings, probability=True), Wrong(), tmp_path)
    assert len(caught.value.result["failed"]) == 6 and not files(settings)


def test_several_masks_in_a_case_do_not_matter(settings: PredictSettings, data: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copy(next(data.rglob("sub-synthetic0001_*_msk.nii.gz")), data / f"{number}_mask.nii.gz")
        (folder := tmp_path / "scans" / f"case {number}").mkdir(parents=True)
        for channel in ("dwi", "adc"):
            shutil.copy(image(data, number, channel), folder)
        for expert in "ab":
            shutil.copy(data / f"{number}_mask.nii.gz", folder / f"expert_{expert}_mask.nii.gz")
    where = ScanSettings(layout="folders", root=str(tmp_path / "scans"))
    assert run(replace(settings, data=where), Thresholder(), tmp_path)["done"] == 2
