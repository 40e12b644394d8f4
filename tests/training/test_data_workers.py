"""A process that cuts patches dies or hangs: the fit ends by an error that says so, and its checkpoint is kept."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

import tiny
from mlproject.errors import TrainingError
from mlproject.training import checkpoint, data_workers
from mlproject.training.fit import fit
from mlproject.training.job import LAST
from mlproject.training.progress import Epoch


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            signal.SIGKILL,
            r"^a process that cuts patches died \(.*(SIGKILL|Killed).*checkpoint is intact",
        ),
        (signal.SIGSTOP, r"^the processes that cut patches gave none for 2 s \(training.timeout_s\).*resume"),
    ],
)
def test_one_that_dies_or_hangs_ends_the_fit(tmp_path: Path, number: signal.Signals, message: str) -> None:
    job = tiny.job(tmp_path, workers=2, steps=10_000, timeout_s=2.0)
    pids: list[int] = []
    with pytest.raises(TrainingError, match=message):
        for event in fit(job):
            if isinstance(event, Epoch) and not pids:
                pids = [process.pid for process in multiprocessing.active_children() if process.pid]
                os.kill(pids[0], number)
    assert len(pids) == 2
    assert checkpoint.read(tmp_path / LAST)["step"] >= 6
    assert not multiprocessing.active_children()


def test_a_fit_that_shall_stop_does_not_wait_for_one_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_workers, "SECONDS_STOPPING", 0.1)
    hangs_since: list[float] = []

    def stop() -> bool:  # once what they had cut before is used up
        return bool(hangs_since) and time.monotonic() > hangs_since[0] + 0.7

    for event in fit(tiny.job(tmp_path, workers=1, steps=10_000, timeout_s=20.0), stop):
        if isinstance(event, Epoch) and not hangs_since:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGSTOP)
            hangs_since.append(time.monotonic())
    assert isinstance(event, Epoch) and event.stopped and checkpoint.read(tmp_path / LAST)["step"] == event.step
    assert not multiprocessing.active_children()
