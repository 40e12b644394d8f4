import numpy as np
import pytest
import torch
import torchio as tio
from torch.nn import functional

from mlproject.data.affine import affine_to_source, margin_of, resample

ONE_MM = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("scales", "degrees"),
    [((1, 1, 1), (0, 0, 0)), ((1.1, 0.8, 1.3), (20, -35, 50)), ((0.5, 1, 1), (0, 0, 170)), ((1, 1, 1), (90, 0, 0))],
)
def test_the_matrix_is_torchios(scales: tuple[float, ...], degrees: tuple[float, ...]) -> None:
    probe = tio.ScalarImage(tensor=torch.zeros(1, 2, 2, 2))
    affine = tio.Affine(scales, degrees, translation=(0, 0, 0))  # type: ignore[arg-type]
    transform = affine.get_affine_transform(probe)  # type: ignore[no-untyped-call]
    centre, to_lps = np.array(probe.get_center(lps=True)), np.array([-1.0, -1.0, 1.0])
    for place in np.eye(3):
        expected = to_lps * (np.array(transform.TransformPoint(centre + to_lps * place)) - centre)
        np.testing.assert_allclose(affine_to_source(scales, degrees) @ place, expected, atol=1e-9)


def test_in_the_brain_values_are_those_of_grid_sample() -> None:
    size = (12, 14, 10)
    to_source = affine_to_source((1.1, 0.9, 1.0), (10, -20, 15))
    margin = margin_of(to_source, size, ONE_MM)
    shape = [n + 2 * m for n, m in zip(size, margin, strict=True)]
    image, brain = torch.randn(2, *shape), torch.randint(0, 2, (1, *shape), dtype=torch.uint8)
    moved, masks = resample(image, torch.cat([brain, brain]), to_source, margin, ONE_MM)
    voxels = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"), axis=-1)
    places = (voxels @ to_source.T * (2 / np.array(shape)))[..., ::-1].copy()  # names the last axis first
    grid = torch.from_numpy(places).float()[None]
    expected = functional.grid_sample(image[None], grid, "bilinear", align_corners=False)[0]
    inside = masks[0].bool()
    assert 0.3 < inside.float().mean() < 0.7
    torch.testing.assert_close(moved[:, inside], expected[:, inside], atol=1e-4, rtol=0)
    nearest = functional.grid_sample(brain[None].float(), grid, "nearest", align_corners=False)[0]
    assert (masks != nearest).float().mean() < 1e-3  # where a place lies half-way between two voxels
