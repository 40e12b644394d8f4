"""A model as MLflow keeps it: what its page shows works."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

import tiny
from mlproject.errors import ModelError, SettingsError
from mlproject.network.architectures import build_network
from mlproject.prediction.segmenter import Segmenter
from mlproject.tracking import registry
from mlproject.tracking.settings import TrackingSettings


@pytest.fixture
def run_id(tracking: Path) -> str:
    description = tiny.description(channels=("t1", "dwi"))  # the first is none that the synthetic cases have
    run = mlflow.MlflowClient().create_run(mlflow.create_experiment("here"))
    segmenter = Segmenter(description, build_network(tiny.NETWORK, 2, tiny.PATCHES.size))
    uri = registry.log_model(segmenter, run.info.run_id)
    assert uri == registry.model_of(run.info.run_id)
    return str(run.info.run_id)


def test_an_upload_that_is_cut_off_is_gone_on_with(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process dies in the midst of it: the same entry of its spool is delivered by the next one."""
    client = mlflow.MlflowClient()
    (whole,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    folder = registry.fetch(f"models:/{whole.model_id}", tmp_path / "fetched")
    again = client.create_run(whole.experiment_id).info.run_id
    for method in ("log_model_artifact", "finalize_logged_model", "log_outputs"):
        with monkeypatch.context() as patch:

            def fail(*_: object, **__: object) -> None:
                raise ConnectionError

            patch.setattr(mlflow.MlflowClient, method, fail)
            with pytest.raises(ConnectionError):
                registry.upload(again, folder, {}, "a key")
    uris = {registry.upload(again, folder, {}, "a key") for _ in range(2)}
    assert uris == {registry.model_of(again)} and len(client.get_run(again).outputs.model_outputs) == 1
    models = client.search_logged_models([whole.experiment_id], f"source_run_id = '{again}'")
    assert [str(model.status) for model in models] == ["READY"]
    assert registry.logged_uri(registry.fetch(*uris, tmp_path / "second")) in uris  # what it calls itself


def test_model_version_card_and_example(run_id: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    uri, client = registry.model_of(run_id), mlflow.MlflowClient()
    versions = [registry.register(uri, "m", ["t1", "dwi"]) for _ in range(2)]  # the second time after a kill
    assert versions == [1, 1]
    registry.give_card("m", 1, uri, "the card\n\n## More\n")
    assert capfd.readouterr().err == ""  # MLflow's own register_model talks
    version = client.get_model_version("m", "1")
    assert version.description.startswith("the card") and version.run_id == run_id
    page = client.get_registered_model("m").description
    assert "champion" in page and "--images.t1 t1.nii.gz --images.dwi dwi.nii.gz --output" in page
    tags = client.get_logged_model(uri.removeprefix("models:/")).tags
    assert [entry["version"] for entry in json.loads(tags["mlflow.modelVersions"])] == [1]
    assert tags["mlflow.note.content"] == version.description

    folder = registry.fetch("models:/m/1", tmp_path / "fetched")
    assert registry.logged_uri(folder) == uri
    assert (folder / "model_card.md").read_text().startswith("the card")
    request = json.loads((folder / "serving_input_example.json").read_text())
    assert request["dataframe_split"]["columns"] == ["t1", "dwi"]
    model = mlflow.pyfunc.load_model(str(folder))
    (answer,) = model.predict(model.input_example).to_dict("records")
    assert answer["model_version"] == "m/1" and answer["lesion_count"] >= 0 and answer["mask"]
    assert registry.register(uri, "n", ["t1", "dwi"]) == 1  # another name, its own first version


def test_an_alias_is_looked_up_once(run_id: str) -> None:
    uri, client = registry.model_of(run_id), mlflow.MlflowClient()
    for version, logged in enumerate((uri, registry.log_model(registry.load(uri), run_id)), start=1):
        registry.register(logged, "my model", ["t1"])
        client.set_registered_model_alias("my model", "best", str(version))
    assert registry.exact_uri("models:/my model@best") == "models:/my model/2"
    for exact in ("models:/my model/1", uri, f"runs:/{run_id}/model", "/folder/models:/a@b"):
        assert registry.exact_uri(exact) == exact
    with pytest.raises(ModelError, match="no model at 'models:/my model@worst'"):
        registry.exact_uri("models:/my model@worst")


def test_a_folder_that_is_not_there_is_told(tracking: Path) -> None:
    with pytest.raises(ModelError, match="no model at 'nowhere': there is no such folder"):
        registry.fetch("nowhere", tracking)


@pytest.mark.parametrize("name", ["my model", "a#b|<c>'\"`$%41;&*"])
def test_a_name_that_is_taken_works(run_id: str, name: str, tmp_path: Path) -> None:
    taken = TrackingSettings(registered_model=name).registered_model
    assert registry.register(registry.model_of(run_id), taken, ["t1"]) == 1
    assert registry.fetch(f"models:/{name}/1", tmp_path / "fetched").is_dir()


@pytest.mark.parametrize("name", ["team/stroke", "a:b", "", " ", ".", "..", "a?b", "a@b", "a\nb"])
def test_a_name_that_would_not_work_is_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(SettingsError, match=r"tracking\.registered_model="):
        TrackingSettings(registered_model=name)


def test_what_mlflow_refuses_is_said_as_it_is(run_id: str) -> None:
    with pytest.raises(MlflowException, match="Names cannot contain"):
        registry.register(registry.model_of(run_id), "team/stroke", ["t1"])


def test_a_model_of_another_server_has_no_uri_here(tracking: Path) -> None:
    (tracking / "MLmodel").write_text("model_id: m-0123")
    assert registry.logged_uri(tracking) == ""
    (tracking / "MLmodel").write_text("flavors: {}")  # logged by an older MLflow
    assert registry.logged_uri(tracking) == ""


def test_a_run_without_a_model_is_refused(tracking: Path) -> None:
    with mlflow.start_run(experiment_id=mlflow.create_experiment("here")) as run:
        pass
    with pytest.raises(ModelError, match="has logged no model"):
        registry.model_of(run.info.run_id)
