"""The measured cost of a training step."""

import pytest
import torch

from mlproject.network.architectures import DynUNetSettings, NetworkSettings, build_network
from mlproject.network.losses import LossSettings
from mlproject.network.memory import STATES_OF_A_WEIGHT, measure_step

SMALL = NetworkSettings(dynunet=DynUNetSettings(channels=(4, 4, 4), stem_stride=1))
WIDE = NetworkSettings(dynunet=DynUNetSettings(channels=(8, 8, 8), stem_stride=1))


def test_saved_activations() -> None:
    small, wide = (measure_step(settings, LossSettings(), 2) for settings in (SMALL, WIDE))
    # Two blocks of two convolutions at full resolution: each keeps its 4 channels of float32 at least once.
    assert small.saved_bytes_per_voxel > 4 * 4 * 4
    assert 1.7 * small.saved_bytes_per_voxel < wide.saved_bytes_per_voxel < 2 * small.saved_bytes_per_voxel
    assert small.core_seconds_per_voxel > 0


def test_weights_are_counted_once_and_apart() -> None:
    settings = NetworkSettings(dynunet=DynUNetSettings(channels=(4, 4, 512), stem_stride=1))
    cost = measure_step(settings, LossSettings(), 2)
    weights = sum(weight.numel() for weight in build_network(settings, 2, (8, 8, 8)).parameters())
    assert cost.weight_bytes == 4 * weights
    assert cost.saved_bytes_per_voxel * 8**3 < cost.weight_bytes
    assert cost.step_bytes(0) == STATES_OF_A_WEIGHT * 4 * weights


def test_most_voxels_is_what_fits() -> None:
    cost = measure_step(SMALL, LossSettings(), 2)
    memory = 50e6
    most = cost.most_voxels(memory)
    assert cost.step_bytes(most) <= memory < cost.step_bytes(most + 2)
    assert cost.most_voxels(10) == 0


def test_global_generator_and_threads_are_left_alone() -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    measure_step(SMALL, LossSettings(), 1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels: int) -> None:
    assert measure_step(SMALL, LossSettings(), channels).most_voxels(1e9) > 0
