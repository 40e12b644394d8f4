"""Rows about the prediction of a whole volume, beside MONAI's sliding window and nnU-Net's predictor."""

# mypy: allow-untyped-calls

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import product
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import nn

from bench import nnunet_loader
from bench.cases import PROCESSES, prepared_case
from bench.row import Row, timed
from mlproject.data.preprocessing import PreparedCase
from mlproject.network.architectures import build_network
from mlproject.network.settings import NetworkSettings
from mlproject.prediction.settings import PredictionSettings
from mlproject.prediction.sliding_window import predict_probability

PATCH = (64, 64, 64)
NUMBERS = (1, 4, 8)
REPEATS = 2

Predict = Callable[[PreparedCase], NDArray[np.float32]]


def rows() -> list[Row]:
    """All rows of this file."""
    torch.set_num_threads(PROCESSES)
    cases = [prepared_case(number, margin_mm=6.0) for number in NUMBERS]
    network = decided_network()
    ways = {"ours": ours(network), "MONAI": monai(network)}
    if (predictor := nnunet(network)) is not None:
        ways["nnU-Net"] = predictor
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences: list[float] = []
    for predict in ways.values():
        predict(cases[0])
    for _, case in product(range(REPEATS), cases):
        answers = {}
        for name, predict in ways.items():
            taken, answers[name] = timed(lambda predict=predict, case=case: predict(case))  # type: ignore[misc]
            seconds[name].append(taken)
        differences.append(float(np.abs(answers["MONAI"] - answers["ours"])[case.brain].max()))
    voxels = float(np.mean([case.brain.size for case in cases]))
    peers = {
        "MONAI": "MONAI's sliding_window_inference, 4 windows a pass",
        "nnU-Net": "nnU-Net's predictor (nnunetv2)",
    }
    found = [
        Row(
            what=f"whole volume, windows of 64³ that overlap by half, CPU, {PROCESSES} cores",
            against=f"{peer}, the same weights in PyTorch's own memory format",
            unit="x",
            samples=tuple(b / a for a, b in zip(seconds["ours"], seconds[name], strict=True)),
            target=1.3,
            better=">=",
            detail=f"{voxels / median(seconds['ours']) / 1e6:.2f} against {voxels / median(seconds[name]) / 1e6:.2f} "
            "million voxels a second",
        )
        for name, peer in peers.items()
        if name in ways
    ]
    largest = Row(
        what="probability in the brain, largest difference",
        against=peers["MONAI"],
        unit="",
        samples=tuple(differences),
        target=1e-3,
        better="<=",
        detail=f"{len(cases)} volumes",
    )
    return [*found[:1], largest, *found[1:]]


def decided_network() -> nn.Module:
    """The default network as PyTorch makes it, with last layers that answer anything between 0 and 1."""
    torch.manual_seed(0)
    network = build_network(NetworkSettings(), 2, PATCH).eval()
    for name, weight in network.named_parameters():
        if name.endswith("weight") and name.startswith(("network.output_block", "detail.2")):
            nn.init.normal_(weight, std=0.5)
    return network


def ours(network: nn.Module) -> Predict:
    """`predict_probability`, with the network in the memory format that Segmenter gives it."""
    fast: Any = copy.deepcopy(network)
    fast.to(memory_format=torch.channels_last_3d)
    settings, device = PredictionSettings(), torch.device("cpu")
    return lambda case: predict_probability(fast, case.image, PATCH, settings, device, case.brain)


def monai(network: nn.Module) -> Predict:
    """As MONAI's tutorials call it, but with Gaussian weights and probabilities: nothing could be equal without."""

    def predict(case: PreparedCase) -> NDArray[np.float32]:
        image = torch.from_numpy(case.image[None])
        with torch.no_grad():
            answer: Any = sliding_window_inference(
                image, PATCH, 4, lambda windows: network(windows).sigmoid(), overlap=0.5, mode="gaussian"
            )
        return np.asarray(answer[0, 0])

    return predict


def nnunet(network: nn.Module) -> Predict | None:
    """What nnU-Net predicts with, as its trainer validates, without mirroring; None where it is not installed.

    It blends logits, in half precision, and may lay other windows.
    """
    said = io.StringIO()
    try:
        with nnunet_loader.importable():
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]

            predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    except ImportError as error:
        print(f"nnU-Net is left out ({error}): `make bench` installs it")
        return None
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=1)

    def predict(case: PreparedCase) -> NDArray[np.float32]:
        with redirect_stdout(said):
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(case.image))
        return np.asarray(logits[0].float().sigmoid())

    return predict
