from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mlproject.data import synthetic
from mlproject.data.cases import DataSettings, find_cases
from mlproject.data.synthetic import make_case, write_dataset

SHAPE = (24, 28, 20)


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asanyarray(image.dataobj)


def test_a_tree_that_the_isles_layout_reads(tiny_isles: Path) -> None:
    cases = find_cases(DataSettings(root=str(tiny_isles), channels=("dwi", "adc", "flair")))
    assert len(cases) == 6
    dwi, adc, flair = (nib.load(file) for file in cases[0].images.values())
    mask = nib.load(cases[0].label)
    assert dwi.shape == adc.shape == mask.shape == SHAPE
    assert np.array_equal(dwi.affine, mask.affine)
    assert flair.shape != SHAPE
    assert flair.header.get_zooms()[2] == pytest.approx(2 * dwi.header.get_zooms()[2])
    assert "no patient" in (tiny_isles / "README.txt").read_text()
    assert [file.name for file in tiny_isles.parent.iterdir()] == [tiny_isles.name]  # no draft is left


def test_voxels_are_in_the_range_of_scanners(tiny_isles: Path) -> None:
    for case in find_cases(DataSettings(root=str(tiny_isles))):
        dwi, adc = (nib.load(file).get_fdata() for file in case.images.values())
        assert np.array_equal(dwi == 0, adc == 0)
        assert 0.3 < np.mean(dwi == 0) < 0.8
        border = np.pad(np.zeros(np.subtract(SHAPE, 2), bool), 1, constant_values=True)
        assert not dwi[border].any()  # the head ends before the volume does
        assert dwi.min() == adc.min() == 0
        assert 0.6 < np.median(adc[adc > 0]) < 1.0
        assert 2.0 < np.quantile(adc, 0.99) < 3.5
        assert set(np.unique(voxels(nib.load(case.label)))) <= {0, 1}


def test_zero_is_the_background_alone() -> None:
    # Without care the noise of this case rounds to 0 in two voxels of the head.
    images = make_case(0, 17, (64, 72, 52))
    assert np.array_equal(voxels(images["dwi"]) == 0, voxels(images["adc"]) == 0)


def test_one_case_in_eight_has_no_lesion() -> None:
    empty = [number for number in range(1, 25) if not voxels(make_case(0, number, (12, 14, 10))["msk"]).any()]
    assert empty == [5, 13, 21]


def test_lesions_vary_and_are_bright_with_a_drop_in_adc() -> None:
    volumes_ml, ratios = [], []
    for number in [*range(1, 5), *range(6, 13)]:
        images = make_case(0, number, (32, 36, 26))
        mask = voxels(images["msk"]) == 1
        volumes_ml.append(mask.sum() * np.prod(images["msk"].header.get_zooms()) / 1000)
        around = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
        matter = around & (voxels(images["adc"]) > 0) & (voxels(images["adc"]) < 1300)
        for name in ("dwi", "adc"):
            values = voxels(images[name])
            ratios.append(values[mask].mean() / values[matter].mean())
    assert min(volumes_ml) < 1
    assert max(volumes_ml) > 10
    assert min(ratios[::2]) > 1.1
    assert max(ratios[1::2]) < 0.95


def test_a_threshold_on_dwi_is_no_answer() -> None:
    """Even the best threshold of each case mistakes what looks alike for a lesion."""
    dice = []
    for number in [*range(1, 5), *range(6, 13)]:
        images = make_case(0, number, (32, 36, 26))
        dwi, mask = voxels(images["dwi"]), voxels(images["msk"]) == 1
        guesses = [dwi > threshold for threshold in np.quantile(dwi[dwi > 0], np.linspace(0.7, 0.999, 40))]
        dice.append(max(2 * np.sum(guess & mask) / (guess.sum() + mask.sum()) for guess in guesses))
    assert np.mean(dice) < 0.65


def test_a_case_depends_on_its_arguments_alone() -> None:
    one = make_case(0, 2, SHAPE)
    for other in (make_case(0, 2, SHAPE), make_case(0, 2, SHAPE, channels=("flair", "dwi"))):
        for name in other:
            assert np.array_equal(voxels(one[name]), voxels(other[name]))
    assert set(other) == {"flair", "dwi", "msk"}
    for different in (make_case(1, 2, SHAPE), make_case(0, 3, SHAPE)):
        assert not np.array_equal(voxels(one["dwi"]), voxels(different["dwi"]))


def test_written_voxels_are_those_made(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 1, seed=3, shape=SHAPE, channels=("adc",))
    adc = nib.load(next(tmp_path.rglob("*_adc.nii.gz")))
    assert np.allclose(adc.get_fdata(), voxels(make_case(3, 1, SHAPE)["adc"]) * 0.001)
    assert not list(tmp_path.rglob("*_dwi.nii.gz"))


def test_two_writers_at_once_leave_one_complete_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write_dataset, tmp_path / "set", 3, shape=(12, 14, 10)) for _ in range(2)]
    assert [job.result() for job in jobs] == [None, None]
    assert len(find_cases(DataSettings(root=str(tmp_path / "set")))) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_the_second(seed: int, number: int, *more: object) -> dict[str, nib.Nifti1Image]:
        if number == 2:
            raise KeyboardInterrupt
        return make_case(seed, number, (12, 14, 10))

    monkeypatch.setattr(synthetic, "make_case", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", 3)
    assert not list(tmp_path.iterdir())
