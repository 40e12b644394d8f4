"""Why a run failed stands in its tag `failure`, without the secrets that libraries' errors repeat."""

from pathlib import Path

import mlflow
import pytest

from mlproject.tracking import runs
from mlproject.tracking.settings import TrackingSettings

SETTINGS = TrackingSettings(system_metrics=False)


def test_failure_of_an_open_run(tracking: Path) -> None:
    with pytest.raises(RuntimeError), runs.open_run(SETTINGS, "a run", "train") as run:
        raise RuntimeError("request to https://me:MARK@host/x?token=MARK failed")
    assert mlflow.get_run(run.id).data.tags["failure"] == "request to https://host/x?token=*** failed"


def test_failure_of_a_run_closed_by_another(tracking: Path) -> None:
    run_id = runs.begin(SETTINGS, "a run")
    runs.close(run_id, "FAILED", "no connection to postgresql://me:MARK@host/db")
    runs.close(run_id, "FINISHED", "it is closed already")
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED" and run.data.tags["failure"] == "no connection to postgresql://me@host/db"
