import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from free_port import free_port
from mlproject import cli, interrupts
from mlproject.tracking import source as module
from mlproject.tracking.source import Source, public_url, source


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://user:secret@github.com/a/b.git", "https://github.com/a/b.git"),
        ("https://token@host:8443/a/b?key=secret#x", "https://host:8443/a/b"),
        ("https://github.com/a/b", "https://github.com/a/b"),
        ("ssh://git@host/a/b.git", "ssh://git@host/a/b.git"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("/home/someone/b", ""),
        ("file:///home/someone/b", ""),
        ("", ""),
    ],
)
def test_no_password_and_no_folder_in_the_address(remote: str, shown: str) -> None:
    assert public_url(remote) == shown


def test_a_token_leaves_the_run_also_where_its_settings_are_refused(tracking: Path) -> None:
    """As `mlflow run https://TOKEN@host/...` leaves it; with settings that are right, end_to_end/test_lab.py looks."""
    client = mlflow.MlflowClient()
    run = client.create_run("0", tags={"mlflow.source.name": "https://MARK@host/a/b#part", "mine": "https://MARK@host"})
    done = subprocess.run(
        [sys.executable, str(module.PROJECT / "src" / "run.py"), "train", "--no.such", "setting"],
        env={**os.environ, "MLFLOW_RUN_ID": run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "no setting is called 'no.such'" in done.stderr
    tags = client.get_run(run.info.run_id).data.tags
    assert tags["mlflow.source.name"] == "https://host/a/b#part" and tags["mine"] == "https://MARK@host"


def test_why_a_token_stays_is_told_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interrupts, "launcher", lambda: None)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}/?token=MARK")
    assert cli.main(["train", "--no.such", "setting"]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "the run of `mlflow run` is left as it was" in printed and "token=***" in printed and "MARK" not in printed


def test_commit_and_changes_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(module, "PROJECT", tmp_path)
    source.cache_clear()
    assert source() == Source("", "", changed=False)  # no checkout
    (tmp_path / "a.py").write_text("1")
    git("init")
    git("add", "a.py")
    git("commit", "-m", "x")
    git("remote", "add", "origin", "https://me:secret@host/a.git")
    (tmp_path / "untracked").touch()
    source.cache_clear()
    assert source() == Source(git("rev-parse", "HEAD").strip(), "https://host/a.git", changed=False)
    (tmp_path / "a.py").write_text("2")
    source.cache_clear()
    assert source().changed
    source.cache_clear()
