"""Stopped by a signal, gone on with in the same MLflow run, on another machine: the same weights."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from end_to_end.conftest import PROJECT, Workplace, wait_for
from mlproject.training import checkpoint
from mlproject.training.job import LAST


@pytest.fixture
def place(tmp_path: Path, tiny_isles: Path) -> Workplace:
    return Workplace(tmp_path, tiny_isles)


def weights(place: Workplace, run_id: str) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(place.folder / "work" / "runs" / run_id / LAST)["network"])


def test_sigterm_to_mlflow_run_then_resume_elsewhere(place: Workplace) -> None:
    options = {"training__steps": "60", "training__upload_every": "1"}
    command = place.mlflow_run(**options)
    launched = subprocess.Popen(command, cwd=place.folder, env=place.environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(place.folder.glob("work/runs/*/last.pt")))
    launched.terminate()  # ends `mlflow run` alone; the trainer notices that its launcher is gone
    launched.wait()
    wait_for(lambda: place.runs("main")[0].info.status == "KILLED", 30)
    (train,) = place.runs("train")
    (parent,) = place.runs("main")
    assert train.info.status == "KILLED"
    at = checkpoint.read(place.folder / "work" / "runs" / train.info.run_id / LAST)["step"]
    assert 0 < at < 60

    shutil.rmtree(place.folder / "work" / "runs")  # another machine has only what the run's artifacts hold
    done = place.run(place.mlflow_run("--run-id", parent.info.run_id, **options))
    assert done.returncode == 0, done.stderr
    assert [run.info.run_id for run in place.runs("train")] == [train.info.run_id]
    assert {run.info.status for stage in ("main", "train", "evaluate") for run in place.runs("train")} == {"FINISHED"}

    whole = place.run(place.stage_command("train", training__steps="60"))
    assert whole.returncode == 0, whole.stderr
    never_stopped = place.runs("train")[-1].info.run_id
    resumed, straight = weights(place, train.info.run_id), weights(place, never_stopped)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    for metric in ("train/loss", "validation/dice"):
        curves = [
            [(point.step, point.value) for point in place.client().get_metric_history(run_id, metric)]
            for run_id in (train.info.run_id, never_stopped)
        ]
        assert curves[0] == curves[1], metric  # every step once, with the same value


@pytest.mark.parametrize("through", ["mlflow run", pytest.param("python, two processes", marks=pytest.mark.long)])
def test_ctrl_c_says_how_to_go_on(place: Workplace, through: str) -> None:
    if through == "mlflow run":  # which sends its child SIGTERM on top of the terminal's SIGINT
        command, code = place.mlflow_run("-e", "train", training__steps="2000"), 1
    else:
        command, code = place.stage_command("train", training__steps="2000", training__devices="2"), 130
    process = subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list(place.folder.glob("work/runs/*/last.pt")))
    time.sleep(1)  # some steps beyond the checkpoint of the first epoch
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    wait_for(lambda: place.runs("train")[0].info.status == "KILLED", 60)
    (run,) = place.runs("train")
    (last,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert last.startswith("error: stopped at step") and f"--training.resume {run.info.run_id}" in last
    step = int(last.split("step ")[1].split(",")[0])
    assert checkpoint.read(place.folder / "work" / "runs" / run.info.run_id / LAST)["step"] == step


@pytest.mark.long
def test_main_with_two_processes(place: Workplace) -> None:
    done = place.run(place.stage_command("main", training__devices="2"))
    assert done.returncode == 0, done.stderr
    for stage in ("main", "train", "postprocess", "evaluate"):
        (run,) = place.runs(stage)
        assert run.info.status == "FINISHED"


def test_from_a_git_url(place: Workplace) -> None:
    """MLflow clones into a temporary folder, and runs what is committed there."""
    clone = place.folder / "repository"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
    command = [word.replace(str(PROJECT), f"file://{clone}") for word in place.mlflow_run("-e", "train")]
    done = place.run(command)
    assert done.returncode == 0, done.stderr
    (run,) = place.runs("train")
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == (
        subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True).stdout.strip()
    )
