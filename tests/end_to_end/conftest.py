"""One small experiment through the real commands; the tests of this folder look at what it left."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import requests

PROJECT = Path(__file__).resolve().parents[2]
TINY = {
    "patches.size": "[16,16,16]",
    "patches.per_case": "2",
    "network.dynunet.channels": "[4,8,8]",
    "network.dynunet.stem_stride": "1",
    "training.steps": "8",
    "training.batch_size": "2",
    "training.workers": "0",
    "training.threads": "1",
    "training.accelerator": "cpu",
    "training.validate_every": "1",
    "training.log_every": "2",
    "prediction.device": "cpu",
    "crf_search.trials": "2",
    "tracking.system_metrics": "false",
}


@dataclass(frozen=True)
class Workplace:
    """A user's folder: what they type is run there, and MLflow's default database lies there."""

    folder: Path
    data: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}

    @property
    def settings(self) -> dict[str, str]:
        return {**TINY, "data.layout": "isles2022", "data.root": str(self.data), "work_dir": str(self.folder / "work")}

    def mlflow_run(self, *arguments: str, **settings: str) -> list[str]:
        """The words of an `mlflow run` command; dots in a setting's name are double underscores."""
        given = {**self.settings, **{name.replace("__", "."): value for name, value in settings.items()}}
        pairs = [word for name, value in given.items() for word in ("-P", f"{name}={value}")]
        return ["mlflow", "run", str(PROJECT), "--env-manager", "local", *arguments, *pairs]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def do_again(self, run: mlflow.entities.Run) -> None:
        """Run the commands of a run's description, with the code of this checkout, and the data where they are here."""
        note = run.data.tags["mlflow.note.content"]
        commands = note.partition("```sh\n")[2].partition("\n```")[0]
        commands = re.sub(r"^git checkout .*\n", "", commands, flags=re.MULTILINE)
        project = f"mlflow run {shlex.quote(str(PROJECT))} --env-manager"
        commands = re.sub(r"^mlflow run .*?--env-manager", project, commands, flags=re.MULTILINE)
        commands = commands.replace("/path/to/the/data", shlex.quote(str(self.data)))
        done = self.run(["bash", "-e", "-c", commands])
        assert done.returncode == 0, commands + done.stdout + done.stderr

    def stage_command(self, stage: str, **settings: str) -> list[str]:
        """The words of `python src/run.py STAGE ...` that mean the same as those of `mlflow_run`."""
        given = {"config": "conf/demo.yaml", **self.settings}
        given |= {name.replace("__", "."): value for name, value in settings.items()}
        pairs = [word for name, value in given.items() for word in (f"--{name}", value)]
        return [sys.executable, str(PROJECT / "src" / "run.py"), stage, *pairs]

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self, stage: str) -> list[mlflow.entities.Run]:
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, f"tags.stage = '{stage}'", order_by=["start_time"]))


def columns_of(run: mlflow.entities.Run) -> set[str]:
    """The columns of MLflow's run list that a run fills, as the UI names them; Version is the git commit."""
    data = run.data
    filled = {"metrics": data.metrics, "params": data.params, "tags": data.tags}
    version = {"attributes.`Version`"} if "mlflow.source.git.commit" in data.tags else set()
    return {f"{kind}.`{name}`" for kind, names in filled.items() for name in names} | version


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_isles: Path) -> Workplace:
    """Where `mlflow run` has been through the entry point main once."""
    place = Workplace(tmp_path_factory.mktemp("a user's place"), tiny_isles)
    done = place.run(place.mlflow_run())
    assert done.returncode == 0, done.stdout + done.stderr
    (place.folder / "stdout.txt").write_text(done.stdout)
    return place


@pytest.fixture(scope="session")
def server(workplace: Workplace) -> Iterator[str]:
    """The URL of a server of the registered model, as `mlflow models serve` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/stroke-lesion/1", "--env-manager", "local", "-p", str(port)]
    environment = {**workplace.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{workplace.folder / 'mlflow.db'}"}
    log = (workplace.folder / "serve.log").open("w")
    elsewhere = workplace.folder / "elsewhere"
    elsewhere.mkdir()
    process = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{address}/health", timeout=1).ok:
                break
        except requests.RequestException:
            time.sleep(0.5)
    else:
        process.kill()
    yield f"{address}/invocations"
    process.terminate()
    process.wait(20)
