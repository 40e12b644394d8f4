"""`reproduce` on a tiny data set: every part, twice, stopped and gone on with."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from end_to_end.conftest import TINY
from mlproject import cli, config
from mlproject.errors import Interrupted
from mlproject.stages.paper.laboratory import Laboratory, _result
from mlproject.stages.settings import Experiment
from mlproject.tracking.history import history, moments

PAPER = """
network: {name: vnet, vnet: {channels: 2, convolutions: [1, 1], bottom_convolutions: 1}}
training: {optimizer: adagrad, decay: step, warmup_steps: 0, batch_size: 1}
"""
PLATFORM = "training: {batch_size: 2, learning_rate: 3.0e-3}"


@pytest.fixture
def command(tracking: Path, tiny_isles: Path) -> list[str]:
    (tracking / "paper.yaml").write_text(PAPER)
    (tracking / "platform.yaml").write_text(PLATFORM)
    settings = {
        **{name: value for name, value in TINY.items() if name != "training.accelerator"},
        "data.root": str(tiny_isles),
        "work_dir": str(tracking / "work"),
        "patches.per_case": "1",
        "training.steps": "6",
        "training.learning_rate": "1e-2",
        "training.log_every": "3",
        "training.warmup_steps": "0",
        "reproduce.seeds": "[0,1]",
        "reproduce.loss_steps": "4",
        "reproduce.workers_steps": "4",
        "reproduce.validations": "2",
        "reproduce.rates": "[1e-2]",
        "reproduce.paper": str(tracking / "paper.yaml"),
        "reproduce.platform": str(tracking / "platform.yaml"),
        "reproduce.about": "Of no patient: boxes.",
        "reproduce.document": str(tracking / "out" / "paper.md"),
    }
    return ["reproduce", *(word for name, value in settings.items() for word in (f"--{name}", value)), "--json"]


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def trainings(parent: object) -> dict[str, str]:
    """Status of each training below a study, by its run's id."""
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_id: run.info.status for run in found}


def figures_of_all_steps(parent: object) -> dict[str, tuple[float, ...]]:
    """The loss at each logged step of each finished training below a study, by the training's name."""
    client = mlflow.MlflowClient()
    finished = [run_id for run_id, status in trainings(parent).items() if status == "FINISHED"]
    return {
        str(client.get_run(run_id).info.run_name): tuple(
            point.value for point in sorted(client.get_metric_history(run_id, "train/loss"), key=lambda p: p.step)
        )
        for run_id in finished
    }


def losses(run_id: object) -> pd.DataFrame:
    return pd.read_csv(mlflow.MlflowClient().download_artifacts(str(run_id), "claims/loss.csv"))


def test_a_file_that_is_not_there_begins_no_study(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("reproduce.paper", "reproduce.platform"):
        assert cli.main([*command, f"--{name}", "nofile.yaml"]) == 2
        assert "no configuration file 'nofile.yaml'" in str(told(capsys)["error"])
    client = mlflow.MlflowClient()
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_every_claim_is_examined_and_written_down(
    command: list[str], tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--reproduce.parts", "[network,crf,workers]"]) == 0
    first = told(capsys)
    assert set(first["verdicts"]) == {"network", "crf", "workers"}  # type: ignore[call-overload]
    page = Path(str(first["page"])).read_text()
    for part in ("network", "crf", "workers"):
        assert f"(paper/{part}.png)" in page and (tracking / "out" / "paper" / f"{part}.png").stat().st_size > 10_000
    for words in ("the paper's V-Net", "4,571", "Holm", "What speaks against it", "mean gain", "No row for GPUs"):
        assert words.lower() in page.lower()
    for words in ("1 patch of 16 x 16 x 16", "adamw, 0.003", "of claim 1, whose best validation", str(first["run_id"])):
        assert words in page
    assert page.count("Of no patient: boxes.") == 1 + 3 and "-e reproduce" in page
    assert str(tracking) not in page
    for run_id in trainings(first["run_id"]):
        assert_seconds_of_all_steps_and_validations(run_id)

    before = trainings(first["run_id"])
    assert len(before) == 2 + 4 and set(before.values()) == {"FINISHED"}
    assert cli.main([*command, "--reproduce.parts", "[crf]", "--reproduce.document", ""]) == 0
    again = told(capsys)
    assert again["run_id"] == first["run_id"] and again["verdicts"] == first["verdicts"]
    assert trainings(first["run_id"]) == before


def assert_seconds_of_all_steps_and_validations(run_id: str) -> None:
    """A training's seconds are those of its steps at least, and its clock begins before its first validation."""
    assert moments(run_id, "train/loss").iloc[0] <= moments(run_id, "validation/dice").iloc[0]
    experiment = config.from_tree(Experiment, settings_of(run_id), run_id)
    curve = _result(run_id, experiment).curve
    pace = history(run_id, {"train/patches_per_second": "pace"}).set_index("step")["pace"]
    taken = (experiment.training.batch_size / pace * np.diff(pace.index, prepend=0)).cumsum()
    assert (curve["seconds"] > taken.reindex(curve["step"], method="ffill").to_numpy() - 0.005).all()


def settings_of(run_id: str) -> dict[str, object]:
    tree: dict[str, object] = yaml.safe_load(
        Path(mlflow.MlflowClient().download_artifacts(run_id, "config.yaml")).read_text()
    )
    return tree


@pytest.mark.long
def test_losses_stopped_gone_on_with_and_repeated(
    command: list[str], tracking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command += ["--reproduce.parts", "[loss]"]
    fit, fits = Laboratory._fit, []

    def until_the_fifth(laboratory: Laboratory, *arguments: object) -> float:
        fits.append(arguments)
        if len(fits) == 5:
            raise Interrupted("stopped", 2)
        return fit(laboratory, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Laboratory, "_fit", until_the_fifth)
    assert cli.main(command) == 130
    stopped = told(capsys)
    assert stopped["status"] == "stopped" and "goes on with the study 'paper'" in str(stopped["error"])
    assert cli.main(command) == 0
    whole = told(capsys)
    statuses = list(trainings(whole["run_id"]).values())
    assert len(fits) == 5 + 5 and sorted(statuses) == ["FINISHED"] * 9 + ["KILLED"]
    curves = losses(whole["run_id"])
    assert (
        curves.groupby(["panel", "variant", "seed"]).ngroups == 2 * 3 * 2
        and (curves.groupby("panel").size() == 12).all()
    )

    assert cli.main([*command, "--reproduce.study", "second"]) == 0
    second = told(capsys)
    assert second["run_id"] != whole["run_id"] and len(fits) == 10 + 9
    pd.testing.assert_frame_equal(losses(second["run_id"]), curves)
    # After so few steps, the Dice may be 0 for all; the losses show the batches and the weights.
    steps = figures_of_all_steps(whole["run_id"])
    assert figures_of_all_steps(second["run_id"]) == steps
    assert len(steps) == 9 == len(set(steps.values())) and all(len(values) > 1 for values in steps.values())

    assert cli.main([*command, "--training.learning_rate", "2e-2"]) == 2
    assert "cannot go on with other settings" in str(told(capsys)["error"])
    assert cli.main([*command, "--training.steps", "null", "--training.epochs", "2"]) == 2
    assert "training.steps=null" in str(told(capsys)["error"])
