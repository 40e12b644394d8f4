import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlproject.data.case import Case
from mlproject.data.preprocessing import PreprocessingSettings, prepare, to_native
from mlproject.data.volumes import Volume, read_volume
from mlproject.errors import DataError, SettingsError

SHAPE = (14, 16, 12)
BRAIN = (slice(4, 10), slice(3, 13), slice(5, 9))
AFFINE = np.diag([-2.0, 2, 3, 1])


def volume(seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    image = np.zeros((2, *SHAPE), dtype=np.float32)
    image[(slice(None), *BRAIN)] = rng.normal([[[[300]]], [[[2]]]], [[[[40]]], [[[0.5]]]], (2, 6, 10, 4))
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[5:8, 4:8, 6:8] = 1
    return Volume("sub-1", image, label, AFFINE, {"dwi": "d", "adc": "a"})


def test_z_scores_in_the_brain_and_zero_outside() -> None:
    case = prepare(volume(), PreprocessingSettings(clip_sd=None))
    assert case.image.dtype == np.float32
    assert case.brain.sum() == 240
    for channel in case.image:
        assert channel[case.brain].mean() == pytest.approx(0, abs=1e-5)
        assert channel[case.brain].std() == pytest.approx(1, abs=1e-5)
        assert not channel[~case.brain].any()


def test_nothing_leaks_out_of_the_brain_when_resampled() -> None:
    case = prepare(volume(), PreprocessingSettings(spacing_mm=(1.5, 1.5, 1.5)))
    assert not case.image[:, ~case.brain].any()
    assert case.brain.sum() * 1.5**3 == pytest.approx(240 * 12, rel=0.1)


def test_z_scores_do_not_depend_on_scanner_units() -> None:
    scaled = replace(volume(), image=volume().image * np.array([7, 1e-6], dtype=np.float32)[:, None, None, None])
    settings = PreprocessingSettings()
    np.testing.assert_allclose(prepare(scaled, settings).image, prepare(volume(), settings).image, atol=1e-4)


def test_z_scores_are_clipped() -> None:
    hot = volume()
    hot.image[0, 6, 6, 6] = 1e5
    assert prepare(hot, PreprocessingSettings(clip_sd=2.5)).image.max() == pytest.approx(2.5)
    assert prepare(hot, PreprocessingSettings(clip_sd=None)).image.max() > 10


def test_a_short_field_of_view_takes_no_part_in_the_normalisation() -> None:
    short = volume()
    short.image[1, :, :, 8:] = 0
    short.image[1, 6, 6, 6] = 0  # enclosed by tissue: measured, and dark
    case = prepare(short, PreprocessingSettings(crop_margin_mm=0, clip_sd=None))
    measured = case.image[1, :, :, :3]
    assert measured.mean() == pytest.approx(0, abs=1e-5)
    assert measured.std() == pytest.approx(1, abs=1e-5)
    assert measured.min() < -3
    assert not case.image[1, :, :, 3:].any()


def test_labels_and_digests_are_carried_along() -> None:
    case = prepare(volume(), PreprocessingSettings())
    assert case.name == "sub-1"
    assert case.channel_digests == {"dwi": "d", "adc": "a"}
    np.testing.assert_array_equal(case.native_label, volume().label)
    np.testing.assert_array_equal(to_native(case.label.astype(np.float32), case.geometry), volume().label)
    assert case.label.dtype == np.uint8
    unlabelled = prepare(replace(volume(), label=None), PreprocessingSettings())
    assert unlabelled.label is None
    assert unlabelled.native_label is None


@pytest.mark.parametrize("spacing", [None, (2.5, 2.0, 2.0)])
def test_storage_order_does_not_change_what_the_network_sees(
    spacing: tuple[float, float, float] | None,
) -> None:
    # The same scan stored as sagittal slices, head to foot: axes J, K, I with J and K reversed.
    axial = volume()
    stored = np.array([[0, 0, 1, 0], [-1, 0, 0, SHAPE[1] - 1], [0, -1, 0, SHAPE[2] - 1], [0, 0, 0, 1]])

    def sagittal(values: np.ndarray) -> np.ndarray:
        return values.transpose(1, 2, 0)[::-1, ::-1]

    other = Volume(
        "sub-1",
        np.stack([sagittal(channel) for channel in axial.image]),
        sagittal(axial.label),
        AFFINE @ stored,
        axial.channel_digests,
    )
    settings = PreprocessingSettings(spacing_mm=spacing)
    expected, case = prepare(axial, settings), prepare(other, settings)
    np.testing.assert_allclose(case.image, expected.image, atol=1e-4)
    np.testing.assert_array_equal(case.label, expected.label)
    np.testing.assert_allclose(case.geometry.affine, expected.geometry.affine, atol=1e-9)
    back = to_native(case.image[0], case.geometry)
    np.testing.assert_allclose(back, sagittal(to_native(expected.image[0], expected.geometry)), atol=1e-4)


def test_preparing_twice_gives_the_same_bytes() -> None:
    settings = PreprocessingSettings(spacing_mm=(2.5, 2.5, 2.5))
    first, second = prepare(volume(), settings), prepare(volume(), settings)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.geometry == second.geometry


def test_a_channel_without_contrast_in_the_brain_is_refused() -> None:
    flat = volume()
    flat.image[1][BRAIN] = 0.1
    flat.image[1, 0, 0, 0] = 9
    with pytest.raises(DataError, match="sub-1: adc: constant or missing"):
        prepare(flat, PreprocessingSettings())
    flat.image[1][BRAIN] = 0
    with pytest.raises(DataError, match="sub-1: adc: constant or missing"):
        prepare(flat, PreprocessingSettings())


def test_no_brain_is_refused() -> None:
    with pytest.raises(DataError, match="sub-1: no brain found"):
        prepare(replace(volume(), image=np.zeros((2, *SHAPE), dtype=np.float32)), PreprocessingSettings())


def test_a_lesion_outside_the_brain_mask_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    outside = volume()
    outside.label[0, 0, 0] = 1
    with caplog.at_level(logging.WARNING):
        prepare(outside, PreprocessingSettings())
    assert "1 of 25 lesion voxels lie outside the brain mask" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing_mm": (1.0, 0.0, 1.0)},
        {"spacing_mm": (1.0, float("nan"), 1.0)},
        {"crop_margin_mm": -1.0},
        {"clip_sd": 0.0},
        {"clip_sd": float("nan")},
        {"brain_mask": "bet"},
    ],
)
def test_settings_without_meaning_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"preprocessing.{next(iter(wrong))}="):
        PreprocessingSettings(**wrong)


def test_the_real_case_returns_to_its_own_grid(lesion_data: Path) -> None:
    folder = lesion_data / "isles22"
    images = {c: next(folder.rglob(f"*_{c}.nii.gz")) for c in ("dwi", "adc")}
    real = read_volume(Case("real", images, next(folder.rglob("*_msk.nii.gz")), "real"))
    case = prepare(real, PreprocessingSettings())
    np.testing.assert_array_equal(to_native(case.label.astype(np.float32), case.geometry), real.label)
    assert 1.2 < case.brain.sum() * real.voxel_ml / 1000 < 1.7  # litres
    assert case.label[case.brain].sum() == real.label.sum()
