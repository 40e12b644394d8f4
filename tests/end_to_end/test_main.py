"""`mlflow run`, entry point main: what a user finds in MLflow afterwards."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml

from end_to_end.conftest import PROJECT, Workplace, columns_of
from mlproject import cli, config
from mlproject.stages.settings import Experiment
from mlproject.tracking import experiment_page


def artifacts(place: Workplace, run_id: str, folder: str = "") -> set[str]:
    return {entry.path for entry in place.client().list_artifacts(run_id, folder or None)}


def test_one_parent_with_a_child_a_stage(workplace: Workplace) -> None:
    parent, *_ = workplace.runs("main")
    assert parent.info.status == "FINISHED"
    for stage in ("train", "postprocess", "evaluate"):
        of_parent = {"mlflow.parentRunId": parent.info.run_id}.items()
        (child,) = (run for run in workplace.runs(stage) if of_parent <= run.data.tags.items())
        assert child.info.status == "FINISHED"


def test_parameters_are_the_resolved_settings(workplace: Workplace) -> None:
    train, *_ = workplace.runs("train")
    assert train.data.params["cfg.patches.size"] == "[16, 16, 16]"
    assert train.data.params["cfg.loss.dice"] == "1.0"  # a default, never given
    file = workplace.client().download_artifacts(train.info.run_id, "config.yaml")
    settings = config.from_tree(Experiment, yaml.safe_load(Path(file).read_text()), "config.yaml")
    assert settings.training.steps == 8 and settings.network.dynunet.channels == (4, 8, 8)
    assert "mlflow.source.git.commit" in workplace.runs("main")[0].data.tags


def test_curves_and_artifacts_of_training(workplace: Workplace) -> None:
    train, *_ = workplace.runs("train")
    client = workplace.client()
    loss = client.get_metric_history(train.info.run_id, "train/loss")
    assert [point.step for point in loss] == [2, 4, 6, 8]
    assert {"train/learning_rate", "train/patches_per_second", "validation/dice"} <= set(train.data.metrics)
    assert {"config.yaml", "split.csv", "figures", "checkpoints"} <= artifacts(workplace, train.info.run_id)
    split = pd.read_csv(client.download_artifacts(train.info.run_id, "split.csv"))
    assert len(split) == 6 and set(split["split"]) == {"train", "validation", "test"}
    (dataset,) = train.inputs.dataset_inputs
    assert len(dataset.dataset.digest) == 16


def test_report_and_headline(workplace: Workplace) -> None:
    evaluate, *_ = workplace.runs("evaluate")
    parent, *_ = workplace.runs("main")
    assert {"report/report.html", "report/per_case.csv", "report/summary.json", "report/only_case.png"} & artifacts(
        workplace, evaluate.info.run_id, "report"
    ) >= {"report/report.html", "report/per_case.csv", "report/summary.json"}
    for name in ("test/dice", "test/lesion_f1", "test/volume_difference_ml", "test/dice_network"):
        assert parent.data.metrics[name] == evaluate.data.metrics[name]
    table = pd.read_csv(workplace.client().download_artifacts(evaluate.info.run_id, "report/per_case.csv"))
    assert list(dict.fromkeys(table["variant"])) == ["network", "best threshold", "with CRF"]
    chosen = json.loads(
        Path(workplace.client().download_artifacts(evaluate.info.run_id, "report/summary.json")).read_text()
    )["chosen"]
    assert table[table["variant"] == chosen]["dice"].mean() == parent.data.metrics["test/dice"]


def test_pages_say_what_was_run_and_how_to_do_it_again(workplace: Workplace) -> None:
    parent, *_ = workplace.runs("main")
    client, tags = workplace.client(), parent.data.tags
    assert parent.info.run_name == "main tiny seed 0 dynunet 8 steps"  # `mlflow run` had made one up
    assert (tags["dataset"], tags["cases"], tags["device"]) == ("tiny", "6", "CPU")
    note = tags["mlflow.note.content"]
    assert note.startswith("Test Dice **") and f"mlflow artifacts download --run-id {parent.info.run_id}" in note
    assert tags["mlflow.source.git.commit"] in note and str(workplace.data) not in note
    for stage in ("train", "postprocess", "evaluate"):
        child, *_ = workplace.runs(stage)
        assert parent.info.run_id in child.data.tags["mlflow.note.content"]
        assert "No result yet" not in child.data.tags["mlflow.note.content"]
    train, *_ = workplace.runs("train")
    assert any(file.startswith("images/") for file in artifacts(workplace, train.info.run_id, "images"))
    version = client.get_model_version("stroke-lesion", "1")
    card = client.download_artifacts(parent.info.run_id, "model_card.md")
    assert version.description.splitlines()[0] == Path(card).read_text().splitlines()[0]
    assert str(workplace.folder) not in Path(card).read_text() and str(workplace.data) not in Path(card).read_text()
    for words in ("no patient is in two parts", "data.layout: isles2022", "data.split\\_seed=0"):
        assert words in Path(card).read_text()
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    linked = {metric.key: metric for metric in model.metrics}
    assert linked["test/dice"].value == parent.data.metrics["test/dice"] and linked["test/dice"].dataset_name == "tiny"
    assert {name for name in parent.data.metrics if name.startswith("tuned/")} == {
        name for name in workplace.runs("postprocess")[0].data.metrics if name.startswith("tuned/")
    }


def test_every_column_of_the_saved_views_is_filled(workplace: Workplace) -> None:
    main, train = (columns_of(workplace.runs(stage)[0]) for stage in ("main", "train"))
    for view in (experiment_page.RESULTS, experiment_page.LOSS_AND_CRF):
        assert view.columns and set(view.columns) <= main, view.name
    assert experiment_page.CASE.order_by in train  # that of the trials: test_search.py


def test_what_is_printed_last(workplace: Workplace) -> None:
    printed = (workplace.folder / "stdout.txt").read_text()
    for words in ("with CRF", "report:", "models:/stroke-lesion/1", "mlflow ui", "mlflow models serve"):
        assert words in printed


def test_first_version_is_champion(workplace: Workplace) -> None:
    assert workplace.client().get_model_version_by_alias("stroke-lesion", "champion").version == 1


@pytest.mark.long
def test_second_main_does_not_replace_the_champion_without_evidence(workplace: Workplace) -> None:
    done = workplace.run(workplace.mlflow_run(training__seed="1"))
    assert done.returncode == 0, done.stderr
    client = workplace.client()
    assert {version.version for version in client.search_model_versions("name='stroke-lesion'")} == {1, 2}
    verdict_of = workplace.runs("main")[-1]
    verdict = json.loads(Path(client.download_artifacts(verdict_of.info.run_id, "champion/verdict.json")).read_text())
    held = client.get_model_version_by_alias("stroke-lesion", "champion").version
    assert verdict["moved"] == (held == 2) == ((verdict["difference"]["low"] or 0) > 0)
    assert verdict["reason"] in done.stdout.replace("\n", "")


def test_main_went_on_with_is_refused_with_other_settings(workplace: Workplace) -> None:
    parent = workplace.runs("main")[0].info.run_id
    done = workplace.run(workplace.mlflow_run("--run-id", parent, training__learning_rate="0.5"))
    assert done.returncode != 0
    assert "training.learning_rate: 0.005 then, 0.5 now" in done.stderr
    again = workplace.run(workplace.stage_command("main", training__resume=parent))
    assert again.returncode == 0 and f"run {parent} is complete" in again.stdout.replace("\n", "")


@pytest.mark.parametrize("stopped_in", ["Test", "the challenge"])
def test_main_gone_on_with_is_as_if_it_had_never_been_stopped(
    workplace: Workplace, stopped_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, (parent, *_) = workplace.client(), workplace.runs("main")
    stages = {stage: workplace.runs(stage)[0].info.run_id for stage in ("train", "postprocess", "evaluate")}
    before = record(workplace, parent.info.run_id, *stages.values())
    client.delete_tag(parent.info.run_id, "champion")  # the last thing that is done
    if stopped_in == "Test":
        client.update_run(stages["evaluate"], status="KILLED")
    ended = {stage: client.get_run(run_id).info.end_time for stage, run_id in stages.items()}
    monkeypatch.chdir(workplace.folder)
    mlflow.set_tracking_uri(f"sqlite:///{workplace.folder / 'mlflow.db'}")
    assert cli.main(workplace.stage_command("main", training__resume=parent.info.run_id)[2:]) == 0
    assert record(workplace, parent.info.run_id, *stages.values()) == before
    done_again = [stage for stage, run_id in stages.items() if client.get_run(run_id).info.end_time != ended[stage]]
    assert done_again == (["evaluate"] if stopped_in == "Test" else [])
    below = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(below) == len(stages)


def record(place: Workplace, *run_ids: str) -> list[tuple[object, ...]]:
    """Of each run its status, all that was ever logged of its metrics, and its models."""
    client, found = place.client(), []
    for run_id in run_ids:
        run = client.get_run(run_id)
        curves = {
            name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, name)]
            for name in run.data.metrics
        }
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
        found.append((run.info.status, curves, [model.model_id for model in models]))
    return found


def test_every_entry_point_is_declared() -> None:
    project = yaml.safe_load((PROJECT / "MLproject").read_text())
    without_environment = {"describe", "clean", "sync"}
    assert set(project["entry_points"]) == cli.STAGES.keys() - without_environment
