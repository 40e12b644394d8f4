"""From a whole image to a lesion probability map: overlapping windows, blended with Gaussian weights."""

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlproject.errors import ModelError, SettingsError
from mlproject.prediction.settings import PredictionSettings

logger = logging.getLogger(__name__)

Box = tuple[slice, slice, slice]
Window = tuple[Box, Box]
"""Which voxels of the volume a window sees, and where they lie in the window; the rest of it is padding."""
Copy = tuple[Window, tuple[int, ...]]
"""A window, and the axes along which it is mirrored."""

MIN_WEIGHT = 1e-3
"""Of a window's corners, where the Gaussian is next to nothing."""
_MIRRORS = tuple(axes for count in range(4) for axes in itertools.combinations((-3, -2, -1), count))


def resolve_device(setting: str) -> torch.device:
    """The torch device that `PredictionSettings.device` names on this machine.

    Raises:
        SettingsError: A GPU is asked for that this machine has not; "auto" never raises.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "auto":
        return torch.device("cuda" if gpus else "cpu")
    device = torch.device(setting)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise SettingsError(
            f"device is {setting!r}, but PyTorch sees {gpus} CUDA GPUs here: use auto or cpu, "
            "or install a PyTorch build for this machine's GPU driver"
        )
    return device


def predict_probability(
    network: nn.Module,
    case_image: NDArray[np.float32],
    patch_size: tuple[int, int, int],
    settings: PredictionSettings,
    device: torch.device,
    brain: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Lesion probability of every voxel, from windows of `patch_size` voxels.

    Windows are averaged as probabilities (not logits), weighted by a Gaussian whose standard deviation is an
    eighth of the window's side (Isensee et al., Nature Methods 2021), so that a voxel counts most where it
    has most context. They lie where MONAI's sliding_window_inference lays them. An image smaller than the window
    is padded with zeros, the value outside the brain. The network is moved to `device` and left there; its training
    or evaluation mode is restored. Image and result stay in the computer's memory: the device holds `window_batch`
    windows at a time, however large the volume, and beside the result there is one array of its size.

    Args:
        network: In evaluation mode it maps (B, C, I, J, K) to lesion logits (B, 1, I, J, K).
        case_image: (C, I, J, K), z-scores; left as it is, may be a read-only memory map.
        patch_size: Window in voxels along I, J, K.
        settings: Overlap, mirroring, and windows a pass; its `device` is not read here (see resolve_device).
        device: Where the network runs.
        brain: (I, J, K), where the answer matters: outside it is 0, and windows that hold none of it are passed over.

    Returns:
        (I, J, K), in [0, 1].

    Raises:
        ModelError: The network answers NaN or infinity.
    """
    shape = case_image.shape[1:]
    if any(side < patch for side, patch in zip(shape, patch_size, strict=True)):
        logger.debug("volume of %s voxels is padded to the patch of %s", shape, patch_size)
    windows = [
        (seen, inside)
        for seen, inside in _windows(shape, patch_size, settings.overlap)
        if brain is None or brain[seen].any()
    ]
    copies = list(itertools.product(windows, _MIRRORS if settings.mirror else ((),)))
    was_training = network.training
    network.to(device).eval()
    window_format = _memory_format(network)
    weight = _gaussian(patch_size)
    total, weights = torch.zeros(shape), torch.zeros(shape)
    try:
        with torch.inference_mode():
            for batch in _batches(copies, settings.window_batch, device):
                images = torch.from_numpy(_cut(case_image, patch_size, batch))
                answers = network(images.to(device, memory_format=window_format)).float().sigmoid().cpu()
                _refuse_non_finite(answers)
                for answer, ((seen, inside), axes) in zip(answers[:, 0], batch, strict=True):
                    total[seen].addcmul_(weight[inside], answer.flip(axes)[inside])
                    weights[seen].add_(weight[inside])
    finally:
        network.train(was_training)
    probability = total.div_(weights.clamp_(min=MIN_WEIGHT)).clamp_(0, 1).numpy()
    if brain is not None:
        np.copyto(probability, 0, where=~brain)
    return probability


def _windows(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> list[Window]:
    """All windows of a volume, in MONAI's places and order."""
    axes = []
    for side, patch in zip(shape, patch_size, strict=True):
        if side <= patch:
            before = (patch - side) // 2
            axes.append([(slice(0, side), slice(before, before + side))])
        else:
            starts = [*range(0, side - patch, max(1, int(patch * (1 - overlap)))), side - patch]
            axes.append([(slice(start, start + patch), slice(0, patch)) for start in starts])
    return [((i[0], j[0], k[0]), (i[1], j[1], k[1])) for i, j, k in itertools.product(*axes)]


def _gaussian(patch_size: tuple[int, int, int]) -> Tensor:
    """How much each voxel of a window counts, (I, J, K), as MONAI's compute_importance_map has it."""
    i, j, k = (torch.exp(-((torch.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in patch_size)
    return (i[:, None, None] * j[:, None] * k).clamp_(min=MIN_WEIGHT)


def _batches(copies: list[Copy], size: int, device: torch.device) -> list[list[Copy]]:
    batches = [copies[first : first + size] for first in range(0, len(copies), size)]
    # PyTorch 2.13 takes its slow convolution for one window alone on a CPU: that takes as long as three.
    if device.type == "cpu" and size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] += last
    return batches


def _cut(image: NDArray[np.float32], patch_size: tuple[int, int, int], batch: list[Copy]) -> NDArray[np.float32]:
    """What the network is shown, (B, C, I, J, K)."""
    images = np.zeros((len(batch), len(image), *patch_size), dtype=np.float32)
    for place, ((seen, inside), axes) in zip(images, batch, strict=True):
        place[:, *inside] = image[:, *seen]
        place[:] = np.flip(place, axes)
    return images


def _refuse_non_finite(answers: Tensor) -> None:
    if not torch.isfinite(answers).all():
        raise ModelError(
            "the network's output is NaN or infinite: its weights are damaged (training diverged?) or the "
            "image holds NaN; use another checkpoint, or train with a lower learning rate"
        )


def _memory_format(network: nn.Module) -> torch.memory_format:
    """channels_last_3d if the network's convolutions are in it, so that none has to convert its input."""
    for weight in network.parameters():
        if weight.ndim == 5 and not weight.is_contiguous():
            return torch.channels_last_3d
    return torch.contiguous_format
