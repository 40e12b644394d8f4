"""The clock is set back an hour in mid-training, as a time server does that corrects it."""

import time
from pathlib import Path

import pytest

from faults import stage_process
from faults.conftest import STEPS, Place, wait_until

HOUR_NS = 3600 * 10**9
_run_stage = stage_process.run


def _set_back(words: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
    """A command whose clock is set back as soon as its folder holds a file of that name."""
    true_ns, flag = time.time_ns, folder / "clock"
    time.time_ns = lambda: true_ns() - HOUR_NS * flag.exists()
    time.time = lambda: time.time_ns() / 1e9
    _run_stage(words, folder, environment, output)


def test_set_back_an_hour(place: Place, undisturbed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_process, "run", _set_back)
    command = place.start("train")
    wait_until(lambda: place.step() > 0, command)
    (place.folder / "clock").touch()
    assert command.wait() == 0, command.said
    points = place.client.get_metric_history(place.run_id(), "train/loss")
    assert points[-1].step == STEPS and points[-1].timestamp < points[0].timestamp
    assert place.client.get_run(place.run_id()).data.metrics["train/loss"] == points[-1].value  # that of the last step
    assert place.record() == undisturbed.record()
