"""`evaluate --compare`: two models of one run of `main`, the one by its URI, the other by that run's id."""

import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from end_to_end.conftest import Workplace
from mlproject import cli
from mlproject.errors import ModelError, TrackingError
from mlproject.stages.compare import model_uri_of


@pytest.fixture
def client(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    monkeypatch.chdir(workplace.folder)
    mlflow.set_tracking_uri(f"sqlite:///{workplace.folder / 'mlflow.db'}")
    return workplace.client()


def test_two_models_are_compared_on_the_cases_that_neither_has_seen(
    workplace: Workplace, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    main, train, tuned = (workplace.runs(stage)[0].info.run_id for stage in ("main", "train", "postprocess"))
    command = ["evaluate", "--model", f"runs:/{train}/model", "--compare", main, "--tracking.system_metrics", "false"]
    command += ["--data.root", str(workplace.data), "--work_dir", str(workplace.folder / "work")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^channels: dwi, adc\ncases:    \d+ to measure, those that neither model has seen$", printed, re.M
    )
    assert re.search(r"^look: .*mlflow ui --backend-store-uri ", printed, re.M)
    report = re.findall(r"^report: +(.*)$", printed, re.M)[-1]

    run = workplace.runs("evaluate")[-1]
    assert run.data.tags["compare"] == f"runs:/{tuned}/model"  # what the main run has come to
    assert [given.dataset.name for given in run.inputs.dataset_inputs] == [workplace.data.name]
    trained = client.get_run(train).data.params
    of_the_model = ("cfg.data.channels", "cfg.preprocessing.crop_margin_mm", "cfg.network.dynunet.channels")
    assert all(run.data.params[name] == trained[name] for name in of_the_model)
    found = pd.read_csv(client.download_artifacts(run.info.run_id, "report/comparison.csv")).set_index("metric")
    table = pd.read_csv(client.download_artifacts(run.info.run_id, "report/per_case.csv"))
    split = pd.read_csv(client.download_artifacts(train, "split.csv"))
    assert set(table["case"]) == set(split[split["split"] == "test"]["case"])
    means = table.groupby("variant")["dice"].mean()
    assert found.loc["dice", "difference"] == pytest.approx(means["A"] - means["B"])
    assert run.data.metrics["compare/dice_difference"] == pytest.approx(found.loc["dice", "difference"])
    assert run.data.metrics["compare/dice_a"] == pytest.approx(means["A"])
    assert not any(name.startswith("test/") for name in run.data.metrics)
    assert "two models compared" in Path(report).read_text(encoding="utf-8")


@pytest.mark.long
def test_an_evaluation_is_done_again_by_its_description_wherever_the_alias_is_then(
    workplace: Workplace, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_registered_model_alias("stroke-lesion", "mine", "1")
    command = ["evaluate", "--model", "models:/stroke-lesion@mine", "--tracking.system_metrics", "false"]
    command += ["--cases", "all"]
    command += ["--data.root", str(workplace.data), "--work_dir", str(workplace.folder / "work")]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "models:/stroke-lesion/1, which is models:/stroke-lesion@mine now" in printed
    assert "note:     Not an estimate for new patients: the model was trained or tuned on 5 of the 6" in printed
    client.delete_registered_model_alias("stroke-lesion", "mine")
    first = workplace.runs("evaluate")[-1]
    assert "Not an estimate for new patients" in first.data.tags["mlflow.note.content"]
    workplace.do_again(first)
    again = workplace.runs("evaluate")[-1]
    assert first.data.tags["model"] == again.data.tags["model"] == "models:/stroke-lesion/1"
    assert first.info.run_id != again.info.run_id and first.data.metrics == again.data.metrics


def test_a_run_stands_for_its_model(workplace: Workplace, client: mlflow.MlflowClient) -> None:
    main, train, tuned, test = (
        workplace.runs(stage)[0].info.run_id for stage in ("main", "train", "postprocess", "evaluate")
    )
    assert model_uri_of(main) == model_uri_of(tuned) == f"runs:/{tuned}/model"
    assert model_uri_of(train) == f"runs:/{train}/model"
    for uri in ("models:/stroke-lesion/1", f"runs:/{train}/model", "/some/folder", ""):
        assert model_uri_of(uri) == uri
    with pytest.raises(ModelError, match=f"run {test} \\(evaluate\\) has no model: give the id of a run of main"):
        model_uri_of(test)
    with pytest.raises(TrackingError, match="no run"):
        model_uri_of("0" * 32)
