"""Several trials at once: each gets GPUs of its own, and too few GPUs are refused."""

import pytest
import torch

from mlproject import config
from mlproject.errors import SettingsError
from mlproject.stages.search_helpers import gpu_groups
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
