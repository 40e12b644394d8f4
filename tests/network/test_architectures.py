import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlproject.errors import SettingsError
from mlproject.network.architectures import DynUNetSettings, NetworkSettings, build_network
from mlproject.network.vnet import VNetSettings

SIZE = (16, 24, 16)


def vnet(**settings: Any) -> NetworkSettings:
    return NetworkSettings("vnet", vnet=VNetSettings(**({"channels": 2, "convolutions": (1, 2)} | settings)))


def dynunet(**settings: Any) -> NetworkSettings:
    return NetworkSettings(
        "dynunet", dynunet=DynUNetSettings(**({"channels": (4, 6, 8), "deep_supervision": True} | settings))
    )


VARIANTS = {
    "vnet": vnet(),
    "vnet, three levels": vnet(convolutions=(2, 1, 3), bottom_convolutions=1, kernel=5, input_kernel=3),
    "vnet, instance, relu": vnet(normalisation="instance", activation="relu"),
    "vnet, leakyrelu": vnet(activation="leakyrelu"),
    "dynunet": dynunet(),
    "dynunet, stride 1": dynunet(stem_stride=1),
    "dynunet, residual": dynunet(residual=True),
    "dynunet, no detail": dynunet(detail_channels=0),
    "dynunet, one output": dynunet(deep_supervision=False),
    "dynunet, four levels": dynunet(channels=(2, 3, 4, 5), stem_stride=1),
}


def build(settings: NetworkSettings, size: tuple[int, int, int] = SIZE) -> nn.Module:
    torch.manual_seed(0)
    return build_network(settings, in_channels=2, patch_size=size)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def network(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


def image() -> Tensor:
    return torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(1))


def test_evaluation_gives_logits_and_training_a_list_that_begins_with_the_same(network: nn.Module) -> None:
    logits = network.eval()(image())
    outputs = network.train()(image())
    assert logits.shape == (2, 1, *SIZE)
    assert isinstance(outputs, list)
    assert torch.allclose(outputs[0], logits, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reductions"),
    [
        (vnet(), [1]),
        (dynunet(), [1, 2]),
        (dynunet(deep_supervision=False), [1]),
        (dynunet(channels=(2, 3, 4, 5), stem_stride=1), [1, 2, 4]),
    ],
)
def test_deep_supervision_gives_every_level_but_the_lowest_two(
    settings: NetworkSettings, reductions: list[int]
) -> None:
    outputs = build(settings).train()(image())
    assert [tuple(output.shape[2:]) for output in outputs] == [tuple(n // r for n in SIZE) for r in reductions]


def test_every_parameter_has_a_part_in_the_outputs(network: nn.Module) -> None:
    """Distributed training waits for ever for a parameter without a gradient."""
    sum(output.square().sum() for output in network.train()(image())).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_an_untrained_network_predicts_few_lesion_voxels(network: nn.Module) -> None:
    probability = network.eval()(image()).sigmoid().mean().item()
    assert 0.001 < probability < 0.1


def test_weights_survive_a_file_and_a_network_in_training_can_be_copied(network: nn.Module, tmp_path: Path) -> None:
    network.train()(image())
    copied = copy.deepcopy(network)  # a moving average of weights does that
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)
    copied.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(copied.eval()(image()), network.eval()(image()))


def test_names_of_weights_stay() -> None:
    """Checkpoints and registered models name their weights so."""
    names = set(build(vnet()).state_dict())
    assert {"input.convolution.weight", "encoder.1.units.1.activation.weight", "up.0.convolution.bias"} <= names
    names = set(build(dynunet()).state_dict())
    assert {
        "network.input_block.conv1.conv.weight",
        "network.deep_supervision_heads.0.conv.conv.bias",
        "detail.0.weight",
    } <= names


def test_the_papers_vnet_has_the_parameters_counted_by_hand() -> None:
    """For k³ kernels, k³ · in · out weights, and per output channel one bias and one PReLU slope."""
    network = build_network(NetworkSettings("vnet"), in_channels=2, patch_size=(32, 32, 32))
    parts = {
        "input": 125 * 2 * 16 + 2 * 16,
        "level 1, down and up": (27 * 16 * 16 + 32) + (27 * 32 * 16 + 32),
        "level 2, down and up": 2 * (27 * 32 * 32 + 64) + (27 * 64 * 32 + 64) + (27 * 32 * 32 + 64),
        "level 3, down and up": 3 * (27 * 64 * 64 + 128) + (27 * 128 * 64 + 128) + 2 * (27 * 64 * 64 + 128),
        "level 4, down and up": 3 * (27 * 128**2 + 256) + (27 * 256 * 128 + 256) + 2 * (27 * 128**2 + 256),
        "bottom": 3 * (27 * 256 * 256 + 512),
        "2³ down": 8 * 16 * 32 + 64 + 8 * 32 * 64 + 128 + 8 * 64 * 128 + 256 + 8 * 128 * 256 + 512,
        "2³ up": 8 * 256 * 128 + 256 + 8 * 128 * 64 + 128 + 8 * 64 * 32 + 64 + 8 * 32 * 16 + 32,
        "output": 16 + 1,
    }
    assert sum(parts.values()) == 10_044_081
    assert sum(parameter.numel() for parameter in network.parameters()) == 10_044_081
    slopes = [module.weight for module in network.modules() if isinstance(module, nn.PReLU)]
    assert all((slope == 0.1).all() for slope in slopes)


def test_the_papers_vnet_sees_as_far_as_counted_by_hand() -> None:
    """From a voxel of the output back to the image; a convolution of width 3 adds 1 on each side.

    Going back, the numbers are the first and the last voxel seen at each resolution, from output voxel 0 on:
    16 channels -1..1; 32: -1..0, two convolutions -3..2; 64: -2..1, three -5..4; 128: -3..2, three -6..5; bottom
    -3..2, three -6..5; back up the way down, which doubles: 128: -12..11, -15..14; 64: -30..29, -33..32; 32: -66..65,
    -68..67; 16: -136..135, -137..136; and the input convolution of width 5: -139..138. In all 278 voxels.
    """
    network = build_network(NetworkSettings("vnet", vnet=VNetSettings(channels=1)), 1, (16, 16, 32)).double().eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)  # all positive, so that nothing cancels
    image = torch.ones(1, 1, 304, 16, 16, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, 144, 0, 0].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    seen = image.grad[0, 0].abs().amax(dim=(1, 2)).nonzero().flatten()
    assert (int(seen[0]) - 144, int(seen[-1]) - 144, len(seen)) == (-139, 138, 278)


def spread(network: nn.Module, *silenced: str) -> float:
    """How much the output varies over an image, after the convolutions under these names became 0."""
    for name, module in network.named_modules():
        if name.startswith(silenced) and isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.zeros_(module.weight)
    with torch.no_grad():
        return float(network.eval()(image()).std())


def test_vnet_has_residual_sums_and_skip_connections() -> None:
    assert spread(build(vnet()), "encoder", "bottom", "decoder") > 1e-4  # only the sums lead through
    assert spread(build(vnet()), "down", "up") > 1e-4  # only the skip connections do
    assert spread(build(vnet()), "down", "up", "decoder") < 1e-6


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        (NetworkSettings("vnet"), 16),
        (vnet(convolutions=(1,)), 2),
        (NetworkSettings("dynunet"), 16),
        (dynunet(stem_stride=1), 4),
    ],
)
def test_the_smallest_valid_patch_is_taken_and_others_refused(settings: NetworkSettings, divisor: int) -> None:
    valid = (divisor, divisor, 2 * divisor)
    assert len(build(settings, valid).train()(torch.randn(1, 2, *valid))[0]) == 1
    for size in itertools.permutations((2 * divisor, 2 * divisor + 1, 4 * divisor)):
        with pytest.raises(SettingsError, match=f"multiples of {divisor}"):
            build(settings, size)
    with pytest.raises(SettingsError, match="one of them larger"):
        build(settings, (divisor, divisor, divisor))


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((60, 64, 50), r"are \[48, 64, 48\] or \[64, 64, 64\]\."),
        ((5, 64, 33), r"are \[16, 64, 32\] or \[16, 64, 48\]\."),
        ((16, 16, 16), r"are \[32, 32, 32\]\."),
    ],
)
def test_the_nearest_valid_patch_sizes_are_named(size: tuple[int, int, int], nearest: str) -> None:
    with pytest.raises(SettingsError, match=nearest):
        build(NetworkSettings("dynunet"), size)


@pytest.mark.parametrize(
    ("kind", "wrong", "named"),
    [
        (VNetSettings, {"channels": 0}, "network.vnet.channels"),
        (VNetSettings, {"convolutions": ()}, "network.vnet.convolutions"),
        (VNetSettings, {"convolutions": (1, 0)}, "network.vnet.convolutions"),
        (VNetSettings, {"bottom_convolutions": 0}, "network.vnet.bottom_convolutions"),
        (VNetSettings, {"kernel": 4}, "network.vnet.kernel"),
        (VNetSettings, {"input_kernel": -1}, "network.vnet.input_kernel"),
        (DynUNetSettings, {"channels": (8, 16)}, "network.dynunet.channels"),
        (DynUNetSettings, {"channels": (8, 0, 16)}, "network.dynunet.channels"),
    ],
)
def test_wrong_settings_are_refused_by_name(kind: Any, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        kind(**wrong)
