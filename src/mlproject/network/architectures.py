"""The networks, checked against the patch size: the paper's V-Net and MONAI's DynUNet."""

import math
from typing import Any

import torch
from monai.networks.layers.factories import Norm
from monai.networks.nets.dynunet import DynUNet
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn

from mlproject.errors import SettingsError
from mlproject.network.instance_norm import InstanceNorm
from mlproject.network.settings import DynUNetSettings, NetworkSettings
from mlproject.network.vnet import VNet

NORMALISATION = "INSTANCE_BY_VOXEL"  # under which MONAI finds ours
Norm.add_factory_class(NORMALISATION, InstanceNorm)
DETAIL_FEATURES = 4  # of the coarse network, that its branch at full resolution sees beside the image
LESION_PRIOR = 0.01  # share of lesion voxels that an untrained network predicts


class SupervisedDynUNet(nn.Module):
    """(B, in_channels, I, J, K) -> logits (B, 1, I, J, K); when training a list of logits.

    The list begins with those at full resolution; with deep supervision those of lower levels follow, each at
    half the resolution of the one before. Where the stem halves the resolution, every output layer predicts
    the 2³ voxels of each of its own as channels, which are then sorted into place (Shi et al., CVPR 2016), and
    a small branch at full resolution adds what the stem has lost.
    """

    def __init__(self, settings: DynUNetSettings, in_channels: int) -> None:
        super().__init__()
        levels = len(settings.channels)
        strides = [settings.stem_stride] + [2] * (levels - 1)
        self.stem_stride = settings.stem_stride
        with_detail = settings.stem_stride > 1 and settings.detail_channels > 0
        features = DETAIL_FEATURES if with_detail else 1
        self.detail = detail_branch(in_channels + features, settings.detail_channels) if with_detail else None
        self.network = DynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=features * settings.stem_stride**3,
            kernel_size=[3] * levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            norm_name=(NORMALISATION, {"affine": True}),
            filters=settings.channels,
            deep_supervision=settings.deep_supervision,
            deep_supr_num=levels - 2,
            res_block=settings.residual,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the lesion at every voxel."""
        network = self.network
        outputs = [network.output_block(network.skip_layers(x))]
        if network.deep_supervision:  # MONAI's own forward would blow all levels up to one size
            outputs += network.heads
            network.heads[:] = [torch.empty(0)] * len(network.heads)  # a kept graph cannot be copied
        blown_up = [pixelshuffle(output, 3, self.stem_stride) for output in outputs]
        logits = [features[:, :1] for features in blown_up]
        if self.detail is not None:
            logits[0] = logits[0] + self.detail(torch.cat([x, blown_up[0]], dim=1))
        return logits if self.training else logits[0]


def detail_branch(in_channels: int, channels: int) -> nn.Sequential:
    """Two convolutions at full resolution whose sum with the logits begins at zero."""
    last = nn.Conv3d(channels, 1, 3, padding=1)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv3d(in_channels, channels, 3, padding=1), nn.LeakyReLU(0.01, inplace=True), last)


def build_network(settings: NetworkSettings, in_channels: int, patch_size: tuple[int, int, int]) -> nn.Module:
    """An untrained network that predicts LESION_PRIOR on average, so that training starts near the truth.

    In evaluation mode it returns logits (B, 1, I, J, K); in training mode a list of logits, those at full
    resolution first.

    Raises:
        SettingsError: The network cannot take patches of `patch_size` voxels.
    """
    network: VNet | SupervisedDynUNet
    outputs: list[Any]
    levels = "network.vnet.convolutions" if settings.name == "vnet" else "network.dynunet.channels"
    _check_patch_size(patch_size, patch_divisor(settings), levels)
    if settings.name == "vnet":
        network = VNet(settings.vnet, in_channels)
        outputs = [network.output]
    else:
        network = SupervisedDynUNet(settings.dynunet, in_channels)
        heads = network.network.deep_supervision_heads if settings.dynunet.deep_supervision else []
        outputs = [block.conv.conv for block in (network.network.output_block, *heads)]
    for output in outputs:
        nn.init.constant_(output.bias, math.log(LESION_PRIOR / (1 - LESION_PRIOR)))
    return network


def patch_divisor(settings: NetworkSettings) -> int:
    """How many voxels become one at the lowest resolution: each axis of a patch must be a multiple of it."""
    if settings.name == "vnet":
        return int(2 ** len(settings.vnet.convolutions))
    return int(settings.dynunet.stem_stride * 2 ** (len(settings.dynunet.channels) - 1))


def _check_patch_size(patch_size: tuple[int, int, int], divisor: int, levels: str) -> None:
    """Each axis a multiple of `divisor`, and more than one voxel left at the lowest resolution."""
    if all(n % divisor == 0 for n in patch_size) and max(patch_size) > divisor:
        return
    below = [max(n // divisor, 1) * divisor for n in patch_size]
    above = [math.ceil(n / divisor) * divisor for n in patch_size]
    valid = [size if max(size) > divisor else [2 * divisor] * 3 for size in (below, above)]
    nearest = " or ".join(dict.fromkeys(map(str, valid)))
    raise SettingsError(
        f"patches.size={list(patch_size)}: this network halves the resolution till {divisor} voxels are one: "
        f"give multiples of {divisor}, one of them larger; the nearest are {nearest}. Fewer levels "
        f"({levels}) take others"
    )
