"""The logic of docs/slurm.sh, with an srun and a scontrol that do as SLURM's; SLURM itself is not tried."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm.sh"
PROGRAMS = {
    # SLURM's srun kills its tasks at TERM, and passes USR1 on to them.
    "srun": """
        "$@" &
        trap 'kill -KILL $!' TERM
        trap 'kill -USR1 $!' USR1
        while wait $!; code=$?; kill -0 $! 2> /dev/null; do :; done
        exit $code
    """,
    "scontrol": """echo "scontrol $*" >> log""",
    # Our command's stand-in; all else that Python is asked for, Python does.
    "python": f"""
        [ "$1" = src/run.py ] || exec {sys.executable} "$@"
        echo "$*" >> log
        trap 'echo checkpoint >> log; exit 138' USR1
        [ -z "$ENDS" ] || exit "$ENDS"
        touch training
        while :; do sleep 0.05; done
    """,
}
Job = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def job(tracking: Path) -> Job:
    """Starts the batch script as SLURM would, in an empty folder; `ends`: the exit code with which training ends."""
    for name, text in PROGRAMS.items():
        (tracking / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tracking / name).chmod(0o755)
    path = f"{tracking}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"SLURM_JOB_ID": "4711", "SLURM_CPUS_PER_TASK": "2", "PYTHON": "./python", "PATH": path}
    command = ["bash", str(SCRIPT), "--config", "my conf.yaml", "--training.devices", "4"]
    return lambda ends="": subprocess.Popen(command, cwd=tracking, env=environment | {"ENDS": ends})


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def signalled(script: subprocess.Popen[bytes], folder: Path, number: signal.Signals) -> int:
    """Send a signal to the script while it trains, and wait for its exit code."""
    while not (folder / "training").exists():
        assert script.poll() is None
        time.sleep(0.05)
    script.send_signal(number)
    return script.wait(60)


def test_queued_again_before_its_time_is_up_the_job_goes_on_in_the_same_run(tracking: Path, job: Job) -> None:
    assert signalled(job(), tracking, signal.SIGUSR1) == 138
    (run,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("stroke-lesion").experiment_id])
    assert run.data.tags["slurm_job"] == "4711"
    trains = f"src/run.py main --config my conf.yaml --training.devices 4 --training.resume {run.info.run_id}"
    assert log(tracking) == [trains, "checkpoint", "scontrol requeue 4711"]
    assert job(ends="0").wait(60) == 0
    assert log(tracking)[3:] == [trains]


def test_a_job_that_is_told_to_end_is_queued_again_too_and_one_that_fails_is_not(tracking: Path, job: Job) -> None:
    (tracking / "slurm-4711.run").write_text("run-1\n")
    assert job(ends="1").wait(60) == 1
    assert len(log(tracking)) == 1
    assert signalled(job(), tracking, signal.SIGTERM) == 138
    assert log(tracking)[2:] == ["checkpoint", "scontrol requeue 4711"]
