"""Spacing, patch and batch size that a data set suggests."""

import math

import pytest

from mlproject.training.plan import choose_batch, choose_patch, choose_spacing

BRAIN = (80, 96, 72)


@pytest.mark.parametrize(
    ("spacings", "shapes", "expected"),
    [
        ([(2, 2, 2)] * 3, [BRAIN] * 3, None),
        ([(2, 2, 2), (2.01, 2, 2), (2, 1.99, 2)], [BRAIN] * 3, None),  # header rounding
        ([(1, 1, 5)] * 3, [(160, 190, 29)] * 3, None),  # anisotropic, but all alike: nnU-Net keeps it
        ([(1, 1, 1), (2, 2, 2), (3, 3, 3)], [BRAIN] * 3, (2, 2, 2)),
        ([(1, 1, 2)] * 5 + [(1, 1, 3)] * 5, [BRAIN] * 10, (1, 1, 2.5)),  # not yet strongly anisotropic
        # strongly: the 10th percentile of 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6
        ([(1, 1, 5)] * 4 + [(1, 1, 6)] * 7, [(160, 190, 25)] * 11, (1, 1, 5)),
        # never finer than the other axes
        ([(1, 1, 0.5)] * 4 + [(1, 1, 6)] * 7, [(160, 190, 25)] * 11, (1, 1, 1)),
    ],
)
def test_spacing(
    spacings: list[tuple[float, float, float]],
    shapes: list[tuple[int, int, int]],
    expected: tuple[float, float, float] | None,
) -> None:
    assert choose_spacing(spacings, shapes)[0] == expected


@pytest.mark.parametrize(
    ("shape", "spacing", "most", "expected"),
    [
        ((80, 97, 73), (2, 2, 2), 64**3, (64, 64, 64)),
        ((80, 97, 73), (2, 2, 2), 10**9, (80, 96, 80)),  # the whole brain, to the nearest multiple
        ((140, 176, 133), (1, 1, 1), 128**3, (128, 128, 128)),
        ((160, 190, 25), (1, 1, 5), 64**3, (128, 128, 16)),  # wide where voxels are fine, and flat
        ((160, 190, 25), (1, 1, 5), 1, (16, 32, 16)),  # the smallest there is
        ((10, 10, 10), (2, 2, 2), 64**3, (32, 16, 16)),  # smaller than any patch
    ],
)
def test_patch(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], most: int, expected: tuple[int, int, int]
) -> None:
    patch = choose_patch(shape, spacing, 16, most)
    assert math.prod(patch) <= max(most, 32 * 16 * 16)
    assert patch == expected


def test_batch() -> None:
    assert choose_batch((64, 64, 64), 64**3) == 2
    assert choose_batch((64, 64, 64), 4 * 64**3) == 4
