"""What becomes of a run."""

from pathlib import Path

import mlflow
import pytest

from mlproject import cli, interrupts
from mlproject.errors import Interrupted
from mlproject.tracking import runs
from mlproject.tracking.settings import TrackingSettings


@pytest.mark.parametrize(("stopped", "status"), [(True, "KILLED"), (False, "RUNNING")])
def test_the_launchers_run_is_killed_where_a_signal_comes_before_a_stage_is_in_it(
    stopped: bool, status: str, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mlflow.MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    monkeypatch.setattr(interrupts, "launcher", lambda: None)

    def stage(*_: object) -> None:
        raise interrupts.stop_now("stopped") if stopped else ValueError("of its own")

    monkeypatch.setattr(cli, "_run", stage)
    assert cli.main(["train"]) != 0
    assert mlflow.get_run(run.info.run_id).info.status == status  # FAILED is for `mlflow run` to say


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_a_signal_keeps_from_being_opened_is_killed(
    goes_on: bool, tracking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_up(_: str) -> None:
        raise interrupts.stop_now("stopped")

    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id if goes_on else ""
    monkeypatch.setattr(runs.experiment_page, "set_up", set_up)
    with pytest.raises(Interrupted), runs.open_run(TrackingSettings(experiment="Default"), "x", "train", run_id=run_id):
        raise AssertionError("it is not open")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
