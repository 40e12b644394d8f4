"""The queue on the disk, and how entries are delivered from it: in order, once, and none is dropped."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

from mlproject.errors import Interrupted, TrackingError, UndeliveredError
from mlproject.stages import sync
from mlproject.stages.settings import SyncSettings
from mlproject.tracking import runs
from mlproject.tracking.delivery import Delivery, deliver_first
from mlproject.tracking.run_on_server import RunOnServer
from mlproject.tracking.settings import TrackingSettings
from mlproject.tracking.spool import ASIDE, CONTENT, FILES, LOCK, ORIGIN, REASON, Entry, Spool, SpoolBusyError, waiting
from mlproject.tracking.waiting import deliver_spools
from mlproject.training.progress import Point

SOURCE = Path(__file__).parents[2] / "src"
HOLD = """
import sys, time
sys.path.insert(0, {source!r})
from pathlib import Path
from mlproject.tracking.spool import Spool
spool = Spool(Path({folder!r}), "server")
spool.put("tags", {{"tags": {{"a": "1"}}}})
print("ready", flush=True)
time.sleep(600)
"""


def kinds(spool: Spool) -> list[str]:
    """Take all entries out."""
    found = []
    while (entry := spool.first()) is not None:
        found.append(entry.kind)
        spool.remove()
    return found


def test_entries_come_out_in_order_with_their_files_in_a_later_process_too(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "http://here")
    for number in range(12):
        spool.put(f"kind{number}", {"number": number}, lambda folder: (folder / "a.txt").write_text("x"))
    first = spool.first()
    assert first is not None and first.values == {"number": 0} and (first.files / "a.txt").read_text() == "x"
    spool.remove()
    spool.close()
    again = Spool(tmp_path / "run", "http://elsewhere")
    again.put("later", {})
    assert again.server == "http://here" and waiting(tmp_path / "run") == 12
    assert kinds(again) == [*(f"kind{number}" for number in range(1, 12)), "later"]
    again.close()
    assert not (tmp_path / "run").exists()


def test_what_a_killed_process_left_half_written_is_no_entry(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "")
    spool.put("whole", {})
    half = tmp_path / "run" / ".0123"
    half.mkdir()
    (half / CONTENT).write_text('{"kind": "ha')
    spool.close()
    again = Spool(tmp_path / "run", "")
    assert kinds(again) == ["whole"] and not half.exists()


def test_an_entry_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its name there alone after a power cut: `put` returns when the folder is on the disk, too."""
    spool, fsync, synced = Spool(tmp_path / "run", ""), os.fsync, list[tuple[Path, int]]()

    def watched(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink(), waiting(tmp_path / "run")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    spool.put("kind", {}, lambda folder: (folder / "a.txt").write_text("x"))
    assert {CONTENT, "a.txt", FILES} <= {path.name for path, named in synced if not named}
    assert synced[-1] == (tmp_path / "run", 1)


def test_only_the_last_checkpoint_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "")
    for step in range(5):
        spool.put("points", {"step": step})
        spool.put("checkpoints", {"step": step}, only_last=True)
    entries = []
    while (entry := spool.first()) is not None:
        entries.append((entry.kind, entry.values["step"]))
        spool.remove()
    assert entries == [*(("points", step) for step in range(5)), ("checkpoints", 4)]


def test_a_checkpoint_that_is_on_its_way_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "")
    for step in range(4):
        spool.put("checkpoints", {"step": step}, only_last=True)
    assert waiting(tmp_path / "run") == 2  # on the disk, too
    spool.remove()  # delivered
    last = spool.first()
    assert last is not None and last.values == {"step": 3} and len(spool) == 1


def test_a_signal_while_an_entry_is_named_costs_no_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "run", "")
    rename = Path.rename

    def renamed_and_stopped(self: Path, to: Path) -> None:
        rename(self, to)
        raise Interrupted("stopped", 15)

    with monkeypatch.context() as signalled, pytest.raises(Interrupted):
        signalled.setattr(Path, "rename", renamed_and_stopped)
        spool.put("same", {"number": 1})
    spool.put("same", {"number": 2})
    spool.close()
    assert kinds(Spool(tmp_path / "run", "")) == ["same", "same"]


def test_what_was_set_aside_keeps_its_place_before_what_a_later_process_logs(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "")
    spool.put("zebra", {})
    spool.set_aside("refused")
    spool.close()
    again = Spool(tmp_path / "run", "")
    again.put("ape", {})
    again.try_again()
    assert kinds(again) == ["zebra", "ape"]


def test_nothing_is_left_of_an_entry_that_had_no_room(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path / "run", "")
    with pytest.raises(TrackingError, match="No space left on device"):
        spool.put("first", {}, full)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK, ORIGIN}


def test_a_lock_on_a_folder_that_another_process_has_just_replaced_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockf, first = fcntl.lockf, iter([True])

    def late(*given: Any) -> None:
        if next(first, False):
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / LOCK).touch()
        lockf(*given)

    monkeypatch.setattr(fcntl, "lockf", late)
    spool = Spool(tmp_path / "run", "")
    lock = f"import fcntl; fcntl.lockf(open({str(tmp_path / 'run' / LOCK)!r}, 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert "BlockingIOError" in subprocess.run([sys.executable, "-c", lock], capture_output=True, text=True).stderr
    spool.close()


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(source=str(SOURCE), folder=str(folder))], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    with pytest.raises(SpoolBusyError, match="run run is at work in another process"):
        Spool(folder, "")
    holder.kill()
    holder.wait()
    spool = Spool(folder, "")
    assert kinds(spool) == ["tags"]
    with pytest.raises(SpoolBusyError):  # nor twice in one process
        Spool(folder, "")
    spool.close()


def _rest(code: str) -> RestException:
    return RestException({"error_code": code, "message": "of the server"})


def _http(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("of a proxy", response=response)


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (MlflowException("connection refused"), True),
        (_rest("TEMPORARILY_UNAVAILABLE"), True),
        (_rest("BAD_REQUEST"), True),  # how MLflow calls a database that fails
        (_rest("PERMISSION_DENIED"), True),
        (_rest("UNAUTHENTICATED"), True),
        (_rest("INVALID_PARAMETER_VALUE"), False),
        (_rest("RESOURCE_DOES_NOT_EXIST"), False),
        (_http(502), True),
        (_http(429), True),
        (_http(413), False),
        (requests.ConnectionError("refused"), True),
        (requests.ReadTimeout("timed out"), True),
        (ConnectionResetError("reset"), True),
        (OSError(28, "No space left on device"), True),
        (FileNotFoundError(2, "No such file"), False),
        (KeyError("a fault of ours"), False),
    ],
)
def test_what_may_pass_waits_and_what_may_not_is_kept_aside(
    tmp_path: Path, error: Exception, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    spool = Spool(tmp_path / "run", "")
    spool.put("first", {})
    spool.put("second", {})

    def fail(_: Entry) -> None:
        raise error

    said = deliver_first(spool, fail)
    entry = spool.first()
    assert entry is not None and entry.kind == ("first" if waits else "second")
    assert bool(said) == waits and waiting(tmp_path / "run") == 2
    if not waits:
        (place,) = (tmp_path / "run" / ASIDE).iterdir()
        assert place.name.endswith("-first") and str(error).splitlines()[0] in (place / REASON).read_text()
        spool.try_again()
        assert kinds(spool) == ["first", "second"]


@pytest.mark.parametrize("kind", [requests.ConnectionError, KeyError])
def test_why_an_entry_is_not_delivered_is_told_without_secrets(tmp_path: Path, kind: type[Exception]) -> None:
    spool = Spool(tmp_path / "run", "")
    spool.put("first", {})

    def fail(_: Entry) -> None:
        raise kind("no way to https://me:MARK@host/x")

    said = deliver_first(spool, fail) or next((tmp_path / "run" / ASIDE).glob(f"*/{REASON}")).read_text()
    assert "https://host/x" in said and "MARK" not in said


def test_a_damaged_entry_stops_nothing_and_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", "")
    spool.put("first", {})
    spool.put("second", {})
    (tmp_path / "run" / "00000001-first" / CONTENT).write_text("")
    delivered: list[str] = []
    take: Callable[[Entry], None] = lambda entry: delivered.append(entry.kind)  # noqa: E731
    assert deliver_first(spool, take) == deliver_first(spool, take) == ""
    assert delivered == ["tags", "artifacts", "second"] and spool.aside == 1  # the first two tell of it


def test_what_is_said_of_a_refused_entry_is_put_right_where_the_server_takes_it_after_all(tmp_path: Path) -> None:
    spool, failures, said = Spool(tmp_path / "run", ""), iter([_http(500)]), list[str]()
    spool.put("first", {})

    def take(entry: Entry) -> None:
        if entry.kind == "tags":
            said.append(entry.values["tags"]["mlflow.refused"])
        if entry.kind == "first" and (error := next(failures, None)):
            raise error

    assert deliver_first(spool, take, enough=(1, 0.0)) == "of a proxy"  # and at that moment the bucket is back
    assert deliver_first(spool, take) == "" and len(spool) == spool.aside == 0
    assert said == ["tried once more: 00000001-first (of a proxy)", "delivered later: 00000001-first"]


def test_a_delivery_waits_for_the_server_and_ends_where_it_does_not_come(tmp_path: Path) -> None:
    spool, away, got = Spool(tmp_path / "run", ""), [True], list[str]()

    def take(entry: Entry) -> None:
        if away[0]:
            raise requests.ConnectionError("refused")
        got.append(entry.kind)

    delivery = Delivery(spool, take)
    for kind in ("a", "b", "c"):
        spool.put(kind, {})
    assert delivery.wait(0.3) == 3 and got == []
    away[0] = False
    assert delivery.finish(60) == 0 and got == ["a", "b", "c"]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run_id(tracking: Path) -> str:
    with runs.open_run(TrackingSettings(system_metrics=False), "train", "train") as run:
        return run.id


def entries(folder: Path, put: Callable[[Spool], None]) -> None:
    spool = Spool(folder, "")
    put(spool)
    spool.close()


def test_delivered_twice_it_is_there_once(tracking: Path, run_id: str) -> None:
    """A process may die between the delivery of an entry and its removal."""
    client, on_server = mlflow.MlflowClient(), RunOnServer(run_id)
    spool = Spool(tracking / "spool", "")
    points = [Point(step, 1000 + step, {"train/loss": 0.5}).to_dict() for step in (1, 2)]
    spool.put("points", {"points": points, "once": True, "measured": {}})
    redone = [Point(step, 9000 + step, {"train/loss": 0.5}).to_dict() for step in (2, 3)]
    spool.put("points", {"points": redone, "once": True, "measured": {}})
    name = "case+step+7+timestamp+1+x"

    def picture(folder: Path) -> None:
        (folder / "images").mkdir()
        (folder / "images" / f"{name}.png").touch()

    spool.put("picture", {"begins": "case+step+7+"}, picture)
    name = "case+step+7+timestamp+2+y"  # drawn again after a resume
    spool.put("picture", {"begins": "case+step+7+"}, picture)
    for step in (20, 10):  # the second one from a machine that was left behind
        fill = lambda folder, step=step: (folder / "last.pt").write_text(str(step))  # noqa: E731
        spool.put("checkpoints", {"step": step}, fill)
    while (entry := spool.first()) is not None:
        on_server.take(entry)
        RunOnServer(run_id).take(entry)
        spool.remove()
    history = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.timestamp) for point in history] == [(1, 1001), (2, 1002), (3, 9003)]
    assert [file.path for file in client.list_artifacts(run_id, "images")] == ["images/case+step+7+timestamp+1+x.png"]
    assert Path(client.download_artifacts(run_id, "checkpoints/last.pt")).read_text() == "20"
    assert client.get_run(run_id).data.tags["checkpoint_step"] == "20"


def test_a_result_that_is_calculated_again_is_there_once_and_another_one_beside_it(tracking: Path, run_id: str) -> None:
    on_server, folder = RunOnServer(run_id), tracking / "entry"
    for number, dice in enumerate((0.5, 0.5, 0.6, 0.5)):
        points = [Point(step, 1000 + number, {"test/dice": dice}).to_dict() for step in (0, 1)]
        on_server.take(Entry(folder, "results", {"points": points, "measured": {}}))
    history = mlflow.MlflowClient().get_metric_history(run_id, "test/dice")
    assert [point.value for point in history if point.step == 1] == [0.5, 0.6, 0.5]


def test_a_run_that_is_gone_on_with_keeps_the_parameters_that_it_began_with(tracking: Path, run_id: str) -> None:
    spool, on_server = Spool(tracking / "spool", ""), RunOnServer(run_id)
    for value in ("1", "2"):
        spool.put("settings", {"parameters": {"cfg.a": value, f"cfg.{value}": value}})
        assert deliver_first(spool, on_server.take) == ""
    assert spool.aside == 0 and mlflow.get_run(run_id).data.params == {"cfg.a": "1", "cfg.1": "1", "cfg.2": "2"}


def test_a_late_status_does_not_undo_what_another_process_came_to(tracking: Path, run_id: str) -> None:
    client, on_server = mlflow.MlflowClient(), RunOnServer(run_id)
    assert client.get_run(run_id).info.status == "FINISHED"
    on_server.close("KILLED", 5)
    assert client.get_run(run_id).info.status == "FINISHED"
    client.update_run(run_id, status="RUNNING")
    on_server.close("KILLED", 5)
    assert client.get_run(run_id).info.status == "KILLED" and client.get_run(run_id).info.end_time == 5


def test_a_run_of_another_server_is_named_with_it(tracking: Path) -> None:
    folder = tracking / "spools" / ("0" * 32)
    spool = Spool(folder, "http://the-lab:5000")
    spool.put("tags", {"tags": {"a": "1"}})
    spool.close()
    (outcome,) = deliver_spools(tracking / "spools")
    assert (outcome.delivered, outcome.left, outcome.at_work) == (0, 1, False)
    assert "does not know this run: set MLFLOW_TRACKING_URI to http://the-lab:5000" in outcome.reason


@pytest.mark.parametrize("refused", ["iterdir", "open"])
def test_a_spool_of_another_user_is_named_and_the_others_are_delivered(
    refused: str, tracking: Path, run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run in a container leaves it, whose user is root; the tests may be root's, too, whom nothing is refused."""
    foreign, own = (tracking / "spool" / name for name in ("0" * 32, run_id))
    for folder in (foreign, own):
        entries(folder, lambda spool: spool.put("tags", {"tags": {"a": "1"}}))
    usual = getattr(Path, refused)

    def of_root(path: Path, *given: Any, **more: Any) -> Any:
        if foreign in (path, *path.parents):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *given, **more)

    monkeypatch.setattr(Path, refused, of_root)
    advice = rf"{foreign} is not this user's \(Permission denied\): .*: sudo chown -R {os.getuid()} {foreign}"
    with pytest.raises(UndeliveredError, match=rf"(1|uncounted) entries of 1 runs still wait in .*: {advice}"):
        sync.run(SyncSettings(work_dir=str(tracking)))
    assert mlflow.get_run(run_id).data.tags["a"] == "1" and not own.exists()
    capsys.readouterr()
    sync.deliver_what_waits(tracking / "spool")  # as every stage does before its work
    said = " ".join(capsys.readouterr().err.split())
    assert re.match(rf"warning: run {foreign.name}: 0 entries delivered, (1|perhaps some) wait: {advice}", said)


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "run", "")
    spool.put("first", {})

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TrackingError, match=r"cannot be kept in .*run \(No space left on device\): what was kept"):
        spool.put("second", {}, full)
    spool.put("third", {})
    assert kinds(spool) == ["first", "third"]
    assert json.loads((tmp_path / "run" / "origin.json").read_text()) == {"server": ""}


def test_what_cannot_be_set_aside_on_a_full_disk_waits_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "run", "server")
    spool.put("refused", {})

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def refuse(_: Entry) -> None:
        raise MlflowException.invalid_parameter_value("never")

    with monkeypatch.context() as context:
        context.setattr(Path, "mkdir", full)
        assert "cannot be set aside (No space left on device)" in deliver_first(spool, refuse, 0)
    spool.close()
    assert waiting(tmp_path / "run") == 1


def test_a_run_whose_spool_cannot_be_kept_is_closed(tracking: Path) -> None:
    (tracking / "spool").write_text("a file")
    with pytest.raises(TrackingError), runs.open_run(TrackingSettings(), "name", "train", spools=tracking / "spool"):
        pass
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FAILED" and "cannot be kept" in run.data.tags["failure"]
