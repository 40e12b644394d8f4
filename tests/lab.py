"""A lab's whole server for tests, as `make server` starts it: PostgreSQL, a bucket, MLflow with users."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from free_port import free_port

SOURCES = Path(__file__).resolve().parents[1] / "src"


def variables(folder: Path) -> dict[str, str]:
    """What is given to `make server`: a folder of its own, and free ports."""
    ports = {name: str(free_port()) for name in ("SERVER_PORT", "SERVER_DATABASE_PORT", "SERVER_BUCKET_PORT")}
    names = f"localhost:{ports['SERVER_PORT']}"  # besides the address that it prints
    return {"SERVER_FOLDER": str(folder), **ports, "SERVER_ALLOWED_HOSTS": names, "MLFLOW_WORKERS": "1"}


@dataclass
class Lab:
    """A server that runs.

    Attributes:
        given: the variables that it was started with.
        process: of `make server`; it leads the three programs.
    """

    given: Mapping[str, str]
    process: subprocess.Popen[str]

    @property
    def folder(self) -> Path:
        return Path(self.given["SERVER_FOLDER"])

    @property
    def address(self) -> str:
        return f"http://localhost:{self.given['SERVER_PORT']}"

    @property
    def admin(self) -> tuple[str, str]:
        """Name and password."""
        return "admin", (self.folder / "secrets" / "admin_password").read_text()

    def add_user(self, name: str, password: str) -> None:
        user = {"username": name, "password": password}
        requests.post(f"{self.address}/api/2.0/mlflow/users/create", json=user, auth=self.admin).raise_for_status()

    def printed(self) -> str:
        return (self.folder.parent / "output").read_text()


def command() -> list[str]:
    return [sys.executable, "-m", "lab_server"]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    of_another_database = {"PGPASSWORD": "of another database"}  # as its user may have in the environment
    return {**os.environ, **of_another_database, "PYTHONPATH": str(SOURCES), **given}


def start(given: Mapping[str, str]) -> Lab:
    """A server that answers; whoever starts it stops it."""
    output = Path(given["SERVER_FOLDER"]).parent / "output"
    with output.open("w") as handle:
        process = subprocess.Popen(
            command(), env=environment(given), stdout=handle, stderr=handle, text=True, start_new_session=True
        )
    until = time.monotonic() + 120
    while "The tracking server runs" not in output.read_text():
        assert process.poll() is None and time.monotonic() < until, output.read_text()
        time.sleep(0.1)
    return Lab(given, process)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that all users may enter: where the tests run as root, PostgreSQL is another user."""
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "server"


@contextmanager
def server() -> Iterator[Lab]:
    """Within, a server answers."""
    with folder() as place:
        lab = start(variables(place))
        try:
            yield lab
        finally:
            lab.process.terminate()
            lab.process.wait(60)
