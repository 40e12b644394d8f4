"""PostgreSQL: a cluster of its own in a folder, which answers on this machine alone."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from lab_server import secret_files
from lab_server.program import Program, ServerError

ADMIN, OWNER = "postgres", "mlflow"
"""The roles: one that may do everything, and the one that MLflow uses, which owns DATABASES and nothing else."""
DATABASES = ("mlflow", "mlflow_auth")


def binaries() -> Path | None:
    """The folder of initdb and postgres: on PATH, or where Debian puts the newest version."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return versions[-1].parent if versions else None


class Cluster:
    """A PostgreSQL cluster in `folder`, made where it is missing.

    Attributes:
        port: on 127.0.0.1.
        data: the cluster's own folder.
    """

    def __init__(self, programs: Path, folder: Path, port: int, password: str) -> None:
        """`programs`: as from `binaries`; `password`: of ADMIN. Raises ServerError where it cannot be made."""
        self.port, self.data, self._programs = port, folder / "data", programs
        self._password = password
        self._as_user = _as_another_user(folder)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(folder)

    def start(self, log: Path, settings: Mapping[str, str] | None = None) -> Program:
        """Run the server, with further `settings` of postgresql.conf; returns at once."""
        given = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **(settings or {}),
        }
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self._programs / "postgres", "-D", self.data, *options]
        # SIGTERM would wait for all clients to go.
        return Program("PostgreSQL", command, log, signal.SIGINT, as_user=self._as_user)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def make_databases(self, password: str) -> None:
        """Make the role OWNER with its password, and its DATABASES, where they are missing."""
        with self._connect() as connection:
            roles = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchall()
            role, secret = sql.Identifier(OWNER), sql.Literal(password)
            if not roles:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, secret))
            known = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for database in DATABASES:
                if database not in known:
                    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), role))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=ADMIN, password=self._password, dbname="postgres", autocommit=True,
            connect_timeout=5,
        )  # fmt: skip

    def _initialise(self, folder: Path) -> None:
        """Make the cluster beside its place, so that one that is not whole is never taken for one."""
        unfinished, password = folder / "unfinished", folder / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        secret_files.write(password, self._password)
        if self._as_user:
            for path in (folder, password):
                shutil.chown(path, *_system_user())
        options = ["-U", ADMIN, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        command: list[str | Path] = [*self._as_user, self._programs / "initdb", "-D", unfinished, *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        password.unlink()
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ServerError(f"initdb cannot make a PostgreSQL cluster in {folder}: {reason}")
        unfinished.rename(self.data)


def _as_another_user(folder: Path) -> list[str]:
    """The words that run a program as an ordinary user where this one is root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return []
    user, group = _system_user()
    switch = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run([*switch, "test", "-x", folder], check=False).returncode:
        raise ServerError(
            f"PostgreSQL does not run as root, and the user {pwd.getpwuid(user).pw_name} cannot enter {folder}: give a "
            "folder that others may enter, as SERVER_FOLDER=/var/lib/stroke-lesion, or run `make server` as an "
            "ordinary user"
        )
    return switch


def _system_user() -> tuple[int, int]:
    """User and group of Debian's postgres, else of nobody."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return user.pw_uid, user.pw_gid
