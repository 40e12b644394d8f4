"""Two processes on one machine are one fit: the same gradients, one writer, and the error of the one that fails."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import torch

import tiny
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import TrainingError
from mlproject.evaluation.validation import CaseValidation
from mlproject.network.architectures import DynUNetSettings, NetworkSettings
from mlproject.network.losses import LossSettings
from mlproject.training import checkpoint
from mlproject.training.fit import fit
from mlproject.training.job import BEST, LAST, FitJob
from mlproject.training.progress import Epoch

pytestmark = pytest.mark.usefixtures("forked")


def epochs(job: FitJob, stop: Callable[[int], bool] = lambda _: False) -> list[Epoch]:
    """Pull a fit to its end, or until `stop` answers True to the number of steps that it has reported."""
    seen, reached = [], [0]
    for event in fit(job, lambda: stop(reached[0])):
        reached[0] = event.step
        if isinstance(event, Epoch):
            seen.append(event)
    return seen


def first_gradient(job: FitJob) -> list[torch.Tensor]:
    """The gradient of each weight in the first step: Adam's first moment is a tenth of it."""
    epochs(job)
    state = checkpoint.read(job.folder / LAST)["optimizer"]["state"]
    return [10 * state[number]["exp_avg"] for number in sorted(state)]


DICE = {"case-11": 0.7, "case-12": 0.1, "case-13": 0.3}  # in one order they sum to 1.1, in another to a bit less


@dataclass(frozen=True)
class Scripted:
    """A validation with known results, which notes in `folder` which process has validated which case."""

    folder: Path

    def __call__(self, _network: torch.nn.Module, case: PreparedCase, _device: torch.device) -> CaseValidation:
        with (self.folder / f"by {os.environ.get('RANK', 'one alone')}").open("a") as file:
            file.write(f"{case.name}\n")
        return CaseValidation(DICE[case.name])


@pytest.mark.parametrize(("batch_dice", "clip"), [(False, 0.0), (True, 0.05)])
def test_the_gradient_of_two_processes_is_that_of_one_with_the_same_batch(
    tmp_path: Path, batch_dice: bool, clip: float
) -> None:
    levels = DynUNetSettings(channels=(4, 8, 8, 8), stem_stride=1, deep_supervision=True)
    gradients = []
    for devices in (1, 2):
        job = tiny.job(tmp_path / str(devices), devices=devices, steps=1, batch_size=4, gradient_clip=clip)
        loss = LossSettings(batch_dice=batch_dice)
        gradients.append(
            first_gradient(
                replace(job, network=NetworkSettings(dynunet=levels), loss=loss, validate=Scripted(tmp_path))
            )
        )
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 1e-3
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("seeds", "shares"), [([11], [["case-11"], []]), ([11, 12, 13], [["case-11", "case-13"], ["case-12"]])]
)
def test_validation_cases_are_dealt_out_and_their_mean_is_exact(
    tmp_path: Path, seeds: list[int], shares: list[list[str]]
) -> None:
    found = []
    for devices in (1, 2):
        job = tiny.job(tmp_path / str(devices), devices=devices, steps=1)
        found += epochs(replace(job, validate=Scripted(tmp_path), validation_cases=partial(tiny.cases, seeds)))
    assert found[0].validation_dice == found[1].validation_dice is not None
    notes = [tmp_path / f"by {rank}" for rank in range(2)]
    assert [note.read_text().split() if note.exists() else [] for note in notes] == shares


@dataclass(frozen=True)
class Slow:
    """The usual validation, which takes its time, and notes in `folder` each case that it has done at all."""

    folder: Path

    def __call__(self, network: torch.nn.Module, case: PreparedCase, device: torch.device) -> CaseValidation:
        time.sleep(0.3)
        (self.folder / f"{case.name} {uuid4().hex}").touch()
        return tiny.soft_dice(network, case, device)


def test_stopped_in_a_validation_it_gives_that_up_and_is_the_same_fit_when_it_is_resumed(tmp_path: Path) -> None:
    cases = partial(tiny.cases, range(11, 26))  # of 15 cases, one process has 8 and the other 7
    whole = replace(tiny.job(tmp_path / "whole", devices=2), validation_cases=cases)
    (*_, undisturbed) = epochs(whole)
    notes = tmp_path / "notes"
    notes.mkdir()
    job = replace(whole, folder=tmp_path / "parts", validate=Slow(notes))
    stopped = epochs(job, lambda _: any(notes.iterdir()))
    assert [(epoch.step, epoch.stopped) for epoch in stopped] == [(6, True)]
    assert 0 < len(list(notes.iterdir())) < 12
    (*_, first, last) = epochs(replace(job, validate=whole.validate))
    assert (first.step, last.step, last.validation_dice) == (6, 12, undisturbed.validation_dice)
    one, parts = (checkpoint.read(tmp_path / name / LAST)["network"] for name in ("whole", "parts"))
    assert all(torch.equal(one[name], parts[name]) for name in one)


@dataclass(frozen=True)
class WatchedCases:
    """The training cases; from when a process loads them, it notes in `folder` what it writes and connects to."""

    folder: Path

    def __call__(self) -> list[PreparedCase]:
        notes = os.open(self.folder / f"of {os.environ['RANK']}", os.O_WRONLY | os.O_CREAT)

        def note(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in (
                "os.mkdir",
                "os.rename",
                "os.remove",
                "os.link",
                "sqlite3.connect",
                "socket.connect",
            ):
                os.write(notes, f"{event} {arguments[0]}\n".encode())

        sys.addaudithook(note)
        return tiny.training_cases()


def test_the_first_process_alone_writes_files(tmp_path: Path) -> None:
    """Nor does another one open a database or a connection, as MLflow would."""
    job = replace(tiny.job(tmp_path / "run", devices=2, average=0.9), training_cases=WatchedCases(tmp_path))
    epochs(job)
    assert {LAST, BEST} == {file.name for file in job.folder.iterdir()}
    first, second = ((tmp_path / f"of {rank}").read_text() for rank in range(2))
    assert LAST in first and BEST in first and "connect" not in first
    assert second == ""


def test_resumed_with_another_number_of_processes_it_is_the_same_fit(tmp_path: Path) -> None:
    steps = 30
    fit = {"steps": steps, "optimizer": "adagrad"}  # Adam makes a step of full size of a gradient that is but rounding
    (*_, whole) = epochs(tiny.job(tmp_path / "one", **fit))
    for devices, until in ((2, 4), (1, 14), (2, steps)):
        job = tiny.job(tmp_path / "parts", devices=devices, **fit)
        (*_, last) = epochs(job, lambda step, until=until: until <= step < steps)
        assert until <= last.step and (last.stopped or until == steps)
    assert last.step == steps and last.validation_dice == pytest.approx(whole.validation_dice, abs=1e-3)
    one, parts = (checkpoint.read(tmp_path / name / LAST)["network"] for name in ("one", "parts"))
    for name, weight in one.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-2, atol=1e-3)


@dataclass(frozen=True)
class Fails:
    """A validation in which one process comes to harm while the other waits for it."""

    rank: int
    how: str

    def __call__(self, *_: object) -> CaseValidation:
        if os.environ["RANK"] != str(self.rank):
            return CaseValidation(0.5)
        if self.how != "hangs":  # let the other notice first that the connection is gone
            for connection in psutil.Process().net_connections("tcp"):
                if connection.status == psutil.CONN_ESTABLISHED:
                    socket.socket(fileno=os.dup(connection.fd)).shutdown(socket.SHUT_RDWR)
            time.sleep(1)
        if self.how == "exception":
            raise ZeroDivisionError("of its own")
        if self.how == "memory":
            torch.empty(1 << 60)
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
        raise AssertionError("it should have been ended")


@pytest.mark.parametrize(
    ("rank", "how", "message"),
    [
        (1, "exception", r"^training process 1 failed: ZeroDivisionError: of its own$"),
        pytest.param(
            1,
            "memory",
            r"^training process 1 failed: the memory is full .*lower training\.batch_size or patches\.size",
            marks=pytest.mark.long,
        ),
        (1, "killed", r"^training process 1 died \(signal SIGKILL\).*resume.*memory"),
        (0, "killed", r"^training process 0 died \(signal SIGKILL\)"),
        (1, "hangs", r"^training process 1 did not answer for 3 s \(training\.timeout_s\).*resume"),
    ],
)
def test_one_that_fails_ends_the_other_and_its_own_error_is_told(
    tmp_path: Path, rank: int, how: str, message: str
) -> None:
    job = tiny.job(tmp_path, devices=2, timeout_s=600 if how != "hangs" else 3)
    with pytest.raises(TrainingError, match=message):
        list(fit(replace(job, validate=Fails(rank, how))))
    assert not multiprocessing.active_children()


def test_stopped_before_it_has_begun_it_ends_at_once(tmp_path: Path) -> None:
    assert epochs(tiny.job(tmp_path, devices=2), stop=lambda _: True) == []
    assert not multiprocessing.active_children() and not tmp_path.joinpath(LAST).exists()
