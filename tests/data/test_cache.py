import json
import logging
import multiprocessing
import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from mlproject.data import cache as cache_module
from mlproject.data.cache import PreparedCache
from mlproject.data.case import Case
from mlproject.data.case_keys import NOTES
from mlproject.data.preprocessing import PreparedCase, PreprocessingSettings, prepare
from mlproject.data.volumes import read_volume
from mlproject.errors import DataError

SHAPE = (10, 12, 8)


def head(seed: int) -> np.ndarray:
    image = np.zeros(SHAPE, dtype=np.float32)
    image[2:8, 2:10, 1:7] = np.random.default_rng(seed).uniform(50, 100, (6, 8, 6))
    return image


def write(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, np.diag([-2, 2, 3, 1])), path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "JANE-DOE"
    folder.mkdir()
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:5, 3:6, 2:4] = 1
    images = {"dwi": write(folder / "dwi.nii.gz", head(0)), "adc": write(folder / "adc.nii.gz", head(1))}
    return Case("JANE-DOE", images, write(folder / "msk.nii.gz", label), "JANE-DOE")


@pytest.fixture
def cache(tmp_path: Path) -> PreparedCache:
    return PreparedCache(tmp_path / "cache", PreprocessingSettings())


def entries(cache: PreparedCache) -> list[Path]:
    return sorted(path for path in cache.folder.iterdir() if path.name != NOTES)


def assert_same(one: PreparedCase, other: PreparedCase) -> None:
    for name in ("image", "brain", "label", "native_label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.name, one.geometry, one.channel_digests) == (
        other.name,
        other.geometry,
        other.channel_digests,
    )


def forbid_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> PreparedCase:
        raise AssertionError("prepared again")

    monkeypatch.setattr(cache_module, "prepare", fail)


def test_a_case_is_prepared_once(case: Case, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = prepare(read_volume(case), cache.settings)
    assert_same(cache.load(case), expected)
    forbid_preparing(monkeypatch)
    again = PreparedCache(cache.folder, cache.settings).load(case)
    assert_same(again, expected)
    assert isinstance(again.image, np.memmap)
    assert not again.image.flags.writeable


def test_threads_can_open_entries_at_once(case: Case, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """np.load calls ast.literal_eval, which now and then fails in Python 3.11 where two threads do so at once."""
    expected = cache.load(case)
    monkeypatch.setattr("ast.parse", lambda *_, **__: pytest.fail("Python's parser was called"))
    assert_same(cache.load(case), expected)


def test_an_entry_is_found_by_content_under_any_name(
    case: Case, cache: PreparedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.load(case)
    forbid_preparing(monkeypatch)
    moved = {name: tmp_path / f"{name}.nii.gz" for name in case.images}
    for name, path in case.images.items():
        path.rename(moved[name])
    assert cache.load(replace(case, name="sub-9", images=moved)).name == "sub-9"


def test_no_entry_names_a_patient(case: Case, cache: PreparedCache) -> None:
    cache.load(case)
    for path in cache.folder.rglob("*"):
        assert "JANE" not in path.name
        assert path.is_dir() or b"JANE" not in path.read_bytes()


def swap_channels(case: Case) -> Case:
    return replace(case, images=dict(reversed(case.images.items())))


def rename_channel(case: Case) -> Case:
    return replace(case, images={"b1000": case.images["dwi"], "adc": case.images["adc"]})


def change_image(case: Case) -> Case:
    write(case.images["adc"], head(2))
    return case


def change_label(case: Case) -> Case:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[4, 4, 4] = 1
    write(case.label, label)
    return case


@pytest.mark.parametrize("change", [swap_channels, rename_channel, change_image, change_label])
def test_a_changed_case_is_prepared_again(case: Case, cache: PreparedCache, change: Callable[[Case], Case]) -> None:
    cache.load(case)
    dates = {path: path.stat().st_mtime_ns for path in (*case.images.values(), case.label)}
    changed = change(case)
    for path, date in dates.items():
        os.utime(path, ns=(date, date))  # the date of a file is no proof
    assert_same(cache.load(changed), prepare(read_volume(changed), cache.settings))
    assert len(entries(cache)) == 2


def test_changed_settings_are_another_entry(case: Case, cache: PreparedCache) -> None:
    cache.load(case)
    other = PreparedCache(cache.folder, PreprocessingSettings(crop_margin_mm=0.0))
    assert_same(other.load(case), prepare(read_volume(case), other.settings))
    assert other.load(case).image.shape != cache.load(case).image.shape


def test_with_and_without_label_are_two_entries(case: Case, cache: PreparedCache) -> None:
    assert cache.load(case, labelled=False).label is None
    assert cache.load(case).label is not None
    assert cache.load(replace(case, label=None), labelled=False).label is None
    assert len(entries(cache)) == 2


def test_another_format_version_is_another_entry(
    case: Case, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.load(case)
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", cache_module.FORMAT_VERSION + 1)
    PreparedCache(cache.folder, cache.settings).load(case)
    assert len(entries(cache)) == 2


def test_voxels_beside_their_header_count_as_content(case: Case, cache: PreparedCache) -> None:
    path = case.images["dwi"].with_name("detached.mhd")
    detached = Case("c", {"dwi": path}, None, "c")
    SimpleITK.WriteImage(SimpleITK.ReadImage(case.images["dwi"]), path)
    before = cache.load(detached, labelled=False)
    raw = path.with_suffix(".raw")
    raw.write_bytes(head(5).transpose().tobytes())
    assert not np.array_equal(cache.load(detached, labelled=False).image, before.image)


class Planted:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(Path(os.environ["PLANTED"])),)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def plant_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Planted()))


def plant_object_array(path: Path) -> None:
    np.save(path, np.array([Planted()], dtype=object), allow_pickle=True)


def wrong_shape(path: Path) -> None:
    np.save(path, np.load(path)[..., :-1])


def wrong_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


@pytest.mark.parametrize("damage", [remove, truncate, empty, plant_pickle, plant_object_array, wrong_shape, wrong_type])
@pytest.mark.parametrize("name", ["image.npy", "label.npy"])
def test_a_damaged_array_is_made_again_and_never_unpickled(
    case: Case,
    cache: PreparedCache,
    damage: Callable[[Path], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PLANTED", str(cache.folder.parent / "trace"))
    expected = prepare(read_volume(case), cache.settings)
    cache.load(case)
    damage(entries(cache)[0] / name)
    with caplog.at_level(logging.WARNING):
        assert_same(cache.load(case), expected)
    assert "is damaged" in caplog.text
    assert not (cache.folder.parent / "trace").exists()
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"format": 0}', '{"format": 1, "geometry": 3}'])
def test_a_damaged_record_is_made_again(
    case: Case, cache: PreparedCache, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cache.load(case)
    (entries(cache)[0] / "record.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert_same(cache.load(case), expected)
    assert "is damaged" in caplog.text
    assert json.loads((entries(cache)[0] / "record.json").read_text())["format"] == cache_module.FORMAT_VERSION


def test_a_full_disk_leaves_no_entry(case: Case, cache: PreparedCache) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DataError, match="cannot write to the cache"):
            cache.load(case)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(cache) == []
    cache.load(case)


def test_the_first_of_two_writers_wins(case: Case, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    other = PreparedCache(cache.folder, cache.settings)
    inode = []

    def meanwhile(*arguments: object) -> PreparedCase:
        monkeypatch.setattr(cache_module, "prepare", prepare)
        other.load(case)
        inode.append(entries(cache)[0].stat().st_ino)
        return prepare(*arguments)

    monkeypatch.setattr(cache_module, "prepare", meanwhile)
    assert_same(cache.load(case), other.load(case))
    assert [entry.stat().st_ino for entry in entries(cache)] == inode


def load_at_once(cache: PreparedCache, case: Case, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait()
    cache.load(case)


def test_processes_share_a_cache(case: Case, cache: PreparedCache) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [context.Process(target=load_at_once, args=(cache, case, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(entries(cache)) == 1
    assert_same(cache.load(case), prepare(read_volume(case), cache.settings))


def test_files_that_change_while_they_are_read_are_not_kept(
    case: Case, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare_and_change(*arguments: object) -> PreparedCase:
        change_image(case)
        return prepare(*arguments)

    monkeypatch.setattr(cache_module, "prepare", prepare_and_change)
    with pytest.raises(DataError, match="changed while they were read"):
        cache.load(case)
    assert not cache.folder.exists()


def test_a_missing_file_is_one_clear_line(case: Case, cache: PreparedCache) -> None:
    case.images["adc"].unlink()
    with pytest.raises(DataError, match=r"adc\.nii\.gz: cannot be read \(No such file"):
        cache.load(case)
