"""SIGTERM, as a scheduler sends it before it takes the machine away."""

import signal

import pytest

from faults.conftest import Place, wait_until
from mlflow_server import Server


def test_checkpoint_delivered_and_killed(place: Place) -> None:
    command = place.start("train", training__steps="100000", training__upload_every="0")
    wait_until(lambda: place.step() > 0, command)
    command.kill(signal.SIGTERM)
    assert command.wait(60) == 128 + signal.SIGTERM, command.said
    run = place.client.get_run(place.run_id())
    assert run.info.status == "KILLED" and "error: stopped at step" in command.said
    assert run.data.tags["checkpoint_step"] == str(place.step())
    assert not list(place.work.glob("spool/*"))


@pytest.mark.long
def test_with_the_server_gone_it_ends_too(place: Place, mlflow_server: Server) -> None:
    command = place.start("train", training__steps="100000")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.stop()
    command.kill(signal.SIGTERM)
    assert command.wait(60) == 128 + signal.SIGTERM, command.said
    assert f"has logged wait in {place.work / 'spool' / place.run_id()}" in command.said
    mlflow_server.start()
    assert place.run("sync").wait() == 0
    run = place.client.get_run(place.run_id())
    assert run.info.status == "KILLED" and run.data.tags["checkpoint_step"] == str(place.step())
