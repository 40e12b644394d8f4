"""Signals are tried on real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
WORK = """
import sys, time
sys.path.insert(0, {source!r})
from mlproject import interrupts
from mlproject.errors import Interrupted
interrupts.install()
launcher = interrupts.launcher()
if launcher:
    interrupts.stop_with(launcher)
try:
    if {graceful}:
        with interrupts.graceful():
            print("ready", flush=True)
            while not interrupts.requested():
                time.sleep(0.02)
            print("saved", flush=True)
            raise interrupts.stop_now("stopped")
    print("ready", flush=True)
    time.sleep(30)
except Interrupted as error:
    print("code", error.exit_code, flush=True)
"""


def start(graceful: bool, **environment: str) -> subprocess.Popen[str]:
    code = WORK.format(source=str(SOURCE), graceful=graceful)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_graceful_work_ends_by_itself(number: signal.Signals, code: int) -> None:
    process = start(graceful=True)
    process.send_signal(number)
    assert process.communicate(timeout=10)[0] == f"saved\ncode {code}\n"


def test_other_work_is_left_at_once() -> None:
    process = start(graceful=False)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "code 130\n"


def test_death_of_mlflow_run_stops_its_child() -> None:
    """A SIGTERM to `mlflow run` ends it without a word to the shell and the child that it started."""
    code = WORK.format(source=str(SOURCE), graceful=True)
    launcher = f"""
import os, subprocess, sys
os.environ["MLFLOW_RUN_ID"] = "x"
subprocess.Popen(["bash", "-c", "{sys.executable} -c \\"$WORK\\"; true"], env=dict(os.environ, WORK={code!r})).wait()
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.terminate()
    assert process.stdout.read() == "saved\ncode 143\n"


def test_threads_of_libraries_do_not_keep_a_stopped_process() -> None:
    """Python itself would wait for this one."""
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(SOURCE)!r})
from concurrent.futures import ThreadPoolExecutor
from mlproject import interrupts
interrupts.install()
interrupts.SECONDS_TO_EXIT = 0.1
asked = ThreadPoolExecutor().submit(time.sleep, 300)  # a server that says nothing
try:
    os.kill(os.getpid(), signal.SIGTERM)
    asked.result()
except interrupts.Interrupted as error:
    print("stopped")
    interrupts.exit_soon(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "stopped\n")
