"""The database that the workers of a study share: address, errors in one line, locks that end with their holder."""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mlproject.errors import SettingsError, TrackingError

DATABASE_VARIABLE = "STROKE_LESION_STUDY_DATABASE"
EXAMPLE = "postgresql://USER:PASSWORD@HOST/DATABASE"
SQLITE_WAIT_SECONDS = 60
_LOCK_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 15
# Each end notices within about a minute that the other is gone: a lock must not outlive its holder's machine.
_POSTGRES_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}

logger = logging.getLogger(__name__)


def choose_url(storage: str, folder: Path) -> str:
    """The SQLAlchemy URL of the study's database, which may hold a password: print `public_url` of it only.

    The environment variable STROKE_LESION_STUDY_DATABASE comes first, then `storage`, then the SQLite file
    study.db in `folder`. SettingsError where both are given and differ in more than the password.
    """
    named = parse(storage, "search.storage") if storage else None
    secret = parse(os.environ[DATABASE_VARIABLE], DATABASE_VARIABLE) if os.environ.get(DATABASE_VARIABLE) else None
    if named and secret and public_url(named) != public_url(secret):
        raise SettingsError(
            f"search.storage is {public_url(named)}, but {DATABASE_VARIABLE} is {public_url(secret)}: a study has one "
            "database; take one of the two away"
        )
    chosen = secret or named or sqlalchemy.URL.create("sqlite", database=str(folder / "study.db"))
    return chosen.render_as_string(hide_password=False)


def parse(text: str, source: str) -> sqlalchemy.URL:
    """A URL of PostgreSQL or of a SQLite file; SettingsError names `source`, never the text: it may hold a password."""
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(f"{source} is no database URL: write it as {EXAMPLE} or sqlite:///FILE") from None
    backend = url.get_backend_name()
    if backend not in ("postgresql", "sqlite"):
        raise SettingsError(f"{source} begins with {backend}: a study's database is postgresql:// or sqlite:///FILE")
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if not url.database or url.database == ":memory:":
        raise SettingsError(f"{source} names no file: a study in memory is lost with its process; write sqlite:///FILE")
    return url.set(drivername="sqlite", database=str(Path(url.database).expanduser().absolute()))


def public_url(url: str | sqlalchemy.URL) -> str:
    """The URL without password and options."""
    url = sqlalchemy.make_url(url)
    shown = sqlalchemy.URL.create(url.get_backend_name(), url.username, None, url.host, url.port, url.database)
    return shown.render_as_string()


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Within: an error of the database becomes one line, without the password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise TrackingError(
            f"the study's database {public_url(url)} does not answer or refuses: {_reason(error)}. See that it runs "
            f"and that {DATABASE_VARIABLE} or search.storage is right, then give the same command again: finished "
            "trials are kept"
        ) from error
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise SettingsError(
            f"the study's database {public_url(url)} needs the Python package psycopg, which is not installed here: "
            "pip install 'psycopg[binary]'"
        ) from error


def _reason(error: Exception) -> str:
    """What the database's driver said, in one line, without SQL."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return " ".join(str(getattr(cause, "orig", None) or cause or error).split()).rstrip(".?")


class _PatientStorage(RDBStorage):
    """Optuna's storage, whose heartbeat outlives a database that is away for a while: Optuna's own would stop."""

    def record_heartbeat(self, trial_id: int) -> None:
        try:
            super().record_heartbeat(trial_id)
        except StorageInternalError as error:
            logger.warning("the study's database does not take this trial's sign of life: %s", _reason(error))


def open_storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Optuna's storage in this database; makes its tables, so one process at a time may call this."""
    sqlite = sqlalchemy.make_url(url).get_backend_name() == "sqlite"
    arguments = {"timeout": SQLITE_WAIT_SECONDS} if sqlite else _POSTGRES_OPTIONS
    return _PatientStorage(
        url.replace("{", "{{").replace("}", "}}"),  # Optuna takes a URL for a template
        engine_kwargs={"connect_args": arguments, "pool_pre_ping": True},
        heartbeat_interval=heartbeat_seconds,
        grace_period=2 * heartbeat_seconds,
    )


@contextmanager
def exclusive(url: str, name: str) -> Iterator[None]:
    """Within: no other process that uses this database holds the lock `name`. The lock ends with the process.

    A file beside a SQLite database is locked by the kernel, PostgreSQL's advisory lock by a connection of its own.
    """
    digest = hashlib.sha256(f"stroke-lesion {name}".encode()).digest()[:8]
    database = sqlalchemy.make_url(url)
    if database.get_backend_name() == "sqlite":
        file = Path(f"{database.database}.{digest.hex()}.lock")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = file.open("w")
        except OSError as error:
            raise TrackingError(f"the study's database needs a lock file beside it, and this fails: {error}") from error
        with handle:
            _wait_for(lambda: _locked(handle.fileno()), name)
            yield
        return
    engine = sqlalchemy.create_engine(database, connect_args=_POSTGRES_OPTIONS, poolclass=sqlalchemy.NullPool)
    attempt = sqlalchemy.select(sqlalchemy.func.pg_try_advisory_lock(int.from_bytes(digest, signed=True)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _wait_for(lambda: bool(connection.scalar(attempt)), name)
        yield


def _locked(handle: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _wait_for(attempt: Callable[[], bool], name: str) -> None:
    started, told = time.monotonic(), False
    while not attempt():
        if not told and time.monotonic() - started > _PATIENCE_SECONDS:
            logger.info("waiting for another worker of the study: it holds the lock %r", name)
            told = True
        time.sleep(_LOCK_POLL_SECONDS)
