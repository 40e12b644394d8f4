"""SIGTERM, as a scheduler sends it before it takes the machine away: all is over within PROMISED_S."""

import signal
import subprocess
import time

import psutil
import pytest

from end_to_end.conftest import Workplace
from faults.conftest import Place, wait_until
from mlflow_server import Server

PROMISED_S = 30


def test_checkpoint_delivered_and_killed(place: Place) -> None:
    command = place.start("train", training__steps="100000", training__upload_every="0")
    wait_until(lambda: place.step() > 0, command)
    command.kill(signal.SIGTERM)
    assert command.wait(PROMISED_S) == 128 + signal.SIGTERM, command.said
    run = place.client.get_run(place.run_id())
    assert run.info.status == "KILLED" and "error: stopped at step" in command.said
    assert run.data.tags["checkpoint_step"] == str(place.step())
    assert not list(place.work.glob("spool/*"))


def delivered_and_killed(place: Place) -> bool:
    """Whether `sync` delivers all that waits, the run's end and its newest checkpoint among it."""
    synced = place.run("sync")
    assert synced.wait() == 0, synced.said
    run = place.client.get_run(place.run_id())
    return run.info.status == "KILLED" and run.data.tags["checkpoint_step"] == str(place.step())


@pytest.mark.long
def test_with_the_server_gone_it_ends_too(place: Place, mlflow_server: Server) -> None:
    command = place.start("train", training__steps="100000")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.stop()
    command.kill(signal.SIGTERM)
    assert command.wait(PROMISED_S) == 128 + signal.SIGTERM, command.said
    assert f"has logged wait in {place.work / 'spool' / place.run_id()}" in command.said
    mlflow_server.start()
    assert delivered_and_killed(place)


def processes_of(place: Place, run_id: str) -> list[psutil.Process]:
    """All that a command typed there has started and left, by what stands in their command lines."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(name in " ".join(process.info["cmdline"] or ()) for name in (str(place.work), run_id))
    ]


@pytest.mark.long
def test_mlflow_run_itself_with_the_server_gone(place: Place, mlflow_server: Server) -> None:
    user = Workplace(place.folder, place.data)
    words = user.mlflow_run("-e", "train", training__steps="100000")
    environment = user.environment | {"MLFLOW_TRACKING_URI": place.url}
    with (place.folder / "said.txt").open("w") as said:
        launched = subprocess.Popen(words, cwd=place.folder, env=environment, stdout=said, stderr=said)
    wait_until(lambda: place.step() > 0)
    mlflow_server.stop()
    launched.terminate()  # it alone; its child has to notice
    until = time.monotonic() + PROMISED_S
    assert launched.wait() == -signal.SIGTERM
    wait_until(lambda: not processes_of(place, place.run_id()), seconds=until - time.monotonic())
    assert "error: stopped at step" in (place.folder / "said.txt").read_text()
    mlflow_server.start()
    assert delivered_and_killed(place)
