"""What a training step of a network costs, measured on a small patch: memory and time for each voxel."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlproject.network.architectures import build_network, patch_divisor
from mlproject.network.losses import SegmentationLoss
from mlproject.network.settings import LossSettings, NetworkSettings

WORKING_FACTOR = 2.0
"""The peak of a step over what the backward pass keeps, weights left out; it was 1.0 to 2.2 in whole steps on a CPU."""
PATCHES = 2  # of one alone a voxel takes two to six times as long, in PyTorch 2.13 on a CPU
STATES_OF_A_WEIGHT = 4
"""The weight itself, its gradient, and the two moments of AdamW (Adagrad has one)."""


@dataclass(frozen=True)
class StepCost:
    """What one optimizer step costs.

    Attributes:
        saved_bytes_per_voxel: activations that the forward pass keeps for the backward pass, for each voxel of the
            patches; it does not depend on how large they are.
        weight_bytes: of the weights alone.
        core_seconds_per_voxel: forward and backward pass on one core of this machine's CPU.
    """

    saved_bytes_per_voxel: float
    weight_bytes: int
    core_seconds_per_voxel: float

    def step_bytes(self, voxels: int) -> float:
        """Estimated peak memory of a step on `voxels` voxels, all patches together, in float32."""
        return self.saved_bytes_per_voxel * WORKING_FACTOR * voxels + STATES_OF_A_WEIGHT * self.weight_bytes

    def most_voxels(self, memory_bytes: float) -> int:
        """The most voxels, all patches together, of which a step stays within `memory_bytes`; 0 or more."""
        left = memory_bytes - STATES_OF_A_WEIGHT * self.weight_bytes
        return max(0, int(left / (self.saved_bytes_per_voxel * WORKING_FACTOR)))


def measure_step(settings: NetworkSettings, loss: LossSettings, channels: int) -> StepCost:
    """Measure a network's training step on the CPU, with two patches twice as wide as its smallest.

    What autograd saves is counted by torch.autograd.graph.saved_tensors_hooks, each storage once; weights are no
    activations. Torch's global random generator is left as it was.
    """
    side = 2 * patch_divisor(settings)
    voxels = PATCHES * side**3
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings, channels, (side, side, side))
        image = torch.randn(PATCHES, channels, side, side, side)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=torch.channels_last_3d)
    label = (image[:, :1] > 1).float()
    criterion = SegmentationLoss(loss)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = criterion(network(image), label).total
    total.backward()
    return StepCost(
        saved_bytes_per_voxel=sum(storage.nbytes() for storage in saved.values()) / voxels,
        weight_bytes=sum(weight.nbytes for weight in network.parameters()),
        core_seconds_per_voxel=_core_seconds(lambda: criterion(network(image), label).total.backward()) / voxels,
    )


def _core_seconds(step: Callable[[], None]) -> float:
    """The processor time of the quicker of two steps with one thread: what else the machine does counts little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(2):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return min(times)
