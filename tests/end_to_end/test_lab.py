"""The whole pipeline on a lab's server by an ordinary user, and no secret in anything that it wrote.

Every place that may hold a secret holds one with MARK in it: addresses, the environment, the URL of the project, and
the files in the user's home that are for secrets.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

import git_server
import postgres
import s3
from end_to_end.conftest import PROJECT, TINY
from lab import Lab
from lab_server.postgres import ADMIN, DATABASES

MARK = "leak4711"
USER, PASSWORD = "alice", f"{MARK} of alice"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIALEAK4711LEAK4711",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-of-the-bucket",
    "AWS_SESSION_TOKEN": f"{MARK}-of-the-session",
    "STROKE_LESION_SERVER_TOKEN": f"{MARK}-of-the-model-server",
}

HOME = {
    ".netrc": f'machine localhost login {USER} password "{PASSWORD}"\n',
    ".pgpass": f"127.0.0.1:*:*:{ADMIN}:{MARK} of postgres\n",
    ".aws/credentials": f"[default]\naws_access_key_id = a\naws_secret_access_key = {MARK}-of-aws\n",
}
"""The user's files."""

BY_MLFLOW_RUN = (b"=== Fetching project from", b"View run ", b"View experiment ")
"""What `mlflow run` itself prints with the addresses that it was given, before and after our code (docs/server.md)."""


@dataclass(frozen=True)
class Place:
    """A user's folder, and what the commands there have printed."""

    lab: Lab
    folder: Path
    data: Path
    address_of_git: str

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with_password = self.lab.address.replace("//", f"//{USER}:{PASSWORD.replace(' ', '%20')}@")
        ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING_")}
        return {**ours, **SECRETS, "PATH": path, "HOME": str(self.home), "MLFLOW_TRACKING_URI": with_password}

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def settings(self) -> dict[str, str]:
        return {**TINY, "data.layout": "isles2022", "data.root": str(self.data), "work_dir": str(self.folder / "work")}

    def run(self, *command: str, **environment: str) -> None:
        given = self.environment | environment
        done = subprocess.run(command, cwd=self.folder, env=given, capture_output=True, text=True)
        with (self.folder / "printed").open("a") as printed:
            printed.write(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr

    def mlflow_run(self, *arguments: str, **settings: str) -> None:
        """`mlflow run` of the project's git address with a token in it."""
        project = f"{self.address_of_git.replace('//', f'//{MARK}-of-git@')}/project"
        pairs = [word for name, value in {**self.settings, **settings}.items() for word in ("-P", f"{name}={value}")]
        self.run("mlflow", "run", project, "--env-manager", "local", "--experiment-name", "lab", *arguments, *pairs)

    def stage(self, stage: str, *words: str, **environment: str) -> None:
        self.run(sys.executable, str(PROJECT / "src" / "run.py"), stage, *words, **environment)

    def client(self, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        return mlflow.MlflowClient(self.lab.address)


@pytest.fixture(scope="module")
def place(lab: Lab, tiny_isles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where `mlflow run` of a git address has been through the entry point main once."""
    lab.add_user(USER, PASSWORD)
    folder, repositories = (tmp_path_factory.mktemp(name) for name in ("lab", "git"))
    git_server.publish(PROJECT, repositories / "project")
    with git_server.server(repositories) as address:
        place = Place(lab, folder, tiny_isles, address)
        for name, content in HOME.items():
            (place.home / name).parent.mkdir(parents=True, exist_ok=True)
            (place.home / name).write_text(content)
            (place.home / name).chmod(0o600)
        place.mlflow_run()
        yield place


def test_the_run_is_whole_and_its_files_are_in_the_bucket(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client(monkeypatch)
    experiment = client.get_experiment_by_name("lab")
    (main,) = client.search_runs([experiment.experiment_id], "tags.stage = 'main'")
    assert main.info.status == "FINISHED" and main.data.metrics["test/dice"] >= 0
    assert client.get_model_version_by_alias("stroke-lesion", "champion").version == "1"
    reports = list((place.lab.folder / "buckets" / "mlflow").rglob("report.html"))
    assert len(reports) == 1
    # The token is gone, and the address is still the project's.
    assert main.data.tags["mlflow.source.name"] == f"{place.address_of_git}/project"
    assert main.data.tags["mlflow.source.git.repoURL"] == f"{place.address_of_git}/project"
    assert f"mlflow run {place.address_of_git}/project --version" in main.data.tags["mlflow.note.content"]


def test_no_secret_in_anything_that_was_written(place: Place) -> None:
    assert_clean(place)


@pytest.mark.long
def test_every_stage_on_the_labs_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other stages by the same user, the search in a PostgreSQL database with a password; then the same look."""
    monkeypatch.setattr(postgres, "PASSWORD", f"{MARK} of postgres")
    with postgres.server(postgres.binaries()) as url:
        at, work = url.rpartition("@")[2], ["--work_dir", str(place.folder / "work")]
        monkeypatch.setenv("STROKE_LESION_STUDY_DATABASE", f"postgresql://{ADMIN}@{at}")  # the password is in .pgpass
        pairs = [word for name, value in place.settings.items() for word in (f"--{name}", value)]
        again = [*work, "--data.root", str(place.data)]
        place.stage("describe", "--data.root", str(place.data))
        monkeypatch.setattr(s3, "KEY", SECRETS["AWS_ACCESS_KEY_ID"])
        monkeypatch.setattr(s3, "SECRET", SECRETS["AWS_SECRET_ACCESS_KEY"])
        program = s3.program()
        assert program is not None
        with s3.server(program, place.data.parent) as bucket:
            given = s3.environment(bucket)
            place.stage("describe", "--data.root", f"s3://{place.data.name}", *work, "--debug", **given)
        place.stage("train", *pairs, MLFLOW_TRACKING_URI=place.lab.address)  # the password is in .netrc
        train = place.client(monkeypatch).search_runs(
            [place.client(monkeypatch).get_experiment_by_name("stroke-lesion").experiment_id], "tags.stage = 'train'"
        )[0]
        place.stage("postprocess", "--run", train.info.run_id, *again, "--crf_search.trials", "2")
        place.stage("evaluate", "--model", "models:/stroke-lesion@champion", "--cases", "all", *again)
        place.stage("predict", "--model", "models:/stroke-lesion@champion", "--data.root", str(place.data),
                    "--output", str(place.folder / "masks"))  # fmt: skip
        place.stage("crossvalidate", *pairs, "--data.folds", "2")
        place.stage("search", "--config", "conf/search.yaml", *pairs, "--search.trials", "2")
        place.stage("search", "--config", "conf/search.yaml", *pairs, "--search.trials", "2",
                    STROKE_LESION_STUDY_DATABASE=url, PGPASSWORD=f"{MARK}-of-nobody")  # fmt: skip
        small = place.folder / "small.yaml"
        small.write_text("training: {batch_size: 2}")
        place.stage("reproduce", *pairs, "--reproduce.parts", "[crf]", "--reproduce.validations", "2",
                    "--reproduce.paper", str(small), "--reproduce.platform", str(small))  # fmt: skip
        place.stage("sync", *work)
        place.stage("clean", *work)
        place.mlflow_run("-e", "train")
    assert_clean(place)


def assert_clean(place: Place) -> None:
    """No MARK in the database, the bucket, the user's folder, logs and what was printed."""
    found = []
    for folder in (place.folder, place.lab.folder / "buckets", place.lab.folder / "logs"):
        secret = [place.home / name for name in HOME]
        for file in (path for path in folder.rglob("*") if path.is_file() and path not in secret):
            content = file.read_bytes()
            lines = [line for line in content.splitlines() if MARK.encode() in line.lower()]
            if file.name == "printed":
                lines = [line for line in lines if not any(word in line for word in BY_MLFLOW_RUN)]
            found += [f"{file}: {line!r}" for line in lines]
    for database in DATABASES:
        found += [line for line in dump(place.lab, database).splitlines() if MARK in line.lower()]
    assert not found


def dump(lab: Lab, database: str) -> str:
    """Every table as text."""
    programs = postgres.binaries()
    assert programs is not None
    address = ["-h", "127.0.0.1", "-p", lab.given["SERVER_DATABASE_PORT"], "-U", "mlflow"]
    done = subprocess.run(
        [programs / "pg_dump", *address, database],
        env={**os.environ, "PGPASSWORD": "", "PGPASSFILE": str(lab.folder / "secrets" / "pgpass")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "COPY public." in done.stdout
    return done.stdout
