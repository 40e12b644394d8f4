"""The tracking server is stopped in mid-training: nothing waits for it, nothing is lost, nothing is there twice."""

import time

import pytest
from mlflow.entities import Run

from faults.conftest import STEPS, Place, same_weights, wait_until
from mlflow_server import Server
from mlproject.tracking.spool import waiting


@pytest.mark.long
def test_gone_in_mid_training_then_back(place: Place, mlflow_server: Server, undisturbed: Place) -> None:
    command = place.start("train", tracking__wait_s="60")
    wait_until(lambda: 0 < place.step() < STEPS, command)
    mlflow_server.stop()
    wait_until(lambda: place.step() == STEPS, command)  # the training itself does not wait
    trained = time.time() * 1000
    assert waiting(place.work / "spool" / place.run_id()) > 0
    mlflow_server.start()
    assert command.wait() == 0, command.said
    assert place.record() == undisturbed.record()
    assert same_weights(place.last(), undisturbed.last())
    points = place.client.get_metric_history(place.run_id(), "validation/dice")
    assert all(point.timestamp < trained for point in points)  # when they were measured, not when they came
    assert command.said.count("takes nothing") == 1 and command.said.count("is back") == 1
    assert not list(place.work.glob("spool/*"))


def test_gone_until_the_end_and_beyond(place: Place, mlflow_server: Server, undisturbed: Place) -> None:
    command = place.start("train", tracking__wait_s="1")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.stop()
    assert command.wait() == 3, command.said
    spool = place.work / "spool" / place.run_id()
    assert f"{waiting(spool)} entries that run {place.run_id()} has logged wait in {spool}" in command.said
    assert f"sync --work_dir {place.work}" in command.said and "Traceback" not in command.said
    refused = place.run("sync")
    assert refused.wait() == 2 and "does not answer" in refused.said
    mlflow_server.start()
    together = [place.start("sync"), place.start("sync")]  # do no harm
    codes = [one.wait() for one in together]
    assert codes == [0, 0], together[0].said + together[1].said
    assert place.record() == undisturbed.record()
    nothing = place.run("sync")
    assert nothing.wait() == 0 and "nothing waits" in nothing.said


@pytest.mark.long
def test_the_next_run_delivers_what_waits(place: Place, mlflow_server: Server, undisturbed: Place) -> None:
    first = place.start("train", tracking__wait_s="0")
    wait_until(lambda: place.step() > 0, first)
    mlflow_server.stop()
    assert first.wait() == 3, first.said
    run_id = place.run_id()
    mlflow_server.start()
    second = place.run("train", training__steps="2")
    assert second.wait() == 0 and f"run {run_id}: " in second.said, second.said
    run: Run = place.client.get_run(run_id)
    assert run.info.status == "FINISHED" and len(run.outputs.model_outputs) == 1


@pytest.mark.long
def test_main_says_what_waits_and_goes_on_later(place: Place, mlflow_server: Server) -> None:
    command = place.start("main", tracking__wait_s="1")
    wait_until(lambda: place.step() > 0, command)
    mlflow_server.stop()
    assert command.wait() == 3, command.said
    (line,) = [line for line in command.said.splitlines() if line.startswith("error: ")]
    parent = line.rpartition("--training.resume ")[2].split()[0]
    mlflow_server.start()
    again = place.run("main", training__resume=parent)
    assert again.wait() == 0, again.said
    run, below = place.client.get_run(parent), f"tags.mlflow.parentRunId = '{parent}'"
    children = place.client.search_runs([run.info.experiment_id], below)
    assert sorted(child.data.tags["stage"] for child in children) == ["evaluate", "postprocess", "train"]
    assert {one.info.status for one in [run, *children]} == {"FINISHED"}
