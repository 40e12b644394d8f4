"""What becomes of a run."""

from pathlib import Path

import mlflow
import pytest

from mlproject import cli, interrupts


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
