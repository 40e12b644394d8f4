import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from mlproject.data.prepared_grid import Geometry, choose_geometry, mask_to_prepared, to_native, to_prepared

SHAPE = (14, 16, 12)
BRAIN = (slice(4, 10), slice(3, 13), slice(5, 9))


def brain() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[BRAIN] = True
    return mask


def oblique(*diagonal: float) -> np.ndarray:
    rotation = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(diagonal)
    affine[:3, 3] = [31, -17, 8]
    return affine


def test_the_crop_is_the_brain_and_its_margin() -> None:
    geometry = choose_geometry(brain(), np.diag([2.0, 2, 3, 1]), 4.0, None)
    assert geometry.native_shape == SHAPE
    assert geometry.shape == (
        6 + 4,
        10 + 4,
        4 + 4,
    )  # 2 voxels of 2 mm on each side; 4 mm of 3 mm voxels are 2
    np.testing.assert_allclose(np.array(geometry.affine)[:3, 3], [2 * 2, 1 * 2, 3 * 3])
    assert geometry.spacing_mm == geometry.native_spacing_mm == (2, 2, 3)


def test_the_margin_ends_where_the_volume_ends() -> None:
    assert choose_geometry(brain(), np.eye(4), 100.0, None).shape == SHAPE


@pytest.mark.parametrize(
    ("order", "signs"), list(zip(permutations(range(3)), list(product((1, -1), repeat=3)), strict=False))
)
def test_back_and_forth_is_exact_in_every_orientation(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = oblique(2, 2.5, 3)
    affine[:3, :3] = affine[:3, order] * signs
    geometry = choose_geometry(brain(), affine, 3.0, None)
    assert nib.aff2axcodes(np.array(geometry.affine)) == ("R", "A", "S")
    values = np.random.default_rng(0).random(geometry.shape, dtype=np.float32)
    native = to_native(values, geometry)
    np.testing.assert_array_equal(to_prepared(native, geometry), values)
    assert native.shape == SHAPE
    assert native.dtype == np.float32
    assert np.count_nonzero(native) == np.count_nonzero(values)  # zero outside the crop

    # Each value keeps its place in the scanner.
    index = np.array([1, 2, 3])
    place = np.linalg.inv(affine) @ np.array(geometry.affine) @ [*index, 1]
    i, j, k = np.rint(place[:3]).astype(int)
    np.testing.assert_allclose(place[:3], [i, j, k], atol=1e-9)
    assert native[i, j, k] == values[tuple(index)]


def test_a_spacing_within_rounding_is_not_resampled() -> None:
    geometry = choose_geometry(brain(), oblique(2.0004, 2, 3), 3.0, (2.0, 2.0, 3.0))
    assert geometry.spacing_mm == pytest.approx((2.0004, 2, 3))
    values = np.random.default_rng(0).random(geometry.shape, dtype=np.float32)
    np.testing.assert_array_equal(to_prepared(to_native(values, geometry), geometry), values)


def test_a_new_spacing_covers_the_crop_around_the_same_centre() -> None:
    affine = oblique(2, 2, 3)
    own, new = choose_geometry(brain(), affine, 0, None), choose_geometry(brain(), affine, 0, (1.5, 3.0, 2.0))
    assert new.spacing_mm == pytest.approx((1.5, 3.0, 2.0))
    assert new.shape == (8, 7, 6)  # 12, 20 and 12 mm
    centres = [np.array(g.affine) @ [*(np.array(g.shape) - 1) / 2, 1] for g in (own, new)]
    np.testing.assert_allclose(*centres, atol=1e-9)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0)])
def test_a_new_spacing_keeps_a_linear_ramp_in_its_place(spacing: tuple[float, float, float]) -> None:
    affine = oblique(-2, 2, 3)
    whole = np.ones(SHAPE, dtype=bool)
    geometry = choose_geometry(whole, affine, 0, spacing)
    ramp = np.array([1, 10, 100])

    def places(shape: tuple[int, ...], grid: np.ndarray) -> np.ndarray:
        return (np.moveaxis(np.indices(shape), 0, -1) @ grid[:3, :3].T + grid[:3, 3]) @ ramp

    native = places(SHAPE, affine).astype(np.float32)
    prepared = places(geometry.shape, np.array(geometry.affine)).astype(np.float32)
    inside = (slice(3, -3),) * 3
    core = (slice(2, -2), slice(2, -2), slice(3, -3))
    np.testing.assert_allclose(to_prepared(native, geometry)[core], prepared[core], atol=0.05)
    np.testing.assert_allclose(to_native(prepared, geometry)[inside], native[inside], atol=0.05)


def test_a_sphere_survives_a_round_trip_over_another_spacing() -> None:
    affine = oblique(-1, 1, 1.25)
    index = np.moveaxis(np.indices((32, 32, 26)), 0, -1)
    distance = np.linalg.norm((index - [15.5, 15.5, 12.5]) * [1, 1, 1.25], axis=-1)
    sphere = (1 / (1 + np.exp(distance - 10))).astype(np.float32)
    geometry = choose_geometry(sphere > 0.5, affine, 4.0, (1.5, 1.5, 1.5))
    back = to_native(to_prepared(sphere, geometry), geometry)
    assert back.min() >= 0
    assert back.max() <= sphere.max()
    overlap = 2 * np.sum((back >= 0.5) & (sphere >= 0.5)) / (np.sum(back >= 0.5) + np.sum(sphere >= 0.5))
    assert overlap > 0.95


@pytest.mark.parametrize("spacing", [None, (1.5, 1.5, 1.5)])
def test_probabilities_stay_probabilities(spacing: tuple[float, float, float] | None) -> None:
    geometry = choose_geometry(brain(), oblique(2, 2, 3), 0, spacing)
    native = to_native(np.ones(geometry.shape, dtype=np.float32), geometry)
    assert native.min() == 0
    assert native.max() == 1
    np.testing.assert_allclose(native[BRAIN], 1, atol=1e-6)
    outside = ~np.pad(np.ones((6, 10, 4), dtype=bool), [(4, 4), (3, 3), (5, 3)])
    assert not native[outside].any()


def test_a_geometry_survives_json() -> None:
    geometry = choose_geometry(brain(), oblique(2, 2, 3), 4.0, (1.5, 1.5, 1.5))
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_values_of_another_shape_are_a_mistake_of_the_caller() -> None:
    geometry = choose_geometry(brain(), np.eye(4), 0, None)
    with pytest.raises(ValueError, match="shape"):
        to_native(np.zeros(SHAPE, dtype=np.float32), geometry)


@pytest.mark.parametrize("spacing", [None, (1.5, 2.5, 2.0)])
def test_a_mask_moves_as_its_values_do(spacing: tuple[float, float, float] | None) -> None:
    affine = oblique(-2, 2, 3)
    geometry = choose_geometry(brain(), affine, 2, spacing)
    moved = mask_to_prepared(brain(), geometry)
    np.testing.assert_array_equal(moved, to_prepared(brain().astype(np.float32), geometry) >= 0.5)
    assert moved.any() and not moved.all()
