"""Rows about memory, each measured in a process of its own."""

# mypy: allow-untyped-calls

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from bench.row import Row

LARGE = (512, 512, 400)
SPACING_MM = (0.45, 0.45, 0.45)
GIB = 2**30


def rows() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as folder:
        training = _measured("training", folder)
        bare = _measured("bare", folder)
        write_large_case(Path(folder))
        prediction = _measured("prediction", folder)
    least = {name: value / GIB for name, value in training.items() if name != "peak"}
    parts = ", ".join(f"{name} {value:.2f}" for name, value in least.items())
    return [
        Row(
            what="peak memory of a training above the imports' own, U-Net, 2 patches of 64³ a step",
            against="its data + model, gradients and optimizer + activations of a step",
            unit="x",
            samples=(training["peak"] / GIB / sum(least.values()),),
            target=1.3,
            better="<=",
            detail=f"{training['peak'] / GIB:.2f} GiB against {parts}; plain PyTorch on a fixed batch, without data: "
            f"{bare['peak'] / GIB:.2f} GiB",
        ),
        Row(
            what=f"peak memory beyond the model, a case of {'x'.join(map(str, LARGE))} with 2 channels, files to mask",
            against="none",
            unit="GiB",
            samples=(prediction["peak"] / GIB,),
            target=4.0,
            better="<=",
            detail=f"its two channels in float32 are {2 * prediction['voxels'] * 4 / GIB:.2f} GiB",
        ),
    ]


def _measured(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.memory_child", what, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_large_case(folder: Path) -> None:
    """Two channels of noise in an ellipsoid as large as a head, uncompressed."""
    axes = [
        ((np.arange(n) - n / 2) * mm / half) ** 2 for n, mm, half in zip(LARGE, SPACING_MM, (75, 95, 75), strict=True)
    ]
    head = axes[0][:, None, None] + axes[1][:, None] + axes[2] < 1
    generator = np.random.default_rng(0)
    for name in ("dwi", "adc"):
        values = generator.integers(200, 1000, LARGE, dtype=np.int16)
        values[~head] = 0
        nib.save(nib.Nifti1Image(values, np.diag([*SPACING_MM, 1.0])), folder / f"{name}.nii")
