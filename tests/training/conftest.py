import multiprocessing
import os
from pathlib import Path

import pytest

from mlproject.training import processes

TESTS = Path(__file__).parents[1]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes are forked from one that has imported what they need: spawned, each takes seconds for that."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent / "src")]))
    multiprocessing.set_forkserver_preload(["tiny", "mlproject.training.processes"])
    monkeypatch.setattr(processes, "START_METHOD", "forkserver")
