"""What a user relies on: a fit that was stopped, killed or spread over processes is the same fit."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import TrainingError
from mlproject.evaluation.validation import CaseValidation
from mlproject.training import checkpoint
from mlproject.training.fit import fit
from mlproject.training.job import BEST, LAST, FitJob
from mlproject.training.progress import Epoch, Progress


def epochs(job: FitJob, stop_after: int | None = None) -> list[Epoch]:
    """Pull a fit to its end, asking it to stop once it has reported `stop_after` steps."""
    seen, reached = [], [0]
    for event in fit(job, lambda: stop_after is not None and reached[0] >= stop_after):
        reached[0] = event.step
        if isinstance(event, Epoch):
            seen.append(event)
    return seen


def weights(folder: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(folder / name)["network" if name == LAST else "weights"])


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_epochs_points_and_checkpoints(tmp_path: Path) -> None:
    first, second = epochs(tiny.job(tmp_path))
    assert (first.number, first.step, second.number, second.step) == (1, 6, 2, 12)
    assert not first.stopped and not second.stopped and first.improved
    assert [point.step for point in first.points] == [2, 4, 6, 6]
    assert set(first.points[0].metrics) == {
        "train/loss", "train/cross_entropy", "train/dice_loss", "train/learning_rate", "train/patches_per_second",
    }  # fmt: skip
    assert first.points[-1].metrics == {"validation/dice": first.validation_dice}
    best = checkpoint.read(tmp_path / BEST)
    assert best["validation_dice"] == max(first.validation_dice or 0, second.validation_dice or 0)
    assert best["settings"] == {"made": "by a test"}


def with_picture(network: torch.nn.Module, case: PreparedCase, device: torch.device) -> CaseValidation:
    found = tiny.soft_dice(network, case, device)
    return replace(found, picture=np.full((2, 2, 3), 7, np.uint8)) if case.name == "case-12" else found


def test_the_picture_of_a_case_comes_with_its_epoch_and_is_told_again_with_it(tmp_path: Path) -> None:
    job = replace(tiny.job(tmp_path, validate_every=2), validate=with_picture)
    first, second = epochs(job)
    assert first.picture is None and second.picture is not None and (second.picture == 7).all()
    (again,) = epochs(job)
    assert again.step == second.step and again.picture is not None and (again.picture == 7).all()


def test_a_long_fit_has_few_pictures_and_the_same_ones_where_it_was_stopped(tmp_path: Path) -> None:
    whole = [epoch.step for epoch in epochs(picturing(tmp_path / "whole")) if epoch.picture is not None]
    assert 20 < len(whole) <= 26 and whole[-1] == 240  # 40 epochs were validated
    parts = epochs(picturing(tmp_path / "parts"), stop_after=100) + epochs(picturing(tmp_path / "parts"))
    assert sorted({epoch.step for epoch in parts if epoch.picture is not None}) == whole


def picturing(folder: Path) -> FitJob:
    return replace(tiny.job(folder, steps=240), validate=only_a_picture)


def only_a_picture(*_: object) -> CaseValidation:
    return CaseValidation(0.5, np.full((2, 2, 3), 7, np.uint8))


def test_it_learns(tmp_path: Path) -> None:
    points = [p for epoch in epochs(tiny.job(tmp_path, steps=60, learning_rate=1e-2)) for p in epoch.points]
    losses = [point.metrics["train/loss"] for point in points if "train/loss" in point.metrics]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("stop_after", "workers", "optimizer"),
    [(2, 0, "adamw"), (6, 1, "adamw"), (8, 0, "adamw"), (8, 1, "adagrad")],
)
def test_stopped_and_resumed_is_never_stopped(tmp_path: Path, stop_after: int, workers: int, optimizer: str) -> None:
    whole = epochs(tiny.job(tmp_path / "whole", average=0.9, optimizer=optimizer))
    job = tiny.job(tmp_path / "parts", average=0.9, workers=workers, optimizer=optimizer)
    stopped = epochs(job, stop_after)
    assert stopped[-1].stopped and stop_after <= stopped[-1].step < 12
    resumed = epochs(job)
    for name in (LAST, BEST):
        assert_equal(weights(tmp_path / "whole", name), weights(tmp_path / "parts", name))
    # Every point of the curve is there, once (repeated ones with the same time: MLflow stores them once).
    points = {(p.step, p.timestamp_ms, tuple(p.metrics)) for e in [*stopped, *resumed] for p in e.points}
    assert sorted((step, names) for step, _, names in points) == sorted(
        (p.step, tuple(p.metrics)) for e in whole for p in e.points
    )
    assert resumed[-1].validation_dice == whole[-1].validation_dice


def test_stopped_within_a_large_validation_case_it_leaves_it_between_two_windows(tmp_path: Path) -> None:
    whole = epochs(tiny.job(tmp_path / "whole"))
    job, windows = tiny.job(tmp_path / "parts"), list[str]()

    def large(network: torch.nn.Module, case: PreparedCase, device: torch.device) -> CaseValidation:
        for _ in range(100):
            found = tiny.soft_dice(network, case, device)
            windows.append(case.name)
        return found

    last_case = replace(job, validate=large, validation_cases=partial(tiny.cases, [11]))
    (*_, stopped) = fit(last_case, lambda: len(windows) >= 3)
    assert isinstance(stopped, Epoch) and stopped.stopped and stopped.step == 6 and len(windows) == 3
    assert [epoch.validation_dice for epoch in epochs(job)[-2:]] == [epoch.validation_dice for epoch in whole]
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_finished_fit_is_not_trained_on(tmp_path: Path) -> None:
    epochs(tiny.job(tmp_path))
    before = (tmp_path / LAST).read_bytes()
    again = epochs(tiny.job(tmp_path))
    assert [(epoch.number, epoch.step) for epoch in again] == [(2, 12)]
    assert (tmp_path / LAST).read_bytes() == before


def _train_and_die(job: FitJob) -> None:
    for event in fit(job):
        if isinstance(event, Progress) and event.step == 10:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_resumed_is_never_killed(tmp_path: Path) -> None:
    epochs(tiny.job(tmp_path / "whole"))
    job = tiny.job(tmp_path / "parts")
    process = multiprocessing.get_context("spawn").Process(target=_train_and_die, args=(job,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint.read(tmp_path / "parts" / LAST)["step"] == 6
    first = epochs(job)[0]
    assert (first.number, first.step) == (1, 6)  # told again: its caller may have died before logging it
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_budget_in_epochs_and_in_minutes(tmp_path: Path) -> None:
    assert [e.step for e in epochs(tiny.job(tmp_path / "e", steps=None, epochs=3))] == [6, 12, 18]
    minutes = epochs(tiny.job(tmp_path / "m", steps=None, minutes=0.005))
    assert minutes[-1].validation_dice is not None
    assert checkpoint.read(tmp_path / "m" / LAST)["seconds"] >= 0.3


def cases_with_a_huge_voxel() -> list[PreparedCase]:
    broken = tiny.training_cases()
    broken[1].image[:] = np.inf
    return broken


def test_non_finite_loss_stops_before_the_step(tmp_path: Path) -> None:
    job = replace(tiny.job(tmp_path), training_cases=cases_with_a_huge_voxel)
    with pytest.raises(
        TrainingError, match=r"gradient is not finite at step \d+ \(cases in the batch: .*case-2.*training\.learning"
    ):
        list(fit(job))
    state = tmp_path / LAST
    assert not state.exists() or all(torch.isfinite(w).all() for w in weights(tmp_path).values())


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """The same global batch gives the same weights, up to the order of sums; the epochs come from one parent.

    By Adagrad, because Adam makes a step of full size of a gradient that is nothing but rounding.
    """
    one = epochs(tiny.job(tmp_path / "one", optimizer="adagrad"))
    two = epochs(replace(tiny.job(tmp_path / "two", optimizer="adagrad", devices=2), validate=with_picture))
    assert all(epoch.picture is not None for epoch in two)  # of a case that the second process validates
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-4)
    assert [e.step for e in two] == [e.step for e in one]
    assert two[-1].validation_dice == pytest.approx(one[-1].validation_dice, abs=1e-3)
    for a, b in zip(one[0].points, two[0].points, strict=True):
        assert a.step == b.step and a.metrics.keys() == b.metrics.keys()
        assert a.metrics.get("train/loss", 0.0) == pytest.approx(b.metrics.get("train/loss", 0.0), rel=1e-3)


def dies_in_a_worker(*_: object) -> float:
    assert multiprocessing.parent_process() is not None, "this is the caller's own process"
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.5


@pytest.mark.usefixtures("forked")
def test_an_isolated_fit_is_the_same_fit_and_its_death_is_not_the_callers(tmp_path: Path) -> None:
    here = epochs(tiny.job(tmp_path / "here"))
    isolated = epochs(replace(tiny.job(tmp_path / "isolated"), isolated=True))
    assert [(e.step, e.validation_dice) for e in isolated] == [(e.step, e.validation_dice) for e in here]
    assert_equal(weights(tmp_path / "here"), weights(tmp_path / "isolated"))
    with pytest.raises(TrainingError, match=r"process 0 died \(signal SIGKILL\).*memory"):
        list(fit(replace(tiny.job(tmp_path / "dies"), isolated=True, validate=dies_in_a_worker)))


@pytest.mark.usefixtures("forked")
def test_closing_the_generator_ends_the_workers(tmp_path: Path) -> None:
    events: Iterator[Progress | Epoch] = fit(tiny.job(tmp_path, devices=2, steps=1000))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
