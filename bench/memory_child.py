"""One measurement of memory, in a process of its own: `python -m bench.memory_child training FOLDER`.

It prints JSON: bytes at the peak above those at the start (`peak`), and what they are for.
"""

import json
import sys
from pathlib import Path

import torch

from bench.training import cases, plain_step, trainer_of
from mlproject.data.case import Case
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import read_volume
from mlproject.network.architectures import build_network
from mlproject.network.memory import STATES_OF_A_WEIGHT, measure_step
from mlproject.network.settings import DynUNetSettings, LossSettings, NetworkSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import ModelDescription, Segmenter
from mlproject.prediction.settings import PredictionSettings

PATCH = (64, 64, 64)
SMALL = NetworkSettings(dynunet=DynUNetSettings(channels=(4, 8, 8), detail_channels=0))
STEPS = 4


def main(what: str, *arguments: str) -> None:
    """Measure, and print."""
    torch.set_num_threads(2)
    print(json.dumps({"training": training, "bare": bare, "prediction": prediction}[what](*arguments)))


def training(folder: str) -> dict[str, float]:
    """A few steps on cases that are in memory already, and what they would take at the least."""
    data = sum(a.nbytes for case in cases() for a in (case.image, case.brain, case.label) if a is not None)
    before = _now()
    trainer = trainer_of("cpu", Path(folder))
    batches = trainer.batches()
    for _ in range(STEPS):
        trainer.step(batches)
    peak = _peak() - before + data
    cost = measure_step(NetworkSettings(), LossSettings(), 2)
    voxels = PATCH[0] * PATCH[1] * PATCH[2] * trainer.job.training.batch_size
    state = STATES_OF_A_WEIGHT * cost.weight_bytes
    activations = cost.saved_bytes_per_voxel * voxels
    return {"peak": peak, "data": data, "model": state, "activations": activations}


def bare(_folder: str) -> dict[str, float]:
    """The same steps in plain PyTorch on a fixed batch: what no training can do without."""
    before = _now()
    step = plain_step("cpu")
    for _ in range(STEPS):
        step()
    return {"peak": _peak() - before}


def prediction(folder: str) -> dict[str, float]:
    """A large case, from its files to its mask, by a network so small that its own needs do not show."""
    files = {name: Path(folder) / f"{name}.nii" for name in ("dwi", "adc")}
    network = build_network(SMALL, len(files), PATCH)
    description = ModelDescription(
        channels=tuple(files),
        preprocessing=PreprocessingSettings(),
        network=SMALL,
        patch_size=PATCH,
        prediction=PredictionSettings(device="cpu"),
        postprocessing=Postprocessing(min_lesion_ml=0.05),
        candidates={},
        seen=(),
    )
    segmenter = Segmenter(description, network)
    before = _now()
    segmentation = segmenter.segment(read_volume(Case("large", files, None, "large"), labelled=False))
    return {"peak": _peak() - before, "voxels": segmentation.mask.size}


def _now() -> int:
    """Bytes in memory; from here on the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
