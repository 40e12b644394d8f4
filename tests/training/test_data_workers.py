"""A process that cuts patches dies or hangs: the fit ends by an error that says so, and its checkpoint is kept."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

import tiny
from mlproject.errors import TrainingError
from mlproject.training import checkpoint
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
