"""What stands on the pages of runs and experiments, in a real database."""

import base64
import json
import zlib
from pathlib import Path

import mlflow
import numpy as np
import pytest

from mlproject.errors import SettingsError
from mlproject.tracking import experiment_page, runs
from mlproject.tracking.run_on_server import NOTE_TAG
from mlproject.tracking.settings import TrackingSettings
from mlproject.tuning.crf_settings import CrfSearchSettings

SETTINGS = TrackingSettings(system_metrics=False)


def tags_of(experiment_id: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_experiment(experiment_id).tags)


def test_experiment_page_is_set_up_once_and_what_people_wrote_stays(tracking: Path) -> None:
    with runs.open_run(SETTINGS, "main", "main") as run:
        pass
    tags = tags_of(run.experiment_id)
    assert tags[experiment_page.KIND] == "custom_model_development"
    for view in experiment_page.VIEWS:
        saved = json.loads(tags[f"{experiment_page.PREFIX}{view.key}"])
        state = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
        assert saved["name"] == view.name and tuple(state["selectedColumns"]) == view.columns
        assert set(state["columnWidths"]) <= {experiment_page.RUN_NAME, "duration", *view.columns}
        assert f"viewStateShareKey={view.key}" in tags[NOTE_TAG]
        mlflow.MlflowClient().search_runs([run.experiment_id], state["searchFilter"])  # raises where it is no filter
    mlflow.MlflowClient().set_experiment_tag(run.experiment_id, NOTE_TAG, "ours")
    with runs.open_run(SETTINGS, "main", "main"):
        pass
    assert tags_of(run.experiment_id)[NOTE_TAG] == "ours"


def test_description_is_brought_up_to_date_but_never_over_a_persons(tracking: Path) -> None:
    with runs.open_run(SETTINGS, "main", "main") as run:
        run.describe("begun")
        run.describe("done")
        assert runs.find(run.id).data.tags[NOTE_TAG] == "done"
        run.tag(**{NOTE_TAG: "mine"})
        run.describe("done again")
        assert runs.find(run.id).data.tags[NOTE_TAG] == "mine"
        run.tag(**{NOTE_TAG: ""})
        run.describe("x" * 10_000)  # longer than a tag may be


def test_settings_are_other_ones_where_their_values_are_not_where_their_spelling_is(tracking: Path) -> None:
    with runs.open_run(SETTINGS, "main", "main") as run:
        run.log_settings(CrfSearchSettings(trial_seconds=300))
    runs.refuse_other_settings(run.id, CrfSearchSettings(trial_seconds=300.0), ())
    runs.refuse_other_settings(run.id, CrfSearchSettings(trials=3), ("trials",))
    with pytest.raises(SettingsError, match=r"trial_seconds: 300 then, 301 now\): give the same ones, or dance"):
        runs.refuse_other_settings(run.id, CrfSearchSettings(trial_seconds=301), (), "dance")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("righteous-wren-325", "main dynunet"), ("my-run-3", "my-run-3"), ("trial 3", "trial 3"), ("wren", "wren")],
)
def test_only_a_made_up_name_is_replaced(tracking: Path, name: str, shown: str) -> None:
    with runs.open_run(SETTINGS, name, "main") as run:
        run.rename("main dynunet")
    assert runs.find(run.id).info.run_name == shown


def test_metrics_are_also_those_of_the_model(tracking: Path) -> None:
    client = mlflow.MlflowClient()
    with runs.open_run(SETTINGS, "evaluate", "evaluate") as run:
        model = client.create_logged_model(run.experiment_id, name="model")
        run.log_metrics({"before": 1.0})
        run.measures(f"models:/{model.model_id}", "isles", "abc")
        run.log_metrics({"test/dice": 0.8})
    (metric,) = client.get_logged_model(model.model_id).metrics
    assert (metric.key, metric.value, metric.dataset_name, metric.dataset_digest) == ("test/dice", 0.8, "isles", "abc")
    assert runs.find(run.id).data.metrics == {"before": 1.0, "test/dice": 0.8}


def test_pictures_stand_behind_a_slider(tracking: Path) -> None:
    with runs.open_run(SETTINGS, "train", "train") as run:
        for step in (10, 20):
            run.log_picture("validation/one case", np.full((4, 6, 3), step, np.uint8), step)
    files = [entry.path for entry in mlflow.MlflowClient().list_artifacts(run.id, "images")]
    steps = sorted(file.split("+step+")[1].split("+")[0] for file in files if file.endswith(".png"))
    assert steps == ["10", "20"]
    assert runs.find(run.id).data.tags["mlflow.loggedImages"].lower() == "true"
