"""Several trials at once: each gets GPUs of its own, too few GPUs are refused, and all are stopped together."""

import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from mlproject import config, interrupts
from mlproject.errors import SettingsError
from mlproject.stages.search_helpers import gpu_groups, helpers
from mlproject.stages.settings import SearchSettings


def settings(parallel: int, devices: int, accelerator: str = "auto") -> SearchSettings:
    training = {"devices": devices, "batch_size": devices, "accelerator": accelerator}
    return config.from_tree(SearchSettings, {"search": {"parallel": parallel}, "training": training}, "a test")


@pytest.mark.parametrize(
    ("gpus", "visible", "parallel", "devices", "accelerator", "groups"),
    [
        (4, None, 2, 2, "auto", ["0,1", "2,3"]),
        (4, None, 4, 1, "cuda", ["0", "1", "2", "3"]),
        (4, None, 3, 1, "auto", ["0", "1", "2"]),
        (2, "5,7", 2, 1, "auto", ["5", "7"]),
        (4, None, 1, 2, "auto", []),  # one at a time: nothing to share out
        (4, None, 2, 1, "cpu", []),
        (0, None, 2, 1, "auto", []),
    ],
)
def test_each_trial_has_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    visible: str | None,
    parallel: int,
    devices: int,
    accelerator: str,
    groups: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_groups(settings(parallel, devices, accelerator)) == groups


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(SettingsError, match=r"search.parallel=2 .* need 4 GPUs, PyTorch sees 3"):
        gpu_groups(settings(2, 2))


HELPER = """
import pathlib, signal, time
notes = pathlib.Path(__file__).with_name("notes")

def note(*_):
    with notes.open("a") as file:
        print("stopped", file=file)

signal.signal(signal.SIGTERM, note)
print("ready", file=notes.open("w"), flush=True)
for _ in range(600):
    time.sleep(0.1)  # it closes what it has in hand
    if notes.with_name("closed").exists():
        break
"""


def test_helpers_are_stopped_once_while_the_trial_here_is_still_being_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "helper.py").write_text(HELPER)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "helper.py")])

    def wait_for(text: str) -> None:
        until = time.monotonic() + 30
        while not notes.exists() or notes.read_text() != text:
            assert time.monotonic() < until
            time.sleep(0.02)

    with pytest.raises(interrupts.Interrupted), helpers(settings(parallel=2, devices=1), []):
        wait_for("ready\n")
        monkeypatch.setattr(interrupts, "_received", signal.SIGTERM)
        wait_for("ready\nstopped\n")
        (tmp_path / "closed").touch()
        raise interrupts.stop_now("stopped")
    assert notes.read_text() == "ready\nstopped\n"
