"""`make server` with the real programs: what it refuses, keeps, and how it ends."""

import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import mlflow
import psutil
import psycopg
import pytest
import requests

import lab as lab_of_the_tests
from lab import Lab
from lab_server.__main__ import say_how_to_use
from lab_server.postgres import ADMIN, OWNER
from lab_server.settings import settings_from_environment


def refused(**given: str) -> str:
    """The one line with which a server that is given these variables ends."""
    done = subprocess.run(
        lab_of_the_tests.command(), env=lab_of_the_tests.environment(given), capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_taken_port_is_refused(lab: Lab) -> None:
    with lab_of_the_tests.folder() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name in ("SERVER_PORT", "SERVER_DATABASE_PORT", "SERVER_BUCKET_PORT"):
            line = refused(**{**lab_of_the_tests.variables(folder), name: port})
            assert line == (
                f"error: port {port} is taken by another program: stop that, or give another one by {name}="
            )
        assert not (folder / "postgres").exists()


def test_a_second_server_in_the_folder_is_refused(lab: Lab) -> None:
    line = refused(**lab_of_the_tests.variables(lab.folder))
    assert line.startswith(f"error: a server runs in {lab.folder} already")
    assert requests.get(f"{lab.address}/health").ok


@pytest.mark.parametrize("value", ["abc", "0", "70000"])
def test_no_port(value: str) -> None:
    assert refused(SERVER_PORT=value) == f"error: SERVER_PORT={value}: give a port, 1 to 65535"


def test_one_port_for_two_is_refused(lab: Lab) -> None:
    with lab_of_the_tests.folder() as folder:
        given = lab_of_the_tests.variables(folder)
        assert refused(**given | {"SERVER_BUCKET_PORT": given["SERVER_PORT"]}).endswith(": give three ports")


def test_nobody_without_a_password(lab: Lab) -> None:
    search = f"{lab.address}/api/2.0/mlflow/experiments/search"
    assert requests.post(search, json={"max_results": 1}).status_code == 401
    assert requests.post(search, json={"max_results": 1}, auth=("admin", "guessed")).status_code == 401
    assert requests.post(search, json={"max_results": 1}, auth=lab.admin).ok
    port = lab.given["SERVER_PORT"]
    assert requests.get(f"http://127.1:{port}/", auth=lab.admin).status_code == 403  # another name for the same host
    bucket = f"http://127.0.0.1:{lab.given['SERVER_BUCKET_PORT']}/mlflow"
    assert not requests.get(bucket).ok


def test_a_user_reads_what_others_have_made_and_changes_none_of_it(lab: Lab) -> None:
    lab.add_user("carol", "carol's password")
    api, carol = f"{lab.address}/api/2.0/mlflow", ("carol", "carol's password")
    assert requests.get(f"{api}/experiments/get", params={"experiment_id": "0"}, auth=carol).ok
    assert requests.post(f"{api}/runs/create", json={"experiment_id": "0"}, auth=carol).status_code == 403


@pytest.mark.parametrize("user", [ADMIN, OWNER])
def test_the_database_wants_a_password(lab: Lab, user: str) -> None:
    address = {"host": "127.0.0.1", "port": lab.given["SERVER_DATABASE_PORT"], "passfile": "/dev/null"}
    for password in ("", "guessed"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(user=user, dbname="mlflow", password=password, **address)


@pytest.mark.parametrize("variable", ["SERVER_PORT", "SERVER_DATABASE_PORT", "SERVER_BUCKET_PORT"])
def test_it_listens_on_one_address_of_this_machine(lab: Lab, variable: str) -> None:
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", int(lab.given[variable]))) != 0  # where 0.0.0.0 would answer, too


def test_passwords_are_in_files_of_their_owner_alone(lab: Lab) -> None:
    files = list((lab.folder / "secrets").iterdir())
    assert {"admin_password", "bucket", "database", "postgres", "session_key"} <= {file.name for file in files}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    folders = [lab.folder / name for name in ("secrets", "logs", "buckets/mlflow")]
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)
    secrets = [file.read_text() for file in files if file.name not in ("basic_auth.ini", "pgpass")]
    assert all(len(secret) >= 32 for secret in secrets)
    written = lab.printed() + "".join(file.read_text() for file in (lab.folder / "logs").iterdir())
    words = " ".join(
        word for process in [psutil.Process(lab.process.pid), *children(lab)] for word in process.cmdline()
    )
    assert not [secret for secret in secrets if secret in written or secret in words]


def test_what_it_prints_works_on_a_client(lab: Lab) -> None:
    exports = "\n".join(re.findall(r"^  (export .*)$", lab.printed(), re.MULTILINE))
    command = f"{exports}\nmlflow experiments search"
    path = f"{Path(lab_of_the_tests.command()[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0 and "Default" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "host"),
    [({}, "127.0.0.1"), ({"SERVER_HOST": "10.0.0.5"}, "10.0.0.5"), ({"SERVER_HOST": "0.0.0.0"}, socket.gethostname())],
)
@pytest.mark.parametrize("names", ["", "mlflow.example.org"])
def test_the_address_that_it_prints_is_one_that_it_answers_under(
    names: str, given: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SERVER_HOST": "", **given, "SERVER_PORT": "5005", "SERVER_ALLOWED_HOSTS": names}.items():
        monkeypatch.setenv(name, value)
    settings = settings_from_environment()
    say_how_to_use(settings)
    assert f"export MLFLOW_TRACKING_URI=http://{host}:5005\n" in capsys.readouterr().out
    assert {f"{host}:5005", names or "localhost:5005"} <= set(settings.allowed_hosts.split(","))


def children(lab: Lab) -> list[psutil.Process]:
    return psutil.Process(lab.process.pid).children(recursive=True)


def a_run_with_an_artifact(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", lab.admin[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lab.admin[1])
    client = mlflow.MlflowClient(lab.address)
    run = client.create_run("0")
    client.log_text(run.info.run_id, "kept", "note.txt")
    return str(run.info.run_id)


@pytest.mark.long
def test_data_stay_and_programs_end_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends all; started again on other ports, it has the same runs, artifacts, users and passwords."""
    with lab_of_the_tests.folder() as folder:
        lab = lab_of_the_tests.start(lab_of_the_tests.variables(folder))
        lab.add_user("alice", "alice's password")
        run_id, programs, admin = a_run_with_an_artifact(lab, monkeypatch), children(lab), lab.admin
        os.killpg(lab.process.pid, signal.SIGINT)  # Ctrl-C of a terminal reaches all that are in our group
        assert lab.process.wait(60) == 0 and lab.printed().endswith("stopped\n")
        assert not psutil.wait_procs(programs, timeout=5)[1]
        log = (folder / "logs" / "postgres.log").read_text()
        assert "database system is shut down" in log and "terminating connection" not in log  # its clients went first

        again = lab_of_the_tests.start(lab_of_the_tests.variables(folder))
        try:
            assert again.admin == admin
            found = requests.get(
                f"{again.address}/get-artifact",
                params={"run_id": run_id, "path": "note.txt"},
                auth=("alice", "alice's password"),
            )
            assert found.text == "kept"
        finally:
            again.process.terminate()
            assert again.process.wait(60) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "name"), [("postgres", "PostgreSQL"), ("rclone", "rclone"), ("mlflow", "the MLflow server")]
)
def test_one_that_dies_ends_the_others(program: str, name: str) -> None:
    with lab_of_the_tests.folder() as folder:
        lab = lab_of_the_tests.start(lab_of_the_tests.variables(folder))
        programs = children(lab)
        direct = psutil.Process(lab.process.pid).children()
        next(process for process in direct if program in " ".join(process.cmdline()[:3])).kill()
        assert lab.process.wait(60) == 1
        assert f"error: {name} has ended (exit code -9): " in lab.printed().splitlines()[-1]
        assert not psutil.wait_procs(programs, timeout=10)[1]


@pytest.mark.long
def test_killed_it_leaves_no_program_behind() -> None:
    with lab_of_the_tests.folder() as folder:
        lab = lab_of_the_tests.start(lab_of_the_tests.variables(folder))
        programs = children(lab)
        lab.process.kill()
        assert not psutil.wait_procs(programs, timeout=30)[1]
        lab.process.wait()
        again = lab_of_the_tests.start(lab_of_the_tests.variables(folder))
        again.process.terminate()
        assert again.process.wait(60) == 0
