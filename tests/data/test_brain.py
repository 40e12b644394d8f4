import logging

import numpy as np
import pytest
from scipy import ndimage

from mlproject.data.brain import brain_mask, fill_holes


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    centre = (np.array(shape) - 1) / 2
    return np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1) < radius


def test_stripped_brain_is_its_nonzero_voxels_without_specks_and_holes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    brain = ball((20, 20, 20), 7)
    image = np.where(brain, np.float32(100), np.float32(0))
    image[9:11, 9:11, 9:11] = 0  # a ventricle
    image[0, 0, 0] = 50  # a speck of scalp
    image[:, :, :10] += 1e-5  # interpolation noise
    image[8, 5, 8] = -3  # a negative voxel of tissue
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(brain_mask(image, "auto", "c"), brain)
    assert not caplog.text


def test_without_stripping_auto_uses_otsu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    head = ball((20, 20, 20), 7)
    image = (np.where(head, 100, 10) + rng.normal(0, 3, head.shape)).astype(np.float32)
    image[10, 10, 10] = 30000  # one hot voxel must not blind the histogram
    with caplog.at_level(logging.INFO):
        mask = brain_mask(image, "auto", "sub-7")
    assert "sub-7: 100% of the voxels are not zero" in caplog.text
    np.testing.assert_array_equal(mask, head)
    assert brain_mask(image, "nonzero", "sub-7").all()


def test_otsu_can_be_asked_for() -> None:
    brain = ball((20, 20, 20), 7)
    image = np.where(brain, 100, 0).astype(np.float32)
    image[ndimage.binary_dilation(brain, iterations=2) & ~brain] = 5
    assert brain_mask(image, "auto", "c").sum() > brain.sum()
    np.testing.assert_array_equal(brain_mask(image, "otsu", "c"), brain)


def test_nothing_gives_an_empty_mask() -> None:
    for method in ("auto", "nonzero", "otsu"):
        assert not brain_mask(np.zeros((4, 4, 4), dtype=np.float32), method, "c").any()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.97])
def test_holes_are_filled_as_scipy_fills_them(share: float) -> None:
    mask = np.random.default_rng(0).random((15, 18, 12)) < share
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
