"""Which network, and which loss. Imports nothing heavy, so that --help is quick."""

import math
from dataclasses import dataclass, field
from typing import Literal

from mlproject.errors import SettingsError


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


@dataclass(frozen=True)
class DynUNetSettings:
    """MONAI's DynUNet: two convolutions a level, instance normalisation, leaky ReLU.

    Attributes:
        channels: channels of each level, from full resolution down; at least three levels.
        stem_stride: 2 halves the resolution in the first convolution, so that a step costs a fraction; the
            last layer predicts the 2³ voxels of each of its own at once.
        detail_channels: channels of two convolutions at full resolution that see the image again, where the stem
            halves it; without them (0) outlines are no finer than the stem's voxels.
        residual: whether each level's two convolutions have a residual sum.
        deep_supervision: whether the loss also sees outputs of the levels between the first and the last two.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    stem_stride: Literal[1, 2] = 2
    detail_channels: int = 8
    residual: bool = False
    deep_supervision: bool = False

    def __post_init__(self) -> None:
        if len(self.channels) < 3 or min(self.channels) < 1:
            raise SettingsError(
                f"network.dynunet.channels={list(self.channels)}: give three levels or more, each of 1 or "
                "more channels, as [16, 32, 64, 128]"
            )
        if self.detail_channels < 0:
            raise SettingsError(f"network.dynunet.detail_channels={self.detail_channels}: give 0 or more")


@dataclass(frozen=True)
class NetworkSettings:
    """Which network.

    Attributes:
        name: vnet is the paper's, dynunet is MONAI's, which learns faster.
        vnet: settings of the V-Net, if that is its name.
        dynunet: settings of the DynUNet, if that is its name.
    """

    name: Literal["vnet", "dynunet"] = "dynunet"
    vnet: VNetSettings = field(default_factory=VNetSettings)
    dynunet: DynUNetSettings = field(default_factory=DynUNetSettings)


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss's two terms; not both may be 0.

    Attributes:
        cross_entropy: weight of the mean binary cross-entropy, 0 or more.
        dice: weight of 1 - soft Dice, 0 or more.
        batch_dice: whether Dice is that of the whole batch, over all processes, or the mean over patches.
    """

    cross_entropy: float = 1.0
    dice: float = 1.0
    batch_dice: bool = False

    def __post_init__(self) -> None:
        weights = (self.cross_entropy, self.dice)
        if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise SettingsError(
                f"loss.cross_entropy={self.cross_entropy:g} and loss.dice={self.dice:g}: give two finite "
                "weights of 0 or more, not both 0"
            )
