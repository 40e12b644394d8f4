"""The tracking server accepts connections and answers nothing: nobody waits for it for long, and nothing is lost."""

import signal
import time
from collections.abc import Iterator

import pytest

from faults.conftest import STEPS, Place, same_weights, wait_until
from mlflow_server import Server
from mlproject.tracking.spool import waiting

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _goes_on(mlflow_server: Server) -> Iterator[None]:
    yield
    mlflow_server.go_on()


def test_in_mid_training_then_it_goes_on(place: Place, mlflow_server: Server, undisturbed: Place) -> None:
    command = place.start("train", tracking__wait_s="120")
    wait_until(lambda: 0 < place.step() < STEPS, command)
    mlflow_server.hang()
    wait_until(lambda: place.step() == STEPS, command)
    wait_until(lambda: "takes nothing" in command.said, command, seconds=60)
    assert waiting(place.work / "spool" / place.run_id()) > 0
    mlflow_server.go_on()
    assert command.wait(60) == 0, command.said
    assert place.record() == undisturbed.record()
    assert same_weights(place.last(), undisturbed.last())


def test_until_the_end_and_beyond(place: Place, mlflow_server: Server) -> None:
    command = place.start("train", tracking__wait_s="2")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.hang()
    assert command.wait(60) == 3, command.said
    assert f"has logged wait in {place.work / 'spool' / place.run_id()}" in command.said
    refused = place.start("sync")
    assert refused.wait(60) == 2, refused.said
    (line,) = [line for line in refused.said.splitlines() if line.startswith("error: ")]
    assert "does not answer (ReadTimeout)" in line
    mlflow_server.go_on()
    assert place.run("sync").wait() == 0
    assert place.client.get_run(place.run_id()).info.status == "FINISHED"


def test_sigterm_ends_it_within_30_seconds(place: Place, mlflow_server: Server) -> None:
    command = place.start("main", training__steps="100000", training__upload_every="1")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.hang()
    time.sleep(3)  # a call is under way
    command.kill(signal.SIGTERM)
    assert command.wait(30) == 128 + signal.SIGTERM, command.said
    assert "has logged wait in" in command.said and "Traceback" not in command.said
    mlflow_server.go_on()
    assert place.run("sync").wait() == 0
    runs = [place.client.get_run(folder.name) for folder in place.work.glob("runs/*")]
    assert [run.info.status for run in runs] == ["KILLED"] * 2  # of `main`, and of its training
