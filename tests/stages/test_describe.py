"""`describe` as a user calls it: what it says of a data set, and a configuration that training takes."""

import json
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from nibabel.nifti1 import Nifti1Image

from mlproject import cli, config
from mlproject.data.synthetic import make_case
from mlproject.stages import train
from mlproject.stages.settings import Experiment


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def describe(root: Path, *more: str) -> int:
    return cli.main(["describe", "--data.root", str(root), "--processes", "1", *more])


def trainable(file: str, folder: Path) -> tuple[Experiment, int]:
    """The settings in a proposed file, and how many cases training accepts with them."""
    settings = config.load(Experiment, ["--config", file, "--work_dir", str(folder / "work")], [folder], "main")
    return settings, len(train.prepare(settings.resolved()).cases)


def break_cases(root: Path) -> None:
    next(root.glob("rawdata/*1/*/*_dwi.nii.gz")).write_bytes(b"no image")
    next(root.glob("derivatives/*2/*/*.nii.gz")).unlink()


def test_one_spacing(tiny_isles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(tiny_isles) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 read, 6 can be used" in shown and "no lesion 1 #" in shown and "24x28x20 (6)" in shown
    settings, cases = trainable("tiny.yaml", tmp_path)
    assert (settings.preprocessing.spacing_mm, settings.data.channels, cases) == (None, ("dwi", "adc", "flair"), 6)


def test_mixed_anisotropic_spacings_and_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for number in (1, 2, 3, 4):
        slices = 12 if number < 4 else 8
        images = make_case(0, number, (80, 96, slices))
        (root / f"case{number}").mkdir(parents=True)
        for name, image in images.items():
            values = np.asarray(image.dataobj) * (3 if name == "msk" else 1)
            channel = {"msk": "label"}.get(name, name)
            nib.save(Nifti1Image(values.astype(np.float32), image.affine), root / f"case{number}/{channel}.nii.gz")

    assert describe(root, "--output", "mine.yaml", "--data.channels", "[dwi, flair]") == 0

    settings, cases = trainable("mine.yaml", tmp_path)
    assert (settings.data.lesion_labels, settings.data.layout, cases) == ((3,), "folders", 4)
    assert settings.preprocessing.spacing_mm == pytest.approx((2, 1.875, 130 / 12), abs=1e-3)
    assert settings.patches.size[2] == 16 < settings.patches.size[0]
    assert "# every value but 0" in (tmp_path / "mine.yaml").read_text()


def test_faults_are_listed_and_the_rest_is_described(
    tiny_isles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_isles, root)
    break_cases(root)
    next(root.glob("rawdata/*3/*/*_flair.nii.gz")).unlink()

    assert describe(root, "--json") == 0

    answer = json.loads(capsys.readouterr().out)
    assert (answer["stage"], answer["status"], answer["cases"], answer["usable"]) == ("describe", "finished", 6, 4)
    assert [fault.partition(":")[0][-1] for fault in answer["faults"]] == ["2", "1"]
    assert answer["channels"]["flair"]["missing_in"] == ["sub-synthetic0003"]
    assert answer["configuration"]["data"]["missing"] == "zero"
    assert yaml.safe_load(Path(answer["configuration_file"]).read_text()) == answer["configuration"]
    assert sum(answer["lesions"]["load_groups"].values()) == 4
    assert {row["case"][-1] for row in answer["per_case"] if row["usable"]} == {"3", "4", "5", "6"}


def test_what_the_labels_are_called_is_shown(
    tiny_isles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for number, name in enumerate(("lesion_mask", "lesion_mask", "old_lesions"), start=1):
        (root / f"c{number}").mkdir(parents=True)
        session = f"sub-synthetic000{number}/ses-0001"
        shutil.copy(next((tiny_isles / "rawdata" / session).glob("*_dwi.nii.gz")), root / f"c{number}/dwi.nii.gz")
        shutil.copy(next((tiny_isles / "derivatives" / session).iterdir()), root / f"c{number}/{name}.nii.gz")
    assert describe(root) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "labels: lesion_mask (in 2), old_lesions (in 1)" in shown
    assert "the label is not called lesion_mask, as most are; does it show the same?: c3 (old_lesions)" in shown
    assert describe(root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["labels_called"] == {"lesion_mask": 2, "old_lesions": 1}


def test_what_fits_no_device_is_said(tiny_isles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(tiny_isles, "--gpu_memory_gb", "0.01") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Note: nothing fits: even a step of 2 patches" in shown and "of 0.01 GiB" in shown
    assert "nothing fits" in Path("tiny.yaml").read_text()
    assert describe(tiny_isles, "--gpu_memory_gb", "8") == 0
    assert "nothing fits" not in capsys.readouterr().out


def test_a_gpu_gets_larger_patches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for channel, image in make_case(0, 1, (96, 108, 78), ["dwi"]).items():
        folder = root / ("derivatives" if channel == "msk" else "rawdata") / "sub-1/ses-1"
        folder.mkdir(parents=True)
        nib.save(image, folder / f"sub-1_ses-1_{channel}.nii.gz")
    sizes = {}
    for memory in ("null", "0.2", "24"):
        assert describe(root, "--output", f"{memory}.yaml", "--gpu_memory_gb", memory) == 0
        sizes[memory] = np.prod(yaml.safe_load(Path(f"{memory}.yaml").read_text())["patches"]["size"])
    assert sizes["0.2"] < sizes["24"] > sizes["null"]
    assert "cannot be split" in Path("24.yaml").read_text()  # a single case


def test_what_to_do_next_works_from_any_folder(tiny_isles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(tiny_isles) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next:"))
    _, python, script, *words = shlex.split(shown)
    assert Path(python).is_absolute() and Path(script).is_absolute()
    assert words == ["main", "--config", str(Path("tiny.yaml").absolute())]


def test_no_file_is_overwritten(tiny_isles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.yaml").write_text("mine")
    assert describe(tiny_isles, "--output", "tiny.yaml") == 2
    assert "exists already" in capsys.readouterr().err
    assert describe(tiny_isles) == 0
    assert Path("tiny.yaml").read_text() == "mine" and Path("tiny-2.yaml").is_file()


def test_nothing_to_train_on(tiny_isles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_isles / "rawdata", root / "rawdata")
    assert describe(root) == 2
    captured = capsys.readouterr()
    assert "no case has a label" in captured.err and "exact zeros" in captured.out
    assert not list(tmp_path.glob("*.yaml"))


def test_without_a_case_that_has_the_channels_the_labels_are_not_blamed(
    tiny_isles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe(tiny_isles, "--data.channels", "[t1]") == 2
    captured = capsys.readouterr()
    assert "no case can be used for training: mend the faults, 6 in all" in captured.err
    assert "sub-synthetic0001: t1 is missing" in captured.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.root", "/nowhere"], "/nowhere does not exist"),
        ([], "data.root is empty"),
        (["--data.root", "s3:///set"], "data.root=s3:///set names no bucket"),
        (["--data.root", "s3://b/set", "--data.copies_gb", "0"], "data.copies_gb=0: give a number of GB above 0"),
        (["--data.root", ".", "--data.layout", "isles"], "layout"),
        (["--data.root", ".", "--gpu_memory_gb", "-3"], "gpu_memory_gb"),
    ],
)
def test_bad_settings(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe", *arguments]) == 2
    assert words in capsys.readouterr().err
