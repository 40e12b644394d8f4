"""A search through the real command, on tiny cases: what it leaves in MLflow, and what it survives."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from end_to_end.conftest import Workplace
from mlproject.tuning.study import DATABASE_VARIABLE

SPACE = [
    {"name": "loss.dice", "low": 0.1, "high": 0.9, "complement": "loss.cross_entropy"},
    {"name": "training.learning_rate", "choices": [0.01, 1e-9, 1e30]},  # good, useless, diverging
]
SEARCH = {
    "search.space": json.dumps(SPACE),
    "search.pruner": "median",
    "search.startup_trials": "1",
    "search.heartbeat_seconds": "1",
    # With these, the good learning rate learns something within 80 steps.
    "data.split_seed": "1",
    "patches.size": "[24, 24, 16]",
    "patches.lesion_share": "1",
    "loss.batch_dice": "true",
    "network.dynunet.channels": "[8, 16, 16]",
    "training.steps": "80",
    "training.warmup_steps": "0",
    "training.validate_every": "5",
}


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


class SearchPlace(Workplace):
    """A place whose commands are searches."""

    @property
    def settings(self) -> dict[str, str]:
        return {**super().settings, **SEARCH, "config": "conf/search.yaml", "data.channels": "[dwi, adc]"}

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="loss-and-crf", storage=f"sqlite:///{self.folder / 'work' / 'study.db'}")


@pytest.fixture
def place(tmp_path: Path, tiny_isles: Path) -> SearchPlace:
    return SearchPlace(tmp_path, tiny_isles)


def test_a_search_leaves_its_trials_plots_and_best_model(place: SearchPlace) -> None:
    first = place.run(place.mlflow_run("-e", "search", search__trials="1"))
    assert first.returncode == 0, first.stdout + first.stderr
    for rate in ("1e-09", "1e+30"):
        place.study().enqueue_trial({"loss.dice": 0.5, "training.learning_rate": rate})
    # Three are the total, not three more; the two that are left run at the same time.
    second = place.run(place.mlflow_run("-e", "search", search__trials="3", search__parallel="2"))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Traceback" not in second.stderr

    (parent,) = place.runs("search")
    workers = place.runs("worker")
    assert [run.info.status for run in (parent, *workers)] == ["FINISHED"] * 3
    assert {run.data.tags["mlflow.parentRunId"] for run in workers} == {parent.info.run_id}
    study = place.study()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    finished, pruned, failed = sorted(place.runs("trial"), key=lambda run: int(run.data.tags["trial"]))
    assert [run.info.status for run in (finished, pruned, failed)] == ["FINISHED", "KILLED", "FAILED"]
    assert pruned.data.tags["outcome"] == "pruned" and "not finite" in failed.data.tags["failure"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (finished, pruned, failed)} == {parent.info.run_id}
    assert not set(failed.data.metrics) & {"trial/value", "trial/network_dice"}  # MLflow would draw NaN as the best
    for run, trial in zip((finished, pruned), study.trials, strict=False):
        assert set(run.data.metrics) >= {"trial/value", "trial/network_dice", "trial/share_trained"}
        assert run.data.metrics["trial/value"] == trial.value
        assert float(run.data.params["cfg.loss.dice"]) + float(run.data.params["cfg.loss.cross_entropy"]) == 1

    assert parent.data.metrics["search/best_value"] == study.best_value > 0.1
    assert {f"test/dice_{variant}" for variant in ("network", "best_threshold", "with_CRF")} <= set(parent.data.metrics)
    logged = {file.path for file in place.client().list_artifacts(parent.info.run_id, "search")}
    assert {f"search/{name}" for name in ("study.html", "trials.csv", "history.png")} <= logged
    (version,) = place.client().search_model_versions("name = 'stroke-lesion'")  # the best one's, registered once
    assert version.run_id == finished.info.run_id == parent.data.tags["best_run"]
    assert list(place.folder.glob("work/runs/*/last.pt")) == []  # no trial's checkpoint stays

    other = place.run(place.stage_command("search", search__trials="3", training__steps="41"))
    assert other.returncode == 2
    (line,) = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert "training.steps (then 80, now 41)" in line


def begin(place: SearchPlace, database: str) -> subprocess.Popen[bytes]:
    settings = {"search__trials": "2", "search__pruner": "none", "training__steps": "300"}
    command = place.stage_command("search", search__space=json.dumps(SPACE[:1]), **settings)
    environment = {**place.environment, DATABASE_VARIABLE: database}
    return subprocess.Popen(command, cwd=place.folder, env=environment, stdout=subprocess.DEVNULL)


def in_training(place: SearchPlace) -> list[str]:
    """Ids of the trial runs that are in mid-training."""
    return [
        run.info.run_id
        for run in place.runs("trial")
        if run.info.status == "RUNNING" and "validation/dice" in run.data.metrics
    ]


def test_two_workers_killed_in_mid_trial_and_a_third_that_goes_on(place: SearchPlace, postgres_url: str) -> None:
    first = begin(place, postgres_url)
    wait_for(lambda: in_training(place))
    trainers = psutil.Process(first.pid).children()
    for trainer in trainers:  # held in mid-trial until the second is as far; the worker itself goes on living
        trainer.suspend()
    second = begin(place, postgres_url)
    wait_for(lambda: len(in_training(place)) == 2)
    lost = in_training(place)
    for process in (first, second, *trainers):
        process.kill()
        process.wait()
    assert begin(place, postgres_url).wait(300) == 0

    (parent,) = place.runs("search")
    assert parent.info.status == "FINISHED"
    runs = {run.info.run_id: run for run in place.runs("trial")}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert [runs.pop(run_id).info.status for run_id in lost] == ["FAILED"] * 2
    assert [run.info.status for run in runs.values()] == ["FINISHED"] * 2
    assert sorted(run.info.status for run in place.runs("worker")) == ["FAILED", "FINISHED"]
    trials = optuna.load_study(study_name="loss-and-crf", storage=postgres_url).trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    assert [trial.params for trial in trials[:2]] == [trial.params for trial in trials[2:]]  # the same, tried again
