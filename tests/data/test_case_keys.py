"""A file that has not changed is hashed once; one that has is hashed again, whatever its date says."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlproject.data import case_keys
from mlproject.data.case import Case
from mlproject.data.case_keys import CaseKeys
from mlproject.data.preprocessing_settings import PreprocessingSettings


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "JANE-DOE"
    folder.mkdir()
    for name in ("dwi.nii.gz", "adc.nii.gz", "msk.nii.gz"):
        (folder / name).write_bytes(name.encode())
    images = {name: folder / f"{name}.nii.gz" for name in ("dwi", "adc")}
    return Case("JANE-DOE", images, folder / "msk.nii.gz", "JANE-DOE")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that have been hashed, in a world where every file has settled."""
    names: list[str] = []
    digest = case_keys._file_digest
    monkeypatch.setattr(case_keys, "_file_digest", lambda path: names.append(path.name) or digest(path))
    monkeypatch.setattr(case_keys, "SETTLED_SECONDS", -10.0)
    return names


def keys(tmp_path: Path, **settings: float) -> CaseKeys:
    """As another process would begin with them."""
    return CaseKeys(tmp_path / "cache", PreprocessingSettings(**settings), format_version=1)  # type: ignore[arg-type]


def test_files_that_did_not_change_are_hashed_once(case: Case, tmp_path: Path, hashed: list[str]) -> None:
    key = keys(tmp_path).of(case, True)
    assert sorted(hashed) == ["adc.nii.gz", "dwi.nii.gz", "msk.nii.gz"]
    assert keys(tmp_path).of(case, True) == key and len(hashed) == 3
    assert keys(tmp_path).of(replace(case, name="other"), True) == key and len(hashed) == 3


def test_what_a_key_depends_on_is_never_found_under_another_note(case: Case, tmp_path: Path, hashed: list[str]) -> None:
    swapped = dict(reversed(case.images.items()))
    renamed = {"b1000": case.images["dwi"], "adc": case.images["adc"]}
    missing = replace(case, images={"dwi": case.images["dwi"]}, missing=("adc",), order=("dwi", "adc"))
    variants = [
        keys(tmp_path).of(case, True),
        keys(tmp_path).of(case, False),
        keys(tmp_path, crop_margin_mm=0.0).of(case, True),
        CaseKeys(tmp_path / "cache", PreprocessingSettings(), format_version=2).of(case, True),
        *(keys(tmp_path).of(replace(case, images=images), True) for images in (swapped, renamed)),
        keys(tmp_path).of(replace(case, components={"adc": 1}), True),
        keys(tmp_path).of(replace(case, lesion_labels=(2,)), True),
        keys(tmp_path).of(missing, True),
    ]
    assert len(set(variants)) == len(variants)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def replace_by_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace_by_another])
@pytest.mark.parametrize("name", ["adc.nii.gz", "msk.nii.gz"])
def test_a_change_is_noticed_though_size_and_date_are_the_same(
    case: Case, tmp_path: Path, hashed: list[str], change: Callable[[Path], None], name: str
) -> None:
    key = keys(tmp_path).of(case, True)
    path = case.images["dwi"].with_name(name)
    before = path.stat()
    time.sleep(0.05)  # the clock of a file system ticks every few milliseconds
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert keys(tmp_path).of(case, True) != key


def test_a_file_that_was_changed_just_now_is_hashed_every_time(
    case: Case, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_keys, "SETTLED_SECONDS", 60.0)
    assert keys(tmp_path).of(case, True) == keys(tmp_path).of(case, True)
    assert len(hashed) == 6 and not (tmp_path / "cache").exists()


def test_a_damaged_note_is_made_again(case: Case, tmp_path: Path, hashed: list[str]) -> None:
    key = keys(tmp_path).of(case, True)
    (note,) = (tmp_path / "cache" / "keys").iterdir()
    for damage in (b"", b"../../etc", b"\xff" * 64):
        note.write_bytes(damage)
        assert keys(tmp_path).of(case, True) == key
    assert note.read_text() == key


def test_no_note_names_a_patient(case: Case, tmp_path: Path, hashed: list[str]) -> None:
    keys(tmp_path).of(case, True)
    (note,) = (tmp_path / "cache" / "keys").iterdir()
    assert "JANE" not in note.name and "JANE" not in note.read_text()


def test_where_nothing_can_be_noted_it_is_hashed_again(case: Case, tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert keys(tmp_path).of(case, True) == keys(tmp_path).of(case, True)
    assert len(hashed) == 6
