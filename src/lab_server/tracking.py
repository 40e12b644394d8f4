"""MLflow's tracking server, before a database and a bucket, with users and passwords."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import requests

from lab_server import secret_files
from lab_server.postgres import DATABASES, OWNER
from lab_server.program import Program
from lab_server.settings import Settings

ADMIN = "admin"
BUCKET = "mlflow"
AUTHORISATION = """[mlflow]
# What a user may do with what others have made: NO_PERMISSIONS, READ, EDIT or MANAGE.
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Seconds that a password which was right counts as right: checking it takes much longer than most requests do.
auth_cache_ttl_seconds = 60
"""


def start(settings: Settings, secrets: Path, bucket: Mapping[str, str], log: Path) -> Program:
    """Run the server; returns at once. `bucket`: the environment in which boto3 reaches BUCKET."""
    port = settings.database_port
    runs, users = (f"postgresql+psycopg://{OWNER}@127.0.0.1:{port}/{name}" for name in DATABASES)
    # libpq looks the password up in this file, so that no address has it, nor a message which repeats one.
    secret_files.write(secrets / "pgpass", f"127.0.0.1:{port}:*:{OWNER}:{secret_files.secret(secrets, 'database')}\n")
    secret_files.write(secrets / "basic_auth.ini", AUTHORISATION.format(database=users, admin=ADMIN))
    options = {
        "--app-name": "basic-auth",
        "--host": settings.host,
        "--port": str(settings.port),
        "--allowed-hosts": settings.allowed_hosts,
        "--backend-store-uri": runs,
        "--artifacts-destination": f"s3://{BUCKET}",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]
    environment = {
        **bucket,
        "PGPASSFILE": str(secrets / "pgpass"),
        "PGPASSWORD": "",  # of the user who starts us: it would come first
        "MLFLOW_AUTH_CONFIG_PATH": str(secrets / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret_files.secret(secrets, f"{ADMIN}_password"),  # of the first start alone
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret_files.secret(secrets, "session_key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs of language models: three more processes
    }
    return Program("the MLflow server", command, log, signal.SIGTERM, environment=environment)


def answers(settings: Settings) -> bool:
    """Whether it answers."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    try:
        return requests.get(f"http://{host}:{settings.port}/health", timeout=5).ok
    except requests.RequestException:
        return False
