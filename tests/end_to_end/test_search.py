"""A search through the real command, on tiny cases: what it leaves in MLflow, and what it survives."""

import json
import os
import signal
import subprocess
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from end_to_end.conftest import Workplace, columns_of, wait_for
from mlproject.tracking.experiment_page import RESULTS, TRIALS
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


@pytest.mark.long
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

    assert {*TRIALS.columns, TRIALS.order_by} <= columns_of(finished)
    assert set(RESULTS.columns) <= columns_of(parent)

    assert parent.data.metrics["search/best_value"] == study.best_value > 0.1
    assert {f"test/dice_{variant}" for variant in ("network", "best_threshold", "with_CRF")} <= set(parent.data.metrics)
    logged = {file.path for file in place.client().list_artifacts(parent.info.run_id, "search")}
    assert {f"search/{name}" for name in ("study.html", "trials.csv", "history.png")} <= logged
    (version,) = place.client().search_model_versions("name = 'stroke-lesion'")  # the best one's, registered once
    assert version.run_id == finished.info.run_id == parent.data.tags["best_run"]
    # Its page, and the evaluation's, say what it was trained with, not what the study was given.
    varied = {name: finished.data.params[f"cfg.{name}"] for name in ("loss.dice", "training.learning_rate")}
    card = Path(place.client().download_artifacts(parent.info.run_id, "model_card.md")).read_text()
    assert {f"{name}: {value}" for name, value in varied.items()} <= set(card.splitlines())
    assert f"| training run | {version.run_id} |" in card
    assert "| trial | 0 of the study loss\\-and\\-crf" in card
    (test,) = place.runs("evaluate")
    assert {name: test.data.params[f"cfg.{name}"] for name in varied} == varied
    assert parent.data.params["cfg.loss.dice"] != varied["loss.dice"]
    note = parent.data.tags["mlflow.note.content"]
    assert " -P search.study=NEW_NAME " in note and "To join it" in note
    assert list(place.folder.glob("work/runs/*/last.pt")) == []  # no trial's checkpoint stays

    again = place.run(place.stage_command("search", search__trials="3"))
    assert again.returncode == 0 and "is complete" in again.stdout, again.stderr
    assert len(place.runs("trial")) == 3
    assert [run.info.status for run in place.runs("search")] == ["FINISHED"]

    other = place.run(place.stage_command("search", search__trials="3", training__steps="41"))
    assert other.returncode == 2
    (line,) = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    assert "training.steps (then 80, now 41)" in line


def begin(place: SearchPlace, database: str) -> subprocess.Popen[str]:
    settings = {"search__trials": "2", "search__pruner": "none", "training__steps": "300"}
    command = place.stage_command("search", search__space=json.dumps(SPACE[:1]), **settings)
    environment = {**place.environment, DATABASE_VARIABLE: database}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=place.folder, env=environment, text=True, start_new_session=True, **pipes)


def in_training(place: SearchPlace) -> list[str]:
    """Ids of the trial runs that are in mid-training."""
    return [
        run.info.run_id
        for run in place.runs("trial")
        if run.info.status == "RUNNING" and "validation/dice" in run.data.metrics
    ]


def statuses(place: SearchPlace, stage: str) -> list[str]:
    return [run.info.status for run in place.runs(stage)]


@pytest.mark.long
def test_a_worker_killed_another_takes_over_is_stopped_and_a_third_goes_on(
    place: SearchPlace, postgres_url: str
) -> None:
    first = begin(place, postgres_url)  # the one that began the study
    wait_for(lambda: in_training(place))
    (lost,) = in_training(place)
    trainers = psutil.Process(first.pid).children()
    for trainer in trainers:  # held in mid-trial until the second is there; the worker itself goes on living
        trainer.suspend()
    second = begin(place, postgres_url)
    wait_for(lambda: len(in_training(place)) == 2)
    for process in (first, *trainers):
        process.kill()
        process.wait()
    wait_for(lambda: statuses(place, "trial").count("FINISHED") == 1)  # the second's own trial; then it takes over
    wait_for(lambda: in_training(place) not in ([], [lost]))
    assert place.client().get_run(lost).info.status == "FAILED"
    os.killpg(second.pid, signal.SIGINT)
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 130 and "same command goes on" in stderr and "Traceback" not in stderr
    assert statuses(place, "trial") == ["FAILED", "FINISHED", "KILLED"]
    assert statuses(place, "worker") == ["KILLED"]

    third = begin(place, postgres_url)
    _, stderr = third.communicate(timeout=300)
    assert third.returncode == 0, stderr
    (parent,) = place.runs("search")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in place.runs("trial")} == {parent.info.run_id}
    assert statuses(place, "trial") == ["FAILED", "FINISHED", "KILLED", "FINISHED"]
    assert statuses(place, "worker") == ["KILLED", "FINISHED"]
    trials = optuna.load_study(study_name="loss-and-crf", storage=postgres_url).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert trials[0].params == trials[2].params == trials[3].params  # the same, tried again
