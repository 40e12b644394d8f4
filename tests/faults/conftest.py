"""A trainer in a process of its own that can be killed, and what its run has on the server afterwards."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from end_to_end.conftest import TINY
from faults import stage_process
from mlflow_server import Server
from mlproject.errors import ModelError
from mlproject.training import checkpoint
from mlproject.training.job import LAST

STEPS = 24
DIFFERS = ("train/patches_per_second", "system/")  # from one run to another


@dataclass
class Command:
    """A running command."""

    process: ForkServerProcess
    output: Path

    def wait(self, seconds: float = 120) -> int:
        """Its exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it does not end: {self.said}"
        return self.process.exitcode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.output.read_text() if self.output.exists() else ""


@dataclass(frozen=True)
class Place:
    """Where commands are typed: their work_dir, and the server that they log to."""

    folder: Path
    data: Path
    url: str

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.url)

    def start(self, stage: str, **settings: str) -> Command:
        """Begin a stage; dots in a setting's name are double underscores."""
        given = {"work_dir": str(self.work), **{name.replace("__", "."): value for name, value in settings.items()}}
        if stage != "sync":
            usual = {"training.steps": str(STEPS), "data.layout": "isles2022", "data.root": str(self.data)}
            given = TINY | usual | given
        # Where a test of this process has loaded a model, its own code would be run.
        sys.path[:] = [folder for folder in sys.path if "artifacts/code" not in folder]
        words = [stage, *(word for name, value in given.items() for word in (f"--{name}", value))]
        output = self.folder / f"{stage}-{time.monotonic_ns()}.txt"
        environment = {"MLFLOW_TRACKING_URI": self.url}
        process = multiprocessing.get_context("forkserver").Process(
            target=stage_process.run, args=(words, self.folder, environment, output)
        )
        process.start()
        return Command(process, output)

    def run(self, stage: str, **settings: str) -> Command:
        """The same, done."""
        command = self.start(stage, **settings)
        command.wait()
        return command

    def last(self) -> dict[str, Any]:
        """The newest checkpoint of the only run in work_dir; empty before there is one."""
        try:
            return next((checkpoint.read(file) for file in self.work.glob(f"runs/*/{LAST}")), {})
        except ModelError:
            return {}

    def step(self) -> int:
        """The step of that checkpoint."""
        return int(self.last().get("step", 0))

    def run_id(self) -> str:
        (folder,) = self.work.glob("runs/*")
        return folder.name

    def record(self) -> dict[str, Any]:
        """What the server has of the only training run: nothing that differs from one run to another."""
        client, run_id = self.client, self.run_id()
        run = client.get_run(run_id)
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
        return {
            "status": run.info.status,
            "curves": {
                name: sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
                for name in sorted(run.data.metrics)
                if not name.startswith(DIFFERS)
            },
            "paces": sorted(point.step for point in client.get_metric_history(run_id, DIFFERS[0])),
            "parameters": set(run.data.params),
            "artifacts": _files(client, run_id),
            "tags": {name: run.data.tags.get(name) for name in ("checkpoint_step", "stage", "cases", "device")},
            "description": "Best validation Dice" in run.data.tags["mlflow.note.content"],
            "models": [(str(model.status), model.name) for model in models],
            "outputs": len(run.outputs.model_outputs),
            "of the model": [(metric.key, metric.value, metric.step) for model in models for metric in model.metrics],
        }


def _files(client: mlflow.MlflowClient, run_id: str, folder: str = "") -> list[str]:
    """All artifacts; a picture without what makes its name its own."""
    found = []
    for entry in client.list_artifacts(run_id, folder or None):
        name = entry.path.partition("+timestamp+")[0] + ("+small" if "+compressed" in entry.path else "")
        found += _files(client, run_id, entry.path) if entry.is_dir else [name]
    return sorted(found)


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one["network"][name], other["network"][name]) for name in other["network"])


def wait_until(what: Callable[[], object], command: Command | None = None, seconds: float = 120) -> None:
    """Wait for something, and no longer than a command lives."""
    until = time.monotonic() + seconds
    while not what():
        ended = command is not None and not command.process.is_alive()
        assert not ended or what(), f"it has ended before: {command.said if command else ''}"
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="session", autouse=True)
def _prepared() -> None:
    """Commands begin in a moment: their process is forked from one that has imported what they need."""
    multiprocessing.set_forkserver_preload(["mlproject.stages.train", "mlproject.stages.sync", "mlproject.cli"])


@pytest.fixture
def place(mlflow_server: Server, tmp_path: Path, tiny_isles: Path) -> Iterator[Place]:
    yield Place(tmp_path, tiny_isles, mlflow_server.url)
    mlflow_server.start()


@pytest.fixture(scope="session")
def undisturbed(mlflow_server: Server, tmp_path_factory: pytest.TempPathFactory, tiny_isles: Path) -> Place:
    """Where a training went through, never disturbed."""
    calm = Place(tmp_path_factory.mktemp("calm"), tiny_isles, mlflow_server.url)
    command = calm.run("train")
    assert command.wait() == 0, command.said
    return calm
