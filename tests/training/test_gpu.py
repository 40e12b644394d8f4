"""What holds on a CUDA GPU; skipped where PyTorch sees none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import tiny
from mlproject.data.cutting import CPU, CaseVolumes, changed_together
from mlproject.data.patches import PatchDataset
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import TrainingError
from mlproject.training import checkpoint
from mlproject.training.batches import home_of
from mlproject.training.fit import fit
from mlproject.training.job import LAST
from mlproject.training.loop import Trainer
from mlproject.training.progress import Epoch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")


def losses(folder: Path, **training: object) -> np.ndarray:
    job = tiny.job(folder, accelerator="cuda", workers=None, log_every=1, **training)
    points = [point for event in fit(job) if isinstance(event, Epoch) for point in event.points]
    return np.array([point.metrics["train/loss"] for point in points if "train/loss" in point.metrics])


def test_a_recorded_step_is_the_step(tmp_path: Path) -> None:
    eager = losses(tmp_path / "eager", execution="eager")
    recorded = losses(tmp_path / "graph", execution="graph")
    on_cpu = [p.metrics for e in fit(tiny.job(tmp_path / "cpu", log_every=1)) if isinstance(e, Epoch) for p in e.points]
    assert len(eager) == len(recorded) == 12
    np.testing.assert_allclose(recorded, eager, rtol=2e-2)  # convolutions in TF32
    np.testing.assert_allclose(eager[0], on_cpu[0]["train/loss"], rtol=2e-2)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_learns_the_same(tmp_path: Path, precision: str) -> None:
    full = losses(tmp_path / "full", steps=60, learning_rate=1e-2)
    mixed = losses(tmp_path / "mixed", steps=60, learning_rate=1e-2, precision=precision)
    assert np.mean(mixed[-20:]) == pytest.approx(np.mean(full[-20:]), abs=0.1)
    assert np.mean(mixed[-20:]) < 0.9 * np.mean(mixed[:10])


@pytest.mark.parametrize("augmented", [False, True])
def test_cases_on_the_gpu_give_the_patches_of_the_cpu(augmented: bool) -> None:
    gpu = torch.device("cuda")
    settings = tiny.PATCHES if augmented else replace(tiny.PATCHES, augmentation=tiny.UNCHANGED)
    patches = PatchDataset(tiny.training_cases(), settings, 0)
    here, there = (CaseVolumes(patches.cases, device) for device in (CPU, gpu))
    for plan in (patches[index] for index in range(24)):
        a, b, c = here.batch([plan]), changed_together(here.cuts([plan]), gpu), there.batch([plan])
        assert torch.equal(b.image, c.image) and torch.equal(b.label, c.label) and b.image.device.type == "cuda"
        if plan.augmentation.noise_sd == 0:  # each device has random numbers of its own
            torch.testing.assert_close(a.image, b.image.cpu(), rtol=1e-4, atol=1e-4)
        assert (a.label != b.label.cpu()).float().mean() < 1e-3


def test_a_gpu_without_room_leaves_the_cases_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(tiny.TRAINING, accelerator="cuda", workers=None)
    assert home_of(tiny.training_cases(), settings, torch.device("cuda")).type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    assert home_of(tiny.training_cases(), settings, torch.device("cuda")) == CPU


@pytest.mark.parametrize("workers", [None, 2])
def test_a_step_waits_for_nothing(tmp_path: Path, workers: int | None) -> None:
    fabric = Fabric(accelerator="cuda", devices=1)
    fabric.launch()
    trainer = Trainer(tiny.job(tmp_path, accelerator="cuda", workers=workers), fabric)
    batches = trainer.batches()
    for _ in range(5):
        trainer.step(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def broken() -> list[PreparedCase]:
    cases = tiny.training_cases()
    cases[1].image[:] = np.inf
    return cases


def test_a_loss_that_is_not_finite_ends_the_fit_and_leaves_no_checkpoint_of_it(tmp_path: Path) -> None:
    job = replace(tiny.job(tmp_path, accelerator="cuda"), training_cases=broken)
    with pytest.raises(TrainingError, match=r"not finite at step [1-6] \(cases in the batch: .*case-2"):
        list(fit(job))
    assert not (tmp_path / LAST).exists()


def test_stopped_and_resumed_ends_at_the_same_step(tmp_path: Path) -> None:
    job, reached = tiny.job(tmp_path, accelerator="cuda", log_every=2), [0]
    for event in fit(job, lambda: reached[0] >= 4):
        reached[0] = event.step
    assert 4 <= checkpoint.read(tmp_path / LAST)["step"] < 12
    *_, last = fit(job)
    assert last.step == 12 and all(
        torch.isfinite(w).all() for w in checkpoint.read(tmp_path / LAST)["network"].values()
    )
