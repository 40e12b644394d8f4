"""`clean`: what may go, by the state of its run on a real server, and by age; nothing else is ever touched."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlproject import cli
from mlproject.data.copies import Copy, reserve
from mlproject.data.objects import BucketObject
from mlproject.stages.console import console
from mlproject.tracking.spool import Spool, waiting

DAY = 86_400


def age(path: Path, days: float) -> None:
    """As if a file, or all files below a folder, had last been used days ago."""
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - days * DAY,) * 2)


def put(path: Path, days: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x" * 1000)
    age(path, days)
    return path


def cache_entry(work: Path, letter: str, days: float) -> Path:
    entry = work / "cache" / (letter * 64)
    for name in ("record.json", "image.npy"):
        put(entry / name)
    age(entry, days)
    return entry


@pytest.fixture
def begun(tracking: Path) -> Callable[..., Path]:
    """Makes a run in a state, with checkpoints in work_dir, and gives their folder."""
    client = mlflow.MlflowClient()

    def begin(status: str, stage: str = "train", model: bool = False) -> Path:
        run_id = client.create_run("0", tags={"stage": stage}).info.run_id
        if model:
            logged = mlflow.create_external_model(name="model", source_run_id=run_id)
            with mlflow.start_run(run_id=run_id):
                client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, 0)])
        if not status.endswith(("RUNNING", "running")):
            client.set_terminated(run_id, "KILLED" if status == "deleted" else status)
        if status.startswith("deleted"):
            client.delete_run(run_id)
        folder = tracking / "work" / "runs" / run_id
        for name in ("best.pt", "last.pt"):
            put(folder / name, days=100)
        return folder

    return begin


def clean(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["clean", "--work_dir", "work", "--json", *arguments]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("status", "stage", "model", "goes"),
    [
        ("RUNNING", "train", False, False),
        ("KILLED", "train", False, False),
        ("FAILED", "train", False, False),
        ("FINISHED", "train", True, True),
        ("FINISHED", "train", False, False),
        ("deleted", "train", False, True),
        ("deleted while running", "train", False, False),
        ("RUNNING", "trial", False, False),
        ("KILLED", "trial", False, True),
        ("FAILED", "trial", False, True),
    ],
)
def test_checkpoints_go_where_no_run_can_need_them(
    status: str, stage: str, model: bool, goes: bool, begun: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begun(status, stage, model)
    shown = clean(capsys)
    assert [item["needed"] for item in shown["items"]] == [not goes] and shown["removed"] == []
    assert (folder / "best.pt").exists() and (folder / "last.pt").exists()  # nothing goes unasked
    both = [str(folder / "best.pt"), str(folder / "last.pt")]
    assert sorted(clean(capsys, "--remove")["removed"]) == (both if goes else [])
    assert (folder / "best.pt").exists() == (folder / "last.pt").exists() == (not goes)


def test_what_is_made_again_goes_by_age(tracking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tracking / "work"
    kept = [cache_entry(work, "a", 29), put(work / "probabilities" / f"{'c' * 40}.npy", 1), put(work / "study.db", 900)]
    gone = [
        cache_entry(work, "b", 31),
        put(work / "cache" / f".{'b' * 64}.{'0' * 32}" / "image.npy", 2).parent,
        put(work / "cache" / "keys" / ("c" * 64), 31).parent,
        put(work / "probabilities" / f"{'d' * 40}.npy", 31),
        put(work / "demo" / "demo-24-v1" / "README.txt", 31).parent,
    ]
    assert set(clean(capsys, "--remove")["removed"]) == {str(path) for path in gone}
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
    assert sorted(path.name for path in (work / "cache").iterdir()) == ["a" * 64]
    clean(capsys, "--remove", "--older_than_days", "0.5")
    assert kept[2].exists() and not kept[1].exists() and not kept[0].exists()


def test_copies_from_buckets_go_by_age_unless_a_command_at_work_needs_them(
    tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = tracking / "work" / "cache" / "objects"
    old, new, needed = (objects / (letter * 64) for letter in "abc")
    for copy in (old, new, needed):
        put(copy / "scan.nii", 100)
        put(copy / "used", 0 if copy == new else 100)
    reserve([Copy(needed, (BucketObject("http://s3", "bucket", "scan.nii", 1000, "etag"),))], limit_gb=1)
    left, begun = (put(objects / f".{letter * 64}" / "scan.nii", days).parent for letter, days in (("d", 2), ("e", 0)))
    strange = put(objects / "notes.txt", days=100)
    shown = clean(capsys, "--remove")
    assert sorted(shown["removed"]) == sorted(map(str, (old, left)))
    kept = {new.name, needed.name, begun.name, strange.name, "locks", "in_use", "lock"}
    assert {path.name for path in objects.iterdir()} == kept


def test_what_it_does_not_know_is_left(
    tracking: Path, begun: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    work = tracking / "work"
    elsewhere = cache_entry(tracking / "elsewhere", "e", 900)
    put(work / "runs" / ("f" * 32) / "last.pt", 900)  # a run of another server
    mine = begun("FINISHED", model=True)
    strange = [
        put(work / "notes.txt", 900),
        put(work / "cache" / ("a" * 64) / "thesis.docx", 900),
        put(work / "cache" / "patient.nii.gz", 900),
        put(work / "cache" / "keys" / "patient.txt", 900),
        put(work / "probabilities" / "mine.npy", 900),
        put(work / "demo" / "my data" / "a.nii", 900),
        put(work / "runs" / "helper" / "last.pt", 900),
        put(mine / "notes.txt", 900),
        work / "runs" / ("f" * 32) / "last.pt",
    ]
    (work / "cache" / ("e" * 64)).symlink_to(elsewhere)
    shown = clean(capsys, "--remove", "--older_than_days", "0")
    assert sorted(shown["removed"]) == [str(mine / "best.pt"), str(mine / "last.pt")]
    assert all(path.exists() for path in strange) and (elsewhere / "image.npy").exists()
    unknown = {path for item in shown["items"] if item["kind"] == "unknown" for path in item["paths"]}
    assert {str(path) for path in strange if path.name in ("notes.txt", "patient.nii.gz", "mine.npy")} <= unknown


def test_what_waits_for_the_server_stays_and_is_named(
    begun: Callable[..., Path], tracking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = begun("FINISHED", model=True).name
    spool = Spool(tracking / "work" / "spool" / run_id, "")
    spool.put("tags", {"tags": {"a": "1"}})
    spool.close()
    age(spool.folder, 900)
    shown = clean(capsys, "--remove", "--older_than_days", "0")
    assert len(shown["removed"]) == 2  # the checkpoints, which the model has made superfluous
    (item,) = [item for item in shown["items"] if item["kind"] == "not delivered"]
    assert item["needed"] and item["reason"].startswith("1 entries wait for the server") and waiting(spool.folder) == 1


def test_a_server_that_does_not_answer_keeps_all_that_runs_have(
    begun: Callable[..., Path], tracking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun("FINISHED", model=True)
    old = cache_entry(tracking / "work", "a", 31)
    monkeypatch.setattr("mlproject.tracking.server.SECONDS_TO_ANSWER", 0.1)
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert cli.main(["clean", "--work_dir", "work", "--remove"]) == 0
    captured = capsys.readouterr()
    mlflow.set_tracking_uri(f"sqlite:///{tracking / 'none.db'}")
    assert cli.main(["clean", "--work_dir", "work"]) == 0
    assert "none.db" in capsys.readouterr().err and not (tracking / "none.db").exists()
    assert (folder / "last.pt").exists() and not old.exists()
    assert f"removing {old}\n" in captured.out and "does not answer" in captured.err


def test_each_path_is_named_before_it_goes(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tracking / "work"
    gone = [cache_entry(work, "a", 31), cache_entry(work, "b", 31), put(work / "probabilities" / f"{'d' * 40}.npy", 31)]
    named_while_there: list[Path] = []

    def note(text: object = "", **_: object) -> None:
        named_while_there.extend(path for path in gone if str(path) in str(text) and path.exists())

    monkeypatch.setattr(console, "print", note)
    assert cli.main(["clean", "--work_dir", "work", "--remove"]) == 0
    assert sorted(named_while_there) == sorted(gone) and not any(path.exists() for path in gone)


def test_what_cannot_be_removed_is_said(
    tracking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = cache_entry(tracking / "work", "a", 31), cache_entry(tracking / "work", "b", 31)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == stays:
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert cli.main(["clean", "--work_dir", "work", "--remove", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["removed"] == [str(gone)] and f"{stays}: Permission denied" in document["error"]


def test_the_table_names_runs_and_reasons(
    begun: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 150)
    monkeypatch.setattr(console, "_height", 50)
    folder = begun("KILLED")
    assert cli.main(["clean", "--work_dir", "work"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"2 kB 100 d ago checkpoints of run {folder.name[:8]} (train) yes run KILLED" in printed
    assert "nothing to remove" in printed
    assert cli.main(["clean", "--work_dir", "no such folder"]) == 2
