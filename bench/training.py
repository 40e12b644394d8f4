"""Rows about a training step, on the CPU and on a GPU where there is one."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from itertools import islice, product, repeat
from pathlib import Path
from statistics import median

import torch

from bench.cases import PROCESSES, prepared_case
from bench.row import Row, timed
from mlproject.data.patch_settings import PatchSettings
from mlproject.data.preprocessing import PreparedCase
from mlproject.evaluation.validation import WholeVolumeDice
from mlproject.network.architectures import build_network
from mlproject.network.losses import SegmentationLoss
from mlproject.network.settings import LossSettings, NetworkSettings
from mlproject.prediction.settings import PredictionSettings
from mlproject.training.fit import fit
from mlproject.training.job import FitJob
from mlproject.training.loop import Trainer
from mlproject.training.progress import Progress
from mlproject.training.settings import TrainingSettings
from mlproject.training.worker import fabric_of

CASES = 8
PATCH = (64, 64, 64)
STEPS = {"cpu": 6, "cuda": 150}  # of one measurement
REPEATS = {"cpu": 7, "cuda": 7}
END_TO_END = {"cpu": 0.90, "cuda": 0.95}
AGAINST_PLAIN = {"cpu": 1.5, "cuda": 3.0}
STARTS, POINTS = 2, 4  # trainings with several processes, and how often each says its pace


def rows() -> list[Row]:
    """All rows of this file, for each device."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with tempfile.TemporaryDirectory() as folder:
        found = [row for device in devices for row in _rows(device, Path(folder))]
        return [*found, _scaling(Path(folder))]


@cache
def cases() -> list[PreparedCase]:
    """The cases to train on."""
    return [prepared_case(number, margin_mm=6.0) for number in range(CASES)]


def one_case() -> list[PreparedCase]:
    """The case to validate on."""
    return cases()[:1]


def _rows(device: str, folder: Path) -> Iterator[Row]:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {PROCESSES} cores"
    trainer = trainer_of(device, folder / "end to end")
    batches = trainer.batches()
    fixed = repeat(next(batches))
    yield _compared(
        f"training, steps/s end to end ({where})",
        "the same step on a fixed batch in memory",
        (lambda: trainer.step(batches), lambda: trainer.step(fixed)),
        device,
        END_TO_END[device],
    )
    precision = "bf16-mixed" if device == "cuda" else "32-true"
    ours = trainer_of(device, folder / "step", precision=precision)
    batch = repeat(next(ours.batches()))
    yield _compared(
        f"training step, {precision} ({where})",
        "the same network and batch in plain PyTorch, float32, contiguous",
        (lambda: ours.step(batch), plain_step(device)),
        device,
        AGAINST_PLAIN[device],
    )


def trainer_of(device: str, folder: Path, **training: object) -> Trainer:
    """A trainer on the cases, as `train` makes it."""
    job = job_of(folder, accelerator=device, threads=PROCESSES, **training)
    fabric = fabric_of(job.training)
    fabric.launch()
    return Trainer(job, fabric)


def job_of(folder: Path, **training: object) -> FitJob:
    """The default training on the cases."""
    return FitJob(
        training=TrainingSettings(**training),  # type: ignore[arg-type]
        network=NetworkSettings(),
        loss=LossSettings(),
        patches=PatchSettings(size=PATCH),
        channels=2,
        training_cases=cases,
        validation_cases=one_case,
        validate=WholeVolumeDice(PATCH, PredictionSettings()),
        folder=folder,
        settings={},
    )


def _scaling(folder: Path) -> Row:
    """Two processes with a thread each against one, on the same batches; the start is not counted."""
    paces: dict[int, list[float]] = {1: [], PROCESSES: []}
    for repeat_number, devices in product(range(STARTS), paces):
        job = job_of(
            folder / f"{devices} processes, {repeat_number}",
            accelerator="cpu",
            devices=devices,
            threads=1,
            batch_size=2 * PROCESSES,
            log_every=2,
        )
        with closing(fit(replace(job, isolated=True))) as events:
            told = islice((event.patches_per_second for event in events if isinstance(event, Progress)), 1 + POINTS)
            paces[devices].append(median(list(told)[1:]))
    one, several = (median(paces[devices]) for devices in paces)
    return Row(
        what=f"training with {PROCESSES} processes of one thread, share of {PROCESSES} times the pace",
        against="1 process of one thread, the same batches",
        unit="x",
        samples=tuple(b / a / PROCESSES for a, b in zip(*paces.values(), strict=True)),
        target=0.85,
        better=">=",
        detail=f"{several:.2f} against {one:.2f} patches a second",
    )


def plain_step(device: str) -> Callable[[], object]:
    """A step as a PyTorch tutorial has it: the same network, loss, optimizer, clipping and size of batch."""
    torch.manual_seed(0)
    network = build_network(NetworkSettings(), 2, PATCH).to(device).train()
    criterion, optimizer = SegmentationLoss(LossSettings()), torch.optim.AdamW(network.parameters(), 1e-3)
    image = torch.randn(2, 2, *PATCH, device=device)
    label = (image[:, :1] > 2).float()

    def step() -> None:
        criterion(network(image), label).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _compared(
    what: str, against: str, pair: tuple[Callable[[], object], Callable[[], object]], device: str, target: float
) -> Row:
    """How many times as many steps the first does in the same time, measured in turns."""

    def several(step: Callable[[], object]) -> None:
        for _ in range(STEPS[device]):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    for step in pair:
        several(step)  # what is done once: recording, choosing of algorithms
    seconds: tuple[list[float], list[float]] = ([], [])
    for _, number in product(range(REPEATS[device]), range(2)):
        seconds[number].append(timed(lambda number=number: several(pair[number]))[0] / STEPS[device])  # type: ignore[misc]
    ours, theirs = (1000 * median(times) for times in seconds)
    return Row(
        what=what,
        against=against,
        unit="x",
        samples=tuple(b / a for a, b in zip(*seconds, strict=True)),
        target=target,
        better=">=",
        detail=f"{ours:.4g} ms against {theirs:.4g} ms a step",
    )
