"""Instance normalisation that stays in the memory format in which a CPU's convolutions are fast."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceNorm(nn.InstanceNorm3d):
    """nn.InstanceNorm3d with an affine part (Ulyanov et al. 2016), the same to rounding.

    On a CPU in channels_last_3d, PyTorch's own copies its input into the contiguous format, and the next convolution
    copies it back: together a fifth of the DynUNet's time.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, I, J, K): each channel of each image with mean 0 and variance 1, then scaled and shifted."""
        if input.is_cpu and input.dtype == self.weight.dtype and not input.is_contiguous():
            result: Tensor = _ByVoxel.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
            return result
        return super().forward(input)


class _ByVoxel(torch.autograd.Function):
    """The same by sums over the voxels (B, I * J * K, C), which are a view of what is in channels_last_3d."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        voxels = _by_voxel(x)
        centred = voxels - voxels.mean(1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
        normal = centred.mul_(scale)
        ctx.save_for_backward(normal, scale, weight)
        result = torch.empty_like(x, memory_format=torch.channels_last_3d)
        torch.addcmul(bias, normal, weight, out=_by_voxel(result))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, scale, weight = ctx.saved_tensors
        voxels = _by_voxel(gradient)
        mean, along = voxels.mean(1, keepdim=True), (voxels * normal).mean(1, keepdim=True)
        result = torch.empty_like(gradient, memory_format=torch.channels_last_3d)
        torch.addcmul(voxels - mean, normal, along, value=-1, out=_by_voxel(result)).mul_(weight * scale)
        count = voxels.shape[1]
        return result, along.sum((0, 1)) * count, mean.sum((0, 1)) * count, None


def _by_voxel(x: Tensor) -> Tensor:
    """(B, C, I, J, K) as (B, I * J * K, C)."""
    return x.permute(0, 2, 3, 4, 1).flatten(1, 3)
