"""How a network and its loss run in training: as Python says, compiled, or as a recorded CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mlproject.network.losses import SegmentationLoss
from mlproject.training.settings import TrainingSettings

Losses = tuple[Tensor, Tensor, Tensor]
"""Total (with a gradient), cross-entropy and 1 - soft Dice, scalars on the device; see LossTerms."""
Compute = Callable[[Tensor, Tensor], Losses]


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Within, in this thread: numbers too small for full precision count as 0; with them a step takes 30 times as long.

    Around PyTorch alone: SciPy's KDTree never ends where no number lies between 0 and the others.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def begin_threads() -> None:
    """Begin PyTorch's threads, which keep the mode that they begin in, as `denormals_as_zero`."""
    with denormals_as_zero():
        torch.ones(1 << 20).mul_(2)


def executed(
    module: nn.Module, loss: SegmentationLoss, settings: TrainingSettings, fabric: Fabric
) -> tuple[Compute, torch.optim.Optimizer]:
    """What computes the losses of a batch (image, label), and the optimizer; `module` is moved to Fabric's device.

    A recorded step takes batches of the first one's shape alone.
    """
    on_gpu = fabric.device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # every batch has the same shape
    trained: Any = torch.compile(module) if settings.execution == "compile" else module
    network, optimizer = fabric.setup(trained, _optimizer(module, settings))
    if settings.execution == "graph" or (settings.execution == "auto" and on_gpu and fabric.world_size == 1):
        return _Recorded(_Step(_WithoutCache(module, settings.precision), loss)), optimizer
    return _Step(network, loss), optimizer


class _Step(nn.Module):
    """Network and loss as one."""

    def __init__(self, network: nn.Module, loss: SegmentationLoss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, image: Tensor, label: Tensor) -> Losses:
        self.network.train()  # a validation may have come between
        terms = self.loss(self.network(image), label)
        return terms.total, terms.cross_entropy, terms.dice


class _WithoutCache(nn.Module):
    """A network in Fabric's precision, whose weights are cast anew each time: a graph must see the present ones."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network = network
        self.precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def forward(self, image: Tensor) -> Any:
        with torch.autocast("cuda", self.precision, enabled=self.precision is not None, cache_enabled=False):
            return self.network(image)


class _Recorded:
    """A step that is recorded with the first batch and replayed from then on.

    A network of 64³ voxels asks a GPU for a thousand small pieces of work a step, which takes Python four times as
    long as the work itself (docs/benchmarks.md).
    """

    def __init__(self, step: _Step) -> None:
        self.step: Any = step
        self.recorded = False

    def __call__(self, image: Tensor, label: Tensor) -> Losses:
        if not self.recorded:
            self.step = torch.cuda.make_graphed_callables(self.step, (image, label))
            self.recorded = True
        losses: Losses = self.step(image, label)
        return losses


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adagrad":
        # From 0, as PyTorch has it, the first step would move every weight by the whole learning rate, however
        # small its gradient; TensorFlow, with which the paper was done, begins at 0.1.
        return torch.optim.Adagrad(network.parameters(), lr=rate, weight_decay=decay, initial_accumulator_value=0.1)
    # One kernel for all weights; Fabric cannot clip gradients that such an optimizer has to unscale itself.
    fused = settings.precision != "16-mixed"
    return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, fused=fused)
