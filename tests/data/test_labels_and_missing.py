"""Voxels of labels with several classes, of 4-D files and of cases that lack a channel, to the cache and back."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mlproject.data import case_keys, image_files
from mlproject.data.cache import PreparedCache
from mlproject.data.case import Case, DataSettings
from mlproject.data.dataset import open_dataset
from mlproject.data.image_files import read_image_file
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.data.volumes import read_volume
from mlproject.errors import DataError, SettingsError

SHAPE = (10, 12, 8)


def head(seed: int) -> np.ndarray:
    image = np.zeros(SHAPE, dtype=np.float32)
    image[2:8, 2:10, 1:7] = np.random.default_rng(seed).uniform(50, 100, (6, 8, 6))
    return image


def classes() -> np.ndarray:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:5, 3:6, 2:4] = 1
    label[5:7, 3:6, 2:4] = 2
    label[3:5, 6:8, 4:6] = 4
    return label


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([-2, 2, 3, 1])), path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    images = {"dwi": write(tmp_path / "dwi.nii.gz", head(0)), "adc": write(tmp_path / "adc.nii.gz", head(1))}
    return Case("c", images, write(tmp_path / "label.nii.gz", classes()), "c")


@pytest.fixture
def cache(tmp_path: Path) -> PreparedCache:
    return PreparedCache(tmp_path / "cache", PreprocessingSettings())


# lesion_labels


@pytest.mark.parametrize(("labels", "voxels"), [((1,), 12), ((2, 4), 20), ((1, 2, 4), 32), ((3,), 0)])
def test_lesion_labels_say_which_classes_are_lesion(case: Case, labels: tuple[int, ...], voxels: int) -> None:
    label = read_volume(replace(case, lesion_labels=labels)).label
    assert label is not None and label.sum() == voxels
    np.testing.assert_array_equal(label, np.isin(classes(), labels))


def test_a_label_of_several_classes_is_refused_with_the_setting_that_reads_it(case: Case) -> None:
    with pytest.raises(DataError, match=r"holds 4 values \(0, 1, 2, 4\).*data\.lesion_labels=\[1\]"):
        read_volume(case)
    assert case.label is not None
    write(case.label, classes() * np.float32(0.5))
    with pytest.raises(DataError, match="no whole numbers"):
        read_volume(replace(case, lesion_labels=(1,)))
    with pytest.raises(DataError, match=r"is not binary.*1 for lesion$"):
        read_volume(case)


@pytest.mark.parametrize("labels", [(), (0,), (1, -1)])
def test_lesion_labels_that_make_no_sense_are_refused(labels: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"data\.lesion_labels"):
        DataSettings(lesion_labels=labels)


def test_each_choice_of_classes_is_a_cache_entry_of_its_own(case: Case, cache: PreparedCache) -> None:
    for labels, voxels in (((1,), 12), ((2,), 12), ((2, 4), 20), ((4, 2), 20)):
        loaded = cache.load(replace(case, lesion_labels=labels)).native_label
        assert loaded is not None and loaded.sum() == voxels
    assert len(list(cache.folder.iterdir())) == 3  # order does not matter


# 4-D files


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write(tmp_path / "series.nii.gz", np.stack([head(5), head(6), head(7)], axis=-1))


def test_components_are_the_volumes_of_a_4d_file(case: Case, series: Path, cache: PreparedCache) -> None:
    case = replace(case, images={"a": series, "b": series}, components={"a": 2, "b": 0}, lesion_labels=(1,))
    volume = read_volume(case)
    np.testing.assert_array_equal(volume.image, [head(7), head(5)])
    np.testing.assert_allclose(volume.affine, np.diag([-2, 2, 3, 1]))
    other = replace(case, components={"a": 1, "b": 0})
    assert not np.array_equal(cache.load(case).image, cache.load(other).image)
    assert len(set(volume.channel_digests.values())) == 2


def test_a_4d_file_is_decoded_and_digested_once(
    case: Case, series: Path, cache: PreparedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, digested = [], []
    scalar_image, file_digest = image_files.tio.ScalarImage, case_keys._file_digest
    monkeypatch.setattr(image_files.tio, "ScalarImage", lambda path: decoded.append(path) or scalar_image(path))
    monkeypatch.setattr(case_keys, "_file_digest", lambda path: digested.append(path) or file_digest(path))
    images = {"dwi": case.images["dwi"], "a": series, "b": series, "c": series}
    case = replace(case, images=images, components={"a": 2, "b": 0, "c": 1})
    np.testing.assert_array_equal(read_volume(case, labelled=False).image, [head(0), head(7), head(5), head(6)])
    assert decoded == [case.images["dwi"], series]
    cache.load(case, labelled=False)
    assert digested == [case.images["dwi"], series] * 2  # before and after reading


def test_a_damaged_4d_file_is_one_fault_that_names_its_channels(case: Case, series: Path) -> None:
    series.write_bytes(series.read_bytes()[:-10])
    images = {"dwi": case.images["dwi"], "a": series, "b": series}
    with pytest.raises(DataError, match=r"^c: a, b .*series\.nii\.gz: .*$") as caught:
        read_volume(replace(case, images=images, components={"a": 0, "b": 1}), labelled=False)
    assert "\n" not in str(caught.value)


def test_a_component_that_is_not_there_is_refused(series: Path) -> None:
    assert read_image_file(series, 2).voxels.shape == SHAPE
    with pytest.raises(DataError, match=r"holds 3 volumes of .* volume number 4 is missing"):
        read_image_file(series, 3)
    with pytest.raises(DataError, match="holds 3 values a voxel"):
        read_image_file(series)


def test_a_truncated_4d_file_is_refused(series: Path) -> None:
    whole = series.with_name("whole.nii")
    nib.save(nib.load(series), whole)
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated"):
        read_image_file(whole, 0)  # the first volume is there


# Missing channels


def test_a_missing_channel_is_zero_after_normalisation_in_its_place(case: Case, cache: PreparedCache) -> None:
    whole = prepare(read_volume(replace(case, lesion_labels=(1,))), cache.settings)
    order = ("dwi", "t1", "adc")
    gap = replace(case, missing=("t1",), order=order, lesion_labels=(1,))
    for prepared in (prepare(read_volume(gap), cache.settings), cache.load(gap), cache.load(gap)):
        assert prepared.image.shape[0] == 3
        np.testing.assert_array_equal(prepared.image[1], 0)
        np.testing.assert_array_equal(prepared.image[[0, 2]], whole.image)
        assert prepared.missing == {"t1": 1}
        assert list(prepared.channel_digests) == ["dwi", "adc"]  # zeros are no image that a model has seen
    assert cache.load(replace(case, lesion_labels=(1,))).missing == {}


def test_where_a_channel_is_missing_is_part_of_the_cache_key(case: Case, cache: PreparedCache) -> None:
    first = replace(case, missing=("t1",), order=("dwi", "t1", "adc"), lesion_labels=(1,))
    for other in (
        replace(first, order=("dwi", "adc", "t1")),
        replace(first, missing=("t2",), order=("dwi", "t2", "adc")),
    ):
        assert cache.load(first).missing == {"t1": 1}
        assert cache.load(other).missing == other.places_of_missing
    assert not cache.load(first).image[1].any() and cache.load(first).image[2].any()


def test_a_dataset_records_what_its_cases_lack(tmp_path: Path) -> None:
    for number in range(6):
        for seed, channel in enumerate(("dwi", "adc")):
            write(tmp_path / f"data/p{number}/{channel}.nii.gz", head(10 * number + seed))
        write(tmp_path / f"data/p{number}/mask.nii.gz", classes())
    (tmp_path / "data/p3/adc.nii.gz").unlink()
    settings = DataSettings(layout="folders", root=str(tmp_path / "data"), missing="zero", lesion_labels=(1, 2))
    dataset = open_dataset(settings, PreprocessingSettings(), tmp_path / "cache")
    assert dataset.missing == {"p3": ("adc",)}
    assert dataset.lesion_ml["p0"] == pytest.approx(24 * 0.012)
    whole = replace(settings, lesion_labels=(1,))
    assert open_dataset(whole, PreprocessingSettings(), tmp_path / "cache").digest != dataset.digest


# DICOM and folders as an image


def test_dicom_as_an_image_is_refused(tmp_path: Path, case: Case) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "0001").write_bytes(bytes(128) + b"DICM")
    for path in (folder, folder / "0001"):
        with pytest.raises(DataError, match=r"is DICOM: convert .* dcm2niix"):
            read_volume(replace(case, images={"dwi": path}, label=None), labelled=False)
    (folder / "0001").unlink()
    with pytest.raises(DataError, match="is a folder"):
        read_image_file(folder)
