"""Rotation and scaling of a patch about its centre.

PyTorch's grid_sample takes twice as long on a CPU, and about half of the voxels of a patch lie outside the brain,
where the image is 0 before and after: here the places in the brain alone are looked up.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Voxels = tuple[int, int, int]
Millimetres = tuple[float, float, float]


def affine_to_source(scales: Sequence[float], degrees: Sequence[float]) -> NDArray[np.float64]:
    """The matrix (3, 3) of TorchIO's Affine with these parameters, about the centre, in RAS axes.

    It leads from a place to the one that its value is taken from. TorchIO turns about the axes in the order of ITK's
    Euler3DTransform (y first, then x, then z), and scales what it has turned.
    """
    x, y, z = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    turned = about_z @ about_x @ about_y
    return np.asarray(turned.T @ np.diag(1 / np.asarray(scales)))


def margin_of(to_source: NDArray[np.float64], size: Voxels, spacing_mm: Millimetres) -> Voxels:
    """Voxels to cut around a patch of `size`, from which its corners are filled."""
    half = np.array(size) * spacing_mm / 2
    reach = np.abs(to_source) @ half  # of the corner that lies furthest out, on each axis
    i, j, k = (math.ceil(max(missing, 0.0)) + 1 for missing in (reach - half) / spacing_mm)
    return (i, j, k)


def resample(
    image: Tensor, masks: Tensor, to_source: NDArray[np.float64], margin: Voxels, spacing_mm: Millimetres
) -> tuple[Tensor, Tensor]:
    """Image (linear) and masks (nearest neighbour) without the margin, each voxel taken from its source.

    Args:
        image: float32 (C, I, J, K), margin included.
        masks: uint8 (2, I, J, K), 0 or 1; the first is the brain, outside which the image's value does not matter.
        to_source: (3, 3), from a place to its source, both in mm from the centre.
        margin: at least `margin_of`, so that no source lies outside the arrays.
        spacing_mm: voxel size, so that rotating anisotropic voxels does not shear.
    """
    shape, device = image.shape[1:], image.device
    size = [n - 2 * around for n, around in zip(shape, margin, strict=True)]
    i, j, k = (torch.arange(n, device=device) - (n - 1) / 2 for n in size)
    in_voxels = (np.diag(1 / np.array(spacing_mm)) @ to_source @ np.diag(spacing_mm)).tolist()
    middles = [(n - 1) / 2 for n in shape]
    sources = [
        (a * i + middle)[:, None, None] + ((b * j)[:, None] + c * k)
        for (a, b, c), middle in zip(in_voxels, middles, strict=True)
    ]
    nearest = _position([place.round() for place in sources], shape).flatten()
    # Both masks in one byte: looking up is what takes the time.
    codes = (masks[0] + 2 * masks[1]).flatten().index_select(0, nearest).reshape(size)
    moved_masks = torch.stack([codes & 1, codes >> 1])
    moved = image.new_zeros(len(image), *size)
    if device.type == "cpu":
        brain = moved_masks[0].flatten().nonzero()[:, 0]
        values = _linear(image, [place.flatten().index_select(0, brain) for place in sources])
        moved.flatten(1).index_copy_(1, brain, values)
    else:  # to ask how many voxels are brain would make the GPU wait
        moved.flatten(1).copy_(_linear(image, [place.flatten() for place in sources]))
    return moved, moved_masks


def _linear(image: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Values (C, N) of an image (C, I, J, K) at N places, given as voxels along each axis; linear between voxels."""
    lower = [place.floor() for place in places]
    x, y, z = (place - below for place, below in zip(places, lower, strict=True))
    first, values = _position(lower, image.shape[1:]), image.flatten(1)
    along_j, along_k = image.shape[3], 1
    along_i = image.shape[2] * image.shape[3]

    def corner(offset: int) -> Tensor:
        return values.index_select(1, first + offset)

    columns = [
        torch.lerp(corner(i * along_i + j * along_j), corner(i * along_i + j * along_j + along_k), z)
        for i, j in product(range(2), range(2))
    ]
    return torch.lerp(torch.lerp(columns[0], columns[1], y), torch.lerp(columns[2], columns[3], y), x)


def _position(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Positions in the flattened volume of `shape` of voxels that are given by whole numbers along each axis."""
    i, j, k = (place.to(torch.int32) for place in places)
    return i.mul_(shape[1]).add_(j).mul_(shape[2]).add_(k)
