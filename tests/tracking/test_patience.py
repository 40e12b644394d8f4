"""Servers that hang, fail, or lose an answer: what each call does then, and which entries are set aside."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from faults.conftest import wait_until
from mlflow_server import Server
from mlproject.errors import TrackingError, UndeliveredError
from mlproject.prediction.segmenter import Segmenter
from mlproject.tracking import patience, registry, runs
from mlproject.tracking.delivery import deliver_first
from mlproject.tracking.run_on_server import RunOnServer
from mlproject.tracking.settings import TrackingSettings
from mlproject.tracking.spool import ASIDE, Spool, waiting
from mlproject.tracking.waiting import deliver_spools
from s3_proxy import Answer, Proxy, proxy

QUICK = TrackingSettings(system_metrics=False, wait_s=60)
AT_ONCE = (1, 0.0)


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_state", patience._State())
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    patience.install()


@pytest.fixture
def before(mlflow_server: Server) -> Iterator[Proxy]:
    """A proxy before the server, to which all is logged."""
    with proxy(mlflow_server.url) as running:
        mlflow.set_tracking_uri(running.address)
        yield running


@pytest.fixture
def hanging() -> Iterator[socket.socket]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        yield silent


def refusing(status: int, *parts: str, error_code: str = "") -> Callable[[str, str, Answer], None]:
    """Answers what has one of these in its path, or all that there is, with an error."""

    def spoil(_: str, path: str, answer: Answer) -> None:
        if any(part in path for part in parts or ("/",)):
            answer.status, answer.headers = status, {"content-type": "application/json"}
            answer.body = f'{{"error_code": "{error_code}", "message": "spoilt"}}'.encode()

    return spoil


def test_a_hanging_server_holds_neither_a_call_nor_the_work(
    tmp_path: Path, hanging: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS_TO_LOOK", 0.2)
    monkeypatch.setattr(patience, "SECONDS_FOR_VALUES", 0.2)
    mlflow.set_tracking_uri(f"http://127.0.0.1:{hanging.getsockname()[1]}")
    spool = Spool(tmp_path / "run", "")
    spool.put("tags", {"tags": {"a": "1"}})
    for answered, asked in ((-1000.0, b"GET /health"), (time.monotonic(), b"POST /api/")):  # long ago, and just now
        patience._state.answered = answered
        with patience.at_most(0):
            assert "does not answer (ReadTimeout)" in deliver_first(spool, RunOnServer("0" * 32).take, enough=AT_ONCE)
        hanging.settimeout(1)
        arrived = []
        with suppress(TimeoutError):
            while True:
                arrived.append(hanging.accept()[0].recv(1000))
        assert arrived[0].startswith(asked), arrived
    assert len(spool) == 1
    spool.close()
    (outcome,) = deliver_spools(tmp_path)
    assert outcome.left == 1 and "does not answer (ReadTimeout)" in outcome.reason


def test_what_is_slow_gets_more_time_and_what_is_away_does_not(
    tmp_path: Path, before: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers all the while; an upload is answered when a slow bucket has the file."""
    monkeypatch.setattr(patience, "SECONDS_FOR_FILES", 0.4)
    with runs.open_run(QUICK, "a", "train") as run:
        pass

    def slow(method: str, _: str, __: Answer) -> None:
        time.sleep(1.0 if method == "PUT" else 0)

    before.spoil = slow
    spool = Spool(tmp_path / run.id, before.address)
    spool.put("artifacts", {"to": ""}, lambda folder: (folder / "large.txt").write_text("x"))
    with patience.at_most(0):
        while deliver_first(spool, RunOnServer(run.id).take, enough=AT_ONCE):
            pass
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run.id)] == ["large.txt"]
    assert spool.aside == 0 and patience._state.patience == {False: 1.0, True: 4.0}


def test_an_outage_is_waited_for_where_an_answer_is_needed(
    before: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "SECONDS_TO_BRIDGE", 0.5)
    with runs.open_run(QUICK, "study", "search") as parent:
        before.spoil = refusing(503)
        back = threading.Timer(2, lambda: setattr(before, "spoil", lambda *_: None))
        back.start()
        with caplog.at_level(logging.WARNING), runs.open_run(QUICK, "trial 0", "trial", parent=parent) as run:
            run.log_metrics({"a": 1})
        assert not back.is_alive()
    assert caplog.text.count("waiting for it, at most 60 s") == 1
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FINISHED"


def test_after_a_wait_in_vain_no_other_call_waits_until_the_server_answers(
    before: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SECONDS_TO_BRIDGE", 0.1)
    monkeypatch.setattr(patience, "PAUSES", (0.1,))
    asked: list[str] = []

    def spoil(method: str, path: str, answer: Answer) -> None:
        asked.append(path)
        refusing(503)(method, path, answer)

    patience.install(wait_s=1)
    before.spoil = spoil
    for waits in (True, False):
        asked.clear()
        with pytest.raises(TrackingError, match=r"cannot be read: .*does not answer"):
            runs.find("0" * 32)
        assert (len(asked) > 1) == waits
    before.spoil = lambda *_: None
    mlflow.MlflowClient().search_experiments()
    assert not patience.given_up()


def test_a_database_that_fails_is_waited_for(before: Proxy) -> None:
    with runs.open_run(QUICK, "a", "train") as run:
        answers = iter([refusing(400, "runs/get", error_code="BAD_REQUEST")])
        before.spoil = lambda *call: next(answers, lambda *_: None)(*call)
        assert runs.find(run.id).info.run_id == run.id


def test_what_was_made_though_its_answer_was_lost_is_not_made_again(before: Proxy, segmenter: Segmenter) -> None:
    lost: list[str] = []

    def lose(method: str, path: str, answer: Answer) -> None:
        if method == "POST" and path.endswith(patience.CREATIONS) and path not in lost:
            lost.append(path)
            answer.refuse(502, "BadGateway")

    before.spoil = lose
    with runs.open_run(TrackingSettings(experiment="lost", system_metrics=False), "a", "train") as run:
        uri = registry.log_model(segmenter, run.id)
        assert registry.register(uri, "lost", ["dwi"]) == 1
    client, experiments = mlflow.MlflowClient(), [run.experiment_id]
    assert [path.rpartition("mlflow/")[2] for path in lost] == ["runs/create", "logged-models", "model-versions/create"]
    assert [found.info.run_id for found in client.search_runs(experiments)] == [run.id]
    assert [f"models:/{model.model_id}" for model in client.search_logged_models(experiments)] == [uri]
    assert [int(version.version) for version in client.search_model_versions("name = 'lost'")] == [1]


def test_an_entry_that_alone_fails_is_set_aside_and_what_is_behind_it_delivered(
    tmp_path: Path, before: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "SECONDS_TO_BRIDGE", 0.1)
    with runs.open_run(QUICK, "a", "train") as run:
        pass
    client = mlflow.MlflowClient()
    before.spoil = refusing(500, "poison.txt", error_code="INTERNAL_ERROR")
    spool = Spool(tmp_path / "spools" / run.id, before.address)
    for name in ("poison.txt", "good.txt"):
        spool.put("artifacts", {"to": ""}, lambda folder, name=name: (folder / name).write_text("x"))
    spool.put("tags", {"tags": {"a": "1"}})
    with patience.at_most(0):
        assert "500" in deliver_first(spool, RunOnServer(run.id).take)  # a first time means nothing
    spool.close()
    (outcome,) = deliver_spools(tmp_path / "spools")
    assert (outcome.delivered, outcome.left, outcome.reason) == (2, 1, "refused by the server")
    assert [path.name for path in (tmp_path / "spools" / run.id / ASIDE).iterdir()] == ["00000001-artifacts"]
    assert "the server refuses an entry, which is kept in" in caplog.text
    assert client.get_run(run.id).data.tags["a"] == "1"
    assert "good.txt" in {file.path for file in client.list_artifacts(run.id)}
    (note,) = client.list_artifacts(run.id, ASIDE)
    assert Path(client.download_artifacts(run.id, note.path, str(tmp_path))).read_text().startswith("not taken by")
    before.spoil = lambda *_: None
    (again,) = deliver_spools(tmp_path / "spools", refused_too=True)
    assert (again.delivered, again.left) == (1, 0)
    assert Path(client.download_artifacts(run.id, note.path, str(tmp_path))).read_text().startswith("delivered later")


def test_what_is_refused_for_good_is_said_at_once_and_ends_the_command_only_at_its_end(
    tmp_path: Path, before: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    before.spoil, spools = refusing(413, "poison.txt"), tmp_path / "spools"
    went_on = ""
    with (
        pytest.raises(UndeliveredError, match=r"1 entries that run .* wait in .* \(refused by the server\)"),
        runs.open_run(QUICK, "a", "main", spools=spools) as parent,
    ):
        with runs.open_run(QUICK, "b", "train", parent=parent, spools=spools) as child:
            child.log_text("x", "poison.txt")
        went_on = caplog.text
        parent.tag(a="1")
    assert f"entries that run {child.id} has logged wait" in went_on
    client = mlflow.MlflowClient()
    found = [client.get_run(run.id) for run in (parent, child)]
    assert [run.info.status for run in found] == ["FINISHED"] * 2 and found[0].data.tags["a"] == "1"
    assert found[1].data.tags["mlflow.refused"].startswith("not taken by the server: 00000001-artifacts (413")
    assert not runs._refused_here  # the next command of this process knows nothing of it


@pytest.mark.parametrize(
    "spoil",
    [
        refusing(500),
        refusing(500, "mlflow-artifacts"),  # the bucket alone
        refusing(500, "log-batch", "set-tag"),  # the database is full: it reads, and does not write
        refusing(400, "log-batch", "get", error_code="BAD_REQUEST"),
    ],
)
def test_in_an_outage_nothing_is_set_aside(
    tmp_path: Path, before: Proxy, spoil: Callable[[str, str, Answer], None]
) -> None:
    with runs.open_run(QUICK, "a", "train") as run:
        pass
    spool = Spool(tmp_path / run.id, before.address)
    spool.put("artifacts", {"to": ""}, lambda folder: (folder / "a.txt").write_text("x"))
    spool.put("tags", {"tags": {"a": "1"}})
    before.spoil = spoil
    on_server = RunOnServer(run.id)
    with patience.at_most(0):
        for _ in range(3):
            deliver_first(spool, on_server.take, enough=AT_ONCE)
    assert spool.aside == 0 and waiting(tmp_path / run.id) >= 1


def test_the_machines_load_is_logged_through_an_outage_and_gone_on_with_no_step_is_there_twice(
    tmp_path: Path, before: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setattr(patience, "SECONDS_TO_BRIDGE", 0.1)
    settings, spools = TrackingSettings(wait_s=0), tmp_path / "spools"

    def steps() -> list[int]:
        client = mlflow.MlflowClient()
        return [point.step for point in client.get_metric_history(run.id, "system/cpu_utilization_percentage")]

    with pytest.raises(UndeliveredError), runs.open_run(settings, "a", "train", spools=spools) as run:
        wait_until(steps)
        before.spoil = refusing(503)
        wait_until(lambda: waiting(spools / run.id) > 5)
    before.spoil = lambda *_: None
    settings = replace(settings, wait_s=60)
    with runs.open_run(settings, "a", "train", run_id=run.id, spools=spools):
        delivered = len(steps())
        wait_until(lambda: len(steps()) > delivered + 2)
    found = steps()
    assert delivered > 5 and found == list(range(len(found)))
