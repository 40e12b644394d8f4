from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from mlproject.data.cache import PreparedCache
from mlproject.data.cases import Case, DataSettings, find_cases
from mlproject.data.dataset import folds_of, load_all, open_dataset
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.errors import DataError


def test_faults_of_all_cases_come_together(tiny_isles: Path, tmp_path: Path) -> None:
    good = find_cases(DataSettings(root=str(tiny_isles)))[0]
    Nifti1Image(np.zeros((24, 28, 20), np.float32), np.eye(4)).to_filename(tmp_path / "zero.nii")
    bad = Case("sub-bad", {"dwi": tmp_path / "zero.nii", "adc": tmp_path / "missing.nii"}, good.label, "sub-bad")
    unlabelled = replace(good, name="sub-unlabelled", label=None)
    with pytest.raises(DataError) as error:
        load_all(PreparedCache(tmp_path / "cache", PreprocessingSettings()), [bad, good, unlabelled])
    text = str(error.value)
    assert text.startswith("2 of 3 cases cannot be used:")
    assert "sub-bad" in text and "missing.nii" in text and "sub-unlabelled" in text


def test_digest_follows_voxels_and_split(tiny_isles: Path, tmp_path: Path) -> None:
    settings = DataSettings(root=str(tiny_isles))
    one = open_dataset(settings, PreprocessingSettings(), tmp_path / "cache")
    assert one.digest == open_dataset(settings, PreprocessingSettings(), tmp_path / "other").digest
    split = tmp_path / "split.csv"
    rows = dict(one.split.to_rows())
    a, b = one.split.train[0], one.split.test[0]
    rows[a], rows[b] = rows[b], rows[a]
    split.write_text("case,split\n" + "".join(f"{name},{part}\n" for name, part in rows.items()))
    other = open_dataset(replace(settings, split_file=str(split)), PreprocessingSettings(), tmp_path / "cache")
    assert other.split.train != one.split.train and other.digest != one.digest


def test_lesion_volumes_are_those_of_the_labels(tiny_isles: Path, tmp_path: Path) -> None:
    dataset = open_dataset(DataSettings(root=str(tiny_isles)), PreprocessingSettings(), tmp_path / "cache")
    for name, case in dataset.cases.items():
        image = Nifti1Image.from_filename(case.label)
        expected = float(np.asarray(image.dataobj).sum() * np.prod(image.header.get_zooms()) / 1000)
        assert dataset.lesion_ml[name] == pytest.approx(expected, rel=1e-5)
    assert sum(volume == 0 for volume in dataset.lesion_ml.values()) == 1


def test_folds_are_what_each_fold_opens_and_test_every_case_once(tiny_isles: Path, tmp_path: Path) -> None:
    settings = DataSettings(root=str(tiny_isles), folds=3)
    first = open_dataset(settings, PreprocessingSettings(), tmp_path / "cache")
    folds = folds_of(first, settings)
    assert sorted(name for fold in folds for name in fold.split.test) == sorted(first.cases)
    for number, fold in enumerate(folds):
        opened = open_dataset(replace(settings, fold=number), PreprocessingSettings(), tmp_path / "cache")
        assert (fold.split, fold.digest) == (opened.split, opened.digest)
