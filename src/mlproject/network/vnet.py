"""The V-shaped network of Monteiro and Oliveira (ISLES 2017), after Milletari et al., V-Net (3DV 2016)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mlproject.errors import SettingsError

PRELU_SLOPE = 0.1  # the paper's start value; learnt, one slope per channel


@dataclass(frozen=True)
class VNetSettings:
    """The V-Net. The defaults are the paper's; `kernel` 5 is what its authors' public code has.

    Attributes:
        channels: channels after the input convolution; they double at each lower level.
        convolutions: convolutions of each level, from full resolution down; one number for each level.
        bottom_convolutions: convolutions at the lowest resolution.
        input_kernel: width of the input convolution, in voxels, odd.
        kernel: width of the levels' convolutions, in voxels, odd.
        normalisation: what follows each convolution; the paper has none.
        activation: prelu starts with slope 0.1, as in the paper; leakyrelu has the fixed slope 0.01.
    """

    channels: int = 16
    convolutions: tuple[int, ...] = (1, 2, 3, 3)
    bottom_convolutions: int = 3
    input_kernel: int = 5
    kernel: int = 3
    normalisation: Literal["none", "instance"] = "none"
    activation: Literal["prelu", "relu", "leakyrelu"] = "prelu"

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise SettingsError(f"network.vnet.channels={self.channels}: give 1 or more")
        if not self.convolutions or min(*self.convolutions, self.bottom_convolutions) < 1:
            raise SettingsError(
                f"network.vnet.convolutions={list(self.convolutions)} and network.vnet.bottom_convolutions="
                f"{self.bottom_convolutions}: give one level or more, each with 1 convolution or more"
            )
        for name in ("input_kernel", "kernel"):
            width = getattr(self, name)
            if width < 1 or width % 2 == 0:
                raise SettingsError(f"network.vnet.{name}={width}: give an odd number of voxels, as 3 or 5")


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
            nn.InstanceNorm3d(channels, affine=True) if settings.normalisation == "instance" else nn.Identity()
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
