"""A real MLflow server for tests, which can be stopped and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

from free_port import free_port


class Server:
    """`mlflow server` on a free port of this machine; what it has outlives it."""

    def __init__(self, folder: Path, backend: str = "", artifacts: str = "", **environment: str) -> None:
        """A server to be started. `backend`, `artifacts`: where it keeps runs and files, else in `folder`."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        without_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # of language models: three more processes
        self._environment = {**os.environ, **without_jobs, **environment}
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--workers", "1", "--backend-store-uri", backend or f"sqlite:///{folder / 'server.db'}"]
        self._command += ["--artifacts-destination", artifacts or str(folder / "artifacts")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            assert self._process.poll() is None, self.log.read_text()
            try:
                if requests.get(f"{self.url}/health", timeout=1).ok:
                    return
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def hang(self) -> None:
        """Have it accept connections and answer nothing, until `go_on`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again, what it was asked meanwhile, too; nothing, where it has ended."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, and all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
