"""The server is away for a while where a stage needs an answer of it: the stage waits, and goes on by itself."""

import signal
import time

import pytest
from mlflow.entities import Run

from faults.conftest import Command, Place, wait_until
from mlflow_server import Server

pytestmark = pytest.mark.long
SEARCH = {
    "tracking__experiment": "away-search",
    "search__trials": "2",
    "search__space": '[{"name": "training.learning_rate", "choices": [0.01, 0.001]}]',
    "search__pruner": "none",
    "training__steps": "4",
}


def _away(command: Command, server: Server, moment: str) -> None:
    """Take the server away once the command has said something, and bring it back 20 seconds later."""
    wait_until(lambda: moment in command.said, command)
    server.stop()
    time.sleep(20)
    server.start()


def _runs(place: Place, experiment: str, stage: str = "%") -> list[Run]:
    """The runs of a stage, or all, in an experiment."""
    found = place.client.get_experiment_by_name(experiment)
    assert found is not None
    return list(place.client.search_runs([found.experiment_id], f"tags.stage LIKE '{stage}'"))


def test_search_at_the_start_of_a_trial(place: Place, mlflow_server: Server) -> None:
    command = place.start("search", **SEARCH)
    _away(command, mlflow_server, "Trial 1")
    assert command.wait(300) == 0, command.said
    assert command.said.count("waiting for it, at most 120 s") == 1, command.said
    runs = _runs(place, "away-search", "trial")
    assert sorted((run.data.tags["trial"], run.info.status) for run in runs) == [("0", "FINISHED"), ("1", "FINISHED")]
    assert not list(place.work.glob("spool/*"))


def test_crossvalidate_at_the_start_of_a_fold(place: Place, mlflow_server: Server) -> None:
    command = place.start(
        "crossvalidate", data__folds="3", study="away", training__steps="4", tracking__experiment="away-folds"
    )
    _away(command, mlflow_server, "Fold 1")
    assert command.wait(300) == 0, command.said
    assert command.said.count("waiting for it, at most 120 s") == 1, command.said
    folds = _runs(place, "away-folds", "fold")
    assert sorted((run.data.tags["fold"], run.info.status) for run in folds) == [(str(n), "FINISHED") for n in range(3)]


def test_sigterm_while_it_is_waited_for(place: Place, mlflow_server: Server) -> None:
    command = place.start("search", **SEARCH | {"tracking__experiment": "away-sigterm"})
    wait_until(lambda: "Trial 1" in command.said, command)
    mlflow_server.stop()
    wait_until(lambda: "waiting for it, at most 120 s" in command.said, command)
    command.kill(signal.SIGTERM)
    assert command.wait(30) == 128 + signal.SIGTERM, command.said
    assert "Traceback" not in command.said


def test_after_that_time_it_ends_and_can_be_gone_on_with(place: Place, mlflow_server: Server) -> None:
    command = place.start("main", tracking__experiment="away-long", tracking__wait_s="8")
    wait_until(lambda: "Postprocessing" in command.said, command)
    mlflow_server.hang()
    assert command.wait(60) in (2, 3), command.said
    mlflow_server.go_on()
    (line,) = [line for line in command.said.splitlines() if line.startswith("error: ")]
    parent = line.rpartition("--training.resume ")[2].split()[0]
    again = place.run("main", training__resume=parent, tracking__experiment="away-long")
    assert again.wait() == 0, again.said


def test_main_between_its_stages_with_a_server_that_hangs(place: Place, mlflow_server: Server) -> None:
    command = place.start("main", tracking__experiment="away-main")
    wait_until(lambda: "Postprocessing" in command.said, command)
    mlflow_server.hang()
    time.sleep(40)
    mlflow_server.go_on()
    assert command.wait(300) == 0, command.said
    runs = _runs(place, "away-main")
    assert sorted(run.data.tags["stage"] for run in runs) == ["evaluate", "main", "postprocess", "train"]
    assert {run.info.status for run in runs} == {"FINISHED"}
