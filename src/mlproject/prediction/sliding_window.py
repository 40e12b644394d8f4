"""From a whole image to a lesion probability map: overlapping windows, blended with Gaussian weights."""

import itertools
import logging
import typing

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from mlproject.errors import ModelError, SettingsError
from mlproject.prediction.settings import PredictionSettings

logger = logging.getLogger(__name__)

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
) -> NDArray[np.float32]:
    """Lesion probability of every voxel, from windows of `patch_size` voxels.

    Windows are averaged as probabilities (not logits), weighted by a Gaussian whose standard deviation is an
    eighth of the window's side (Isensee et al., Nature Methods 2021), so that a voxel counts most where it
    has most context. An image smaller than the window is padded with zeros, the value outside the brain.
    The network is moved to `device` and left there; its training or evaluation mode is restored. Image and
    result stay in the computer's memory: the device holds `window_batch` windows at a time, however large the
    volume.

    Args:
        network: In evaluation mode it maps (B, C, I, J, K) to lesion logits (B, 1, I, J, K).
        case_image: (C, I, J, K), z-scores; left as it is, may be a read-only memory map.
        patch_size: Window in voxels along I, J, K.
        settings: Overlap, mirroring, and windows a pass; its `device` is not read here (see resolve_device).
        device: Where the network runs.

    Returns:
        (I, J, K), in [0, 1].

    Raises:
        ModelError: The network answers NaN or infinity.
    """
    shape = case_image.shape[1:]
    if any(side < patch for side, patch in zip(shape, patch_size, strict=True)):
        logger.debug("volume of %s voxels is padded to the patch of %s", shape, patch_size)
    image = torch.from_numpy(np.array(case_image[np.newaxis], dtype=np.float32))
    was_training = network.training
    network.to(device).eval()
    window_format = _memory_format(network)
    mirrors = _MIRRORS if settings.mirror else ((),)

    def window_probability(windows: Tensor) -> Tensor:
        total = torch.zeros((len(windows), 1, *windows.shape[2:]), device=windows.device)
        for axes in mirrors:
            mirrored = windows.flip(axes).contiguous(memory_format=window_format)
            total += network(mirrored).float().sigmoid().flip(axes)
        return total / len(mirrors)

    try:
        with torch.inference_mode():
            stitched = sliding_window_inference(
                image,
                roi_size=patch_size,
                sw_batch_size=settings.window_batch,
                predictor=window_probability,
                overlap=settings.overlap,
                mode="gaussian",
                sw_device=device,
                device=torch.device("cpu"),
            )
    finally:
        network.train(was_training)
    probability = typing.cast(Tensor, stitched)
    if not torch.isfinite(probability).all():
        raise ModelError(
            "the network's output is NaN or infinite: its weights are damaged (training diverged?) or the "
            "image holds NaN; use another checkpoint, or train with a lower learning rate"
        )
    return probability[0, 0].clamp(0, 1).numpy()


def _memory_format(network: nn.Module) -> torch.memory_format:
    """channels_last_3d if the network's convolutions are in it, so that none has to convert its input."""
    for weight in network.parameters():
        if weight.ndim == 5 and not weight.is_contiguous():
            return torch.channels_last_3d
    return torch.contiguous_format
