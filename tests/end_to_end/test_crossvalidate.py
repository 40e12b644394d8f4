"""`crossvalidate` on a tiny ISLES 2017 with the real names: stopped, gone on with, and its masks for the challenge."""

import json
import shlex
import shutil
from itertools import count
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from nibabel.nifti1 import Nifti1Image

import trees
from end_to_end.conftest import PROJECT, TINY
from mlproject import cli
from mlproject.errors import Interrupted
from mlproject.stages import compare, postprocess, train
from mlproject.tracking import registry

CONFIG = PROJECT / "conf" / "isles2017.yaml"


@pytest.fixture
def isles2017(tiny_isles: Path, tmp_path: Path) -> Path:
    """As the archive gave it out: six labelled cases of the VSD, two test cases of the SMIR without a label."""
    root = tmp_path / "ISLES2017"
    channels = yaml.safe_load(CONFIG.read_text())["data"]["channels"]
    training = trees.rewrite(tiny_isles, "isles2017", channels, root / "ISLES2017_Training")
    identifiers = count(127010)
    for file in sorted(training.rglob("*.nii")):
        stem = f"{file.stem.rpartition('.')[0]}.{next(identifiers)}"
        file.rename(file.with_name(f"{stem}.nii"))
        file.parent.rename(file.parent.with_name(stem))
    for number in (1, 2):
        for file in (training / f"training_{number}").rglob("*MR_*.nii"):
            stem = f"{file.stem.rpartition('.')[0].replace('VSD', 'SMIR')}.{next(identifiers)}"
            copy = root / "ISLES2017_Testing" / f"test_{number}" / stem / f"{stem}.nii"
            copy.parent.mkdir(parents=True)
            shutil.copy(file, copy)
    return root


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def below(parent: object) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["start_time"]))


def logged_twice(run: mlflow.entities.Run) -> list[str]:
    """Which metrics have a step twice, and the models beside the first one."""
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    steps = {name: [p.step for p in client.get_metric_history(run_id, name)] for name in run.data.metrics}
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    return [name for name, known in steps.items() if len(known) > len(set(known))] + [m.model_id for m in models[1:]]


def artifact(run_id: object, name: str) -> Path:
    return Path(mlflow.MlflowClient().download_artifacts(str(run_id), name))


def test_every_case_is_tested_once_and_the_folds_answer_as_one(
    isles2017: Path, tracking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **TINY,
        "config": str(CONFIG),
        "data.root": str(isles2017),
        "data.folds": "2",
        "preprocessing.spacing_mm": "[6,6,6]",
        "training.steps": "4",
        "work_dir": str(tracking / "work"),
    }
    command = ["crossvalidate", *(word for name, value in settings.items() for word in (f"--{name}", value)), "--json"]
    fit, trainings = train.train, []
    tune, tunings = postprocess.postprocess, []

    def counted(*arguments: object) -> object:
        trainings.append(arguments)
        return fit(*arguments)  # type: ignore[arg-type]

    def stopped_once(*arguments: object) -> object:
        tunings.append(arguments)
        tuned = tune(*arguments)  # type: ignore[arg-type]
        if len(tunings) == 2:  # all is logged, and the run not closed
            raise Interrupted("stopped", 2)
        return tuned

    monkeypatch.setattr(train, "train", counted)
    monkeypatch.setattr(postprocess, "postprocess", stopped_once)

    assert cli.main(command) == 130
    stopped = told(capsys)
    assert stopped["status"] == "stopped"
    go_on = shlex.split(str(stopped["error"]).partition("Go on with: ")[2].partition(" (or with")[0])[2:]
    parent_id = go_on[-1]
    assert [run.info.status for run in below(parent_id)] == ["FINISHED", "KILLED"]

    assert cli.main([*go_on, "--json"]) == 0
    done = told(capsys)
    assert done["run_id"] == parent_id
    parent = mlflow.MlflowClient().get_run(parent_id)
    folds = below(parent.info.run_id)
    assert parent.info.status == "FINISHED" and [run.info.status for run in folds] == ["FINISHED"] * 2
    assert [run.info.run_id for run in folds] == done["folds"]
    assert (len(trainings), len(tunings)) == (2, 3)  # what was done is not done again
    for fold in folds:
        stages = [run.data.tags["stage"] for run in below(fold.info.run_id)]
        assert stages == ["train", "postprocess", "evaluate"]
        assert not [doubled for run in below(fold.info.run_id) for doubled in logged_twice(run)]

    table = pd.read_csv(artifact(parent.info.run_id, "out_of_fold/cases.csv"))
    own = table[table["chosen"]]
    assert sorted(own["case"]) == [f"training_{number}" for number in range(1, 7)]
    assert own["dice"].mean() == pytest.approx(parent.data.metrics["test/dice"])
    assert parent.data.metrics["test/dice_low"] <= own["dice"].mean() <= parent.data.metrics["test/dice_high"]
    for number, fold in enumerate(folds):
        split = pd.read_csv(artifact(fold.info.run_id, "split.csv")).set_index("case")["split"]
        assert set(own.loc[own["fold"] == number, "case"]) == set(split[split == "test"].index)
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("Out-of-fold Dice **")
    for words in ("6 test cases", "in 2 folds, each case in the test part of one", "crossvalidate -P study=NEW_NAME"):
        assert words in note
    assert folds[1].info.run_id in note and str(isles2017) not in note

    assert done["model"] == "models:/stroke-lesion/1"
    described = registry.load("models:/stroke-lesion/1").description
    assert described.members == 2 and len(described.seen) == 6 * 2  # the tiny data set's dwi and adc, taken in turn
    version = mlflow.MlflowClient().get_model_version("stroke-lesion", "1")
    assert "Not measured with this model itself" in version.description
    assert "the data name no patients: each case counts as one" in version.description

    assert compare.model_uri_of(parent_id) == f"runs:/{parent_id}/model"
    assert train.training_run_of(folds[1].info.run_id) == below(folds[1].info.run_id)[0].info.run_id

    before = {run.info.run_id: run.info.end_time for fold in folds for run in (fold, *below(fold.info.run_id))}
    assert cli.main(command) == 0
    assert told(capsys)["run_id"] == parent.info.run_id
    again = [run for fold in below(parent.info.run_id) for run in (fold, *below(fold.info.run_id))]
    assert {run.info.run_id: run.info.end_time for run in again} == before and len(trainings) == 2
    assert len(mlflow.MlflowClient().search_model_versions("name = 'stroke-lesion'")) == 1
    assert cli.main([*command, "--training.learning_rate", "2e-2"]) == 2
    assert "0.002 then, 0.02 now): give the same ones, or give another name as study" in str(told(capsys)["error"])

    masks = tracking / "masks"
    testing = isles2017 / "ISLES2017_Testing"
    given = ["--model", "models:/stroke-lesion/1", "--data.root", str(testing), "--data.layout", "isles2017"]
    assert cli.main(["predict", *given, "--naming", "submission", "--output", str(masks)]) == 0
    for number in (1, 2):
        (mtt,) = (testing / f"test_{number}").rglob("*MTT*.nii")
        mask = Nifti1Image.from_filename(masks / f"SMIR.test_{number}.{mtt.stem.rpartition('.')[2]}.nii")
        scan = Nifti1Image.from_filename(next(mtt.parents[1].rglob("*ADC*.nii")))
        assert mask.shape == scan.shape and set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
        np.testing.assert_array_equal(mask.affine, scan.affine)
    assert len(list(masks.glob("SMIR*"))) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "data.folds=0: `crossvalidate` needs the number of folds, as data.folds=5"),
        (["--data.folds", "5", "--data.fold", "2"], "data.fold=2: `crossvalidate` does all folds"),
        (["--data.folds", "5", "--training.nodes", "2", "--training.main_address", "a:1"], "training.nodes=2"),
        (["--data.folds", "5", "--study", "a/b"], "study='a/b'"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(
    given: list[str], words: str, tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["crossvalidate", *given]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
