"""The V-shaped network of Monteiro and Oliveira (ISLES 2017), after Milletari et al., V-Net (3DV 2016)."""

import torch
from torch import Tensor, nn

from mlproject.network.instance_norm import InstanceNorm
from mlproject.network.settings import VNetSettings

PRELU_SLOPE = 0.1  # the paper's start value; learnt, one slope per channel


class VNet(nn.Module):
    """(B, in_channels, I, J, K) -> logits (B, 1, I, J, K), in a list of one when training.

    Each axis is a multiple of 2 ** levels.

    Going down, each level is a residual block and a strided 2³ convolution that doubles the channels. Going
    up, it is a transposed 2³ convolution and a block over these features and those of the way down, side by
    side; the residual sum there is with the upsampled features.
    """

    def __init__(self, settings: VNetSettings, in_channels: int) -> None:
        super().__init__()
        channels = [settings.channels * 2**level for level in range(len(settings.convolutions) + 1)]
        steps = list(zip(channels[:-1], channels[1:], settings.convolutions, strict=True))
        width = settings.input_kernel
        self.input = _Unit(nn.Conv3d(in_channels, channels[0], width, padding=width // 2), settings)
        self.encoder = nn.ModuleList(_Block(high, high, count, settings) for high, _, count in steps)
        self.down = nn.ModuleList(_Unit(nn.Conv3d(high, low, 2, stride=2), settings) for high, low, _ in steps)
        self.bottom = _Block(channels[-1], channels[-1], settings.bottom_convolutions, settings)
        self.up = nn.ModuleList(_Unit(nn.ConvTranspose3d(low, high, 2, stride=2), settings) for high, low, _ in steps)
        self.decoder = nn.ModuleList(_Block(2 * high, high, count, settings) for high, _, count in steps)
        self.output = nn.Conv3d(channels[0], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.xavier_uniform_(module.weight)  # as in the authors' code

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the lesion at every voxel."""
        x = self.input(x)
        skipped = []
        for block, down in zip(self.encoder, self.down, strict=True):
            skipped.append(block(x, residual=x))
            x = down(skipped[-1])
        x = self.bottom(x, residual=x)
        for block, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = up(x)
            x = block(torch.cat((x, skipped.pop()), dim=1), residual=x)
        logits: Tensor = self.output(x)
        return [logits] if self.training else logits


class _Block(nn.Module):
    """Convolutions in a row; `residual` is added before the last activation, as He et al. (CVPR 2016) do."""

    def __init__(self, in_channels: int, channels: int, count: int, settings: VNetSettings) -> None:
        super().__init__()
        width, inputs = settings.kernel, [in_channels] + [channels] * (count - 1)
        self.units = nn.ModuleList(_Unit(nn.Conv3d(n, channels, width, padding=width // 2), settings) for n in inputs)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        for unit in self.units[:-1]:
            x = unit(x)
        result: Tensor = self.units[-1](x, residual)
        return result


class _Unit(nn.Module):
    """Convolution, normalisation, activation."""

    def __init__(self, convolution: nn.Conv3d | nn.ConvTranspose3d, settings: VNetSettings) -> None:
        super().__init__()
        channels = convolution.out_channels
        self.convolution = convolution
        self.normalisation = (
            InstanceNorm(channels, affine=True) if settings.normalisation == "instance" else nn.Identity()
        )
        self.activation = {
            "prelu": nn.PReLU(channels, init=PRELU_SLOPE),
            "relu": nn.ReLU(),
            "leakyrelu": nn.LeakyReLU(),
        }[settings.activation]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.normalisation(self.convolution(x))
        result: Tensor = self.activation(x if residual is None else x + residual)
        return result
