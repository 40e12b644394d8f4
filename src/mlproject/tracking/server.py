"""The tracking server: whether it answers, and how to speak of it."""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import get_default_host_creds  # type: ignore[attr-defined]
from mlflow.utils.credentials import read_mlflow_creds
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mlproject import credentials
from mlproject.errors import TrackingError
from mlproject.tracking import patience
from mlproject.tracking.source import mend_source

SECONDS_TO_ANSWER, SECONDS_TO_BRIDGE = 8, 2
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of the databases that MLflow itself can log to


def connect() -> None:
    """Make sure that the tracking server answers and lets this user in, before any work is done for it.

    Also takes a token out of what `mlflow run` has logged of its source. MLflow itself would try for minutes. Raises
    TrackingError after SECONDS_TO_ANSWER.
    """
    uri = mlflow.get_tracking_uri()
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _wait_for_server(uri)
    elif scheme.partition("+")[0] in PORTS:
        _try_database(uri)
    patience.install()
    try:
        with patience.at_most(SECONDS_TO_BRIDGE):
            mlflow.MlflowClient().search_experiments(max_results=1)
            mend_source()
    except MlflowException as error:
        raise TrackingError(refusal(error)) from error


def refusal(error: MlflowException) -> str:
    """Why the server does not do what it is asked for, and what to do."""
    server, text = public_uri(), error.message
    # MLflow's own server, which knows no tokens, fails on one where it remembers passwords for a while.
    fails_on_token = "too many 500 error" in text and os.environ.get("MLFLOW_TRACKING_TOKEN")
    if "failed with error code 401" in text or fails_on_token:
        return f"the tracking server {server} {_unknown_user()}"
    if "Invalid Host header" in text:
        return (
            f"the tracking server {server} does not answer under the name {urlsplit(server).netloc}: use one that its "
            "--allowed-hosts has, or have this one added"
        )
    if "failed with error code 403" in text:
        return f"the tracking server {server} does not let this user see its experiments: ask its administrator"
    if "failed with error code 4" in text or "not in a valid JSON format" in text:
        return f"{server} does not answer as an MLflow server does: see MLFLOW_TRACKING_URI"
    return f"the tracking server {server} refuses: {_first_line(error)}"


def _unknown_user() -> str:
    given = read_mlflow_creds()  # of the environment, or of ~/.mlflow/credentials
    if given.username and given.password:
        return (
            f"does not know the user {given.username!r} with this password: see MLFLOW_TRACKING_USERNAME and "
            "_PASSWORD, or ~/.mlflow/credentials where they are not set"
        )
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return "does not accept this token: see MLFLOW_TRACKING_TOKEN"
    return (
        "asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or "
        "give the server's host a line in ~/.netrc"
    )


def _first_line(error: Exception) -> str:
    return credentials.without((str(error).splitlines() or [type(error).__name__])[0])


@contextmanager
def tracking_errors() -> Iterator[None]:
    """Within: what MLflow and its artifact stores raise where the server fails becomes a TrackingError of one line."""
    try:
        yield
    except Exception as error:
        raised_by = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not raised_by & {"mlflow", "requests", "urllib3", "botocore", "boto3"}:
            raise
        raise TrackingError(f"the tracking server {public_uri()} or a bucket failed: {_first_line(error)}") from error


def _wait_for_server(uri: str) -> None:
    until = time.monotonic() + SECONDS_TO_ANSWER
    verify = get_default_host_creds(uri).verify  # type: ignore[no-untyped-call]
    while True:
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=4, verify=verify)
            if answer.status_code >= 500:  # a proxy whose server is down
                answer.raise_for_status()
            return
        except requests.exceptions.SSLError as error:
            reason = re.search(r"\] (.+?) \(_ssl", str(error))
            raise TrackingError(
                f"no safe connection to the tracking server {public_uri()}: {reason[1] if reason else error}. If its "
                "certificate has an issuer of your own, name the issuer's file by MLFLOW_TRACKING_SERVER_CERT_PATH"
            ) from error
        except requests.RequestException as error:
            if time.monotonic() > until:
                raise TrackingError(
                    f"the tracking server {public_uri()} does not answer ({type(error).__name__}): start it, or set "
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
            f"the tracking database {public_uri()} lets nobody in ({_first_line(error)}): start it, or set "
            "MLFLOW_TRACKING_URI to one that runs"
        ) from error


def public_uri() -> str:
    """The tracking server's address, without a password that may stand in it."""
    return credentials.without(mlflow.get_tracking_uri())
