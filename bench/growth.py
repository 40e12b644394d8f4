"""`python -m bench.growth`: how time and memory grow with cases, patch, channels and processes; a table, and no goals.

Each line is measured in a process of its own. The cases are tiny, so that what grows with their number shows.
"""

# mypy: allow-untyped-calls

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CASES = (10, 100, 1000)
SIDES = (32, 64, 96, 128)
CHANNELS = (1, 2, 4, 6)
TINY, BASES = (24, 28, 20), 8
PROCESSES = (1, 2, 3)
STEPS = 3


def main() -> None:
    """Measure and print."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    for title, name, values in (
        ("cases", "cases", CASES),
        ("side of the patch, 2 channels", "patch", SIDES),
        ("channels, patch of 64³", "channels", CHANNELS),
        ("processes of one thread, 6 patches of 64³", "processes", PROCESSES),
    ):
        found = [_measured(name, value) for value in values]
        table = Table(title, *found[0], box=box.MARKDOWN)
        for value, figures in zip(values, found, strict=True):
            table.add_row(str(value), *(f"{figure:.3g}" for figure in figures.values()))
        Console(width=200, highlight=False).print(table)


def _measured(name: str, value: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.growth", name, str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def cases(count: int) -> dict[str, float]:
    """Seconds, and MiB above the imports' own, of the parts of a training on so many tiny cases."""
    from contextlib import closing

    from bench.memory_child import _now, _peak
    from mlproject.data.case import DataSettings
    from mlproject.data.dataset import open_dataset
    from mlproject.data.patch_settings import PatchSettings
    from mlproject.data.preprocessing_settings import PreprocessingSettings
    from mlproject.evaluation.validation import WholeVolumeDice
    from mlproject.network.settings import DynUNetSettings, LossSettings, NetworkSettings
    from mlproject.prediction.settings import PredictionSettings
    from mlproject.training.fit import fit
    from mlproject.training.job import FitJob
    from mlproject.training.progress import Epoch, Validating
    from mlproject.training.settings import TrainingSettings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = DataSettings("table", str(write_table(folder, count)), ("dwi", "adc"))
        time.sleep(2.5)  # files that were changed just now are hashed at every start
        before = _now()
        first, _ = _timed(lambda: open_dataset(data, PreprocessingSettings(), folder / "cache"))
        again, dataset = _timed(lambda: open_dataset(data, PreprocessingSettings(), folder / "cache"))
        patch = (16, 16, 16)
        job = FitJob(
            training=TrainingSettings(steps=None, epochs=2, threads=1, accelerator="cpu", validate_every=2),
            network=NetworkSettings(dynunet=DynUNetSettings(channels=(4, 8, 8), stem_stride=1)),
            loss=LossSettings(),
            patches=PatchSettings(size=patch, per_case=2),
            channels=2,
            training_cases=lambda: dataset.load(dataset.split.train),
            validation_cases=lambda: dataset.load(dataset.split.validation),
            validate=WholeVolumeDice(patch, PredictionSettings()),
            folder=folder / "fit",
            settings={},
        )
        began, marks = time.perf_counter(), {}
        with closing(fit(job)) as events:
            for event in events:
                if isinstance(event, Epoch):
                    marks[f"epoch {event.number}"] = time.perf_counter()
                elif isinstance(event, Validating):
                    marks.setdefault("validation", time.perf_counter())
        ends = marks["epoch 2"]
        return {
            "first start, s": first,
            "start from the cache, s": again,
            "first epoch, s": marks["epoch 1"] - began,
            "second epoch, s": marks["validation"] - marks["epoch 1"],
            "validation, s": ends - marks["validation"],
            "checkpoint, MiB": (folder / "fit" / "last.pt").stat().st_size / 2**20,
            "memory, MiB": (_peak() - before) / 2**20,
        }


def write_table(folder: Path, count: int) -> Path:
    """A CSV file of so many cases, no two alike."""
    import nibabel as nib
    import numpy as np

    from mlproject.data.synthetic import make_case

    bases = [make_case(0, number, TINY, ("dwi", "adc")) for number in range(BASES)]
    lines = ["case,dwi,adc,label"]
    for number in range(count):
        images = bases[number % BASES]
        for name, image in images.items():
            values = np.array(image.dataobj, dtype=np.float32)
            if name != "msk":
                values[tuple(n // 2 for n in TINY)] += number // BASES
            nib.save(nib.Nifti1Image(values, image.affine), folder / f"{number}-{name}.nii")
        lines.append(f"case-{number:04d},{number}-dwi.nii,{number}-adc.nii,{number}-msk.nii")
    table = folder / "cases.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def patch(side: int) -> dict[str, float]:
    """Seconds and MiB of a step on two patches of this side."""
    return _step(side, 2)


def channels(count: int) -> dict[str, float]:
    """Seconds and MiB of a step on two patches of 64³ with so many channels."""
    return _step(64, count)


def processes(count: int) -> dict[str, float]:
    """Seconds until the first step, and of a step, of a training on so many processes; MiB of the largest of them."""
    import resource
    from contextlib import closing
    from dataclasses import replace
    from itertools import islice

    from bench.training import job_of
    from mlproject.training.fit import fit
    from mlproject.training.progress import Progress

    with tempfile.TemporaryDirectory() as name:
        job = job_of(Path(name), accelerator="cpu", devices=count, threads=1, batch_size=6, log_every=1)
        began = time.perf_counter()
        with closing(fit(replace(job, isolated=True))) as events:
            steps = [time.perf_counter() for _ in islice((e for e in events if isinstance(e, Progress)), 1 + STEPS)]
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    seconds = (steps[-1] - steps[0]) / STEPS
    return {"first step after, s": steps[0] - began, "step, s": seconds, "largest process, imports too, MiB": largest}


def _step(side: int, count: int) -> dict[str, float]:
    import torch

    from bench.cases import PROCESSES
    from bench.memory_child import _now, _peak
    from mlproject.network.architectures import build_network
    from mlproject.network.losses import SegmentationLoss
    from mlproject.network.settings import LossSettings, NetworkSettings

    torch.set_num_threads(PROCESSES)
    network: Any = build_network(NetworkSettings(), count, (side, side, side))
    network.to(memory_format=torch.channels_last_3d)
    criterion = SegmentationLoss(LossSettings())
    optimizer = torch.optim.AdamW(network.parameters())
    before = _now()
    image = torch.randn(2, count, side, side, side).contiguous(memory_format=torch.channels_last_3d)
    label = (image[:, :1] > 2).float()

    def step() -> None:
        criterion(network(image), label).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    seconds = min(_timed(step)[0] for _ in range(STEPS))
    voxels = 2 * side**3
    memory = (_peak() - before) / 2**20
    return {"step, s": seconds, "ns a voxel": 1e9 * seconds / voxels, "memory, MiB": memory}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(
            json.dumps(
                {"cases": cases, "patch": patch, "channels": channels, "processes": processes}[sys.argv[1]](
                    int(sys.argv[2])
                )
            )
        )
