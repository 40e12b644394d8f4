"""Two runs begin at the same time: on one cache, in an experiment and under a model name that neither finds yet."""

import pytest

from faults.conftest import Place

pytestmark = pytest.mark.long


def test_both_succeed_and_one_is_the_first_champion(place: Place) -> None:
    new = {"tracking__experiment": "new", "tracking__registered_model": "new", "training__steps": "8"}
    together = [place.start("main", training__seed=str(seed), **new) for seed in range(2)]
    assert [command.wait(300) for command in together] == [0, 0], together[0].said + together[1].said
    client = place.client
    experiment = client.get_experiment_by_name("new")
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.stage = 'main'")
    assert [run.info.status for run in parents] == ["FINISHED"] * 2
    versions = {f"new/{version.version}": version for version in client.search_model_versions("name = 'new'")}
    assert set(versions) == {"new/1", "new/2"} == {run.data.tags["registered_model"] for run in parents}
    assert {version.status for version in versions.values()} == {"READY"}
    first = [run for run in parents if "is the first champion" in run.data.tags["champion"]]
    assert len(first) == 1
    held = f"new/{client.get_registered_model('new').aliases['champion']}"
    replaced = [run for run in parents if "becomes champion in place of" in run.data.tags["champion"]]
    assert held == (replaced or first)[0].data.tags["registered_model"]
    assert not [path for path in (place.work / "cache").iterdir() if path.name.startswith(".")]
