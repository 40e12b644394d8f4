"""The tracking server: whether it answers, and how to speak of it."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mlproject.errors import TrackingError

SECONDS_TO_ANSWER = 8
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of the databases that MLflow itself can log to
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def connect() -> None:
    """Make sure that the tracking server answers, before any work is done for it.

    MLflow itself would try for minutes. Raises TrackingError after SECONDS_TO_ANSWER.
    """
    uri = mlflow.get_tracking_uri()
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _wait_for_server(uri)
    elif scheme.partition("+")[0] in PORTS:
        _try_database(uri)
    usual = os.environ.get(RETRIES_VARIABLE)
    os.environ[RETRIES_VARIABLE] = "1"
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        raise TrackingError(f"the tracking server {_public(uri)} refuses: {error.message.splitlines()[0]}") from error
    finally:
        os.environ.pop(RETRIES_VARIABLE)
        if usual is not None:
            os.environ[RETRIES_VARIABLE] = usual


@contextmanager
def tracking_errors() -> Iterator[None]:
    """Within: what MLflow and its artifact stores raise where the server fails becomes a TrackingError of one line."""
    try:
        yield
    except Exception as error:
        raised_by = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not raised_by & {"mlflow", "requests", "urllib3", "botocore", "boto3"}:
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(f"the tracking server {public_uri()} or a bucket failed: {first_line}") from error


def _wait_for_server(uri: str) -> None:
    until = time.monotonic() + SECONDS_TO_ANSWER
    while True:
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=4)
            if answer.status_code >= 500:  # a proxy whose server is down
                answer.raise_for_status()
            return
        except requests.RequestException as error:
            if time.monotonic() > until:
                raise TrackingError(
                    f"the tracking server {_public(uri)} does not answer ({type(error).__name__}): start it, or set "
                    "MLFLOW_TRACKING_URI to one that runs"
                ) from error
            time.sleep(1)


def _try_database(uri: str) -> None:
    """Raise TrackingError where the database of a tracking URI lets nobody in."""
    address = urlsplit(uri)
    try:
        if address.hostname:  # else a socket file
            port = address.port or PORTS[address.scheme.partition("+")[0]]
            socket.create_connection((address.hostname, port), SECONDS_TO_ANSWER).close()
        sqlalchemy.create_engine(uri, poolclass=NullPool).connect().close()
    except (OSError, ValueError, ImportError, SQLAlchemyError) as error:
        raise TrackingError(
            f"the tracking database {_public(uri)} lets nobody in ({str(error).splitlines()[0]}): start it, or set "
            "MLFLOW_TRACKING_URI to one that runs"
        ) from error


def public_uri() -> str:
    """The tracking server's address, without a user and password that may stand in it."""
    return _public(mlflow.get_tracking_uri())


def _public(uri: str) -> str:
    return uri.replace(f"{urlsplit(uri).netloc.rpartition('@')[0]}@", "") if "@" in urlsplit(uri).netloc else uri
