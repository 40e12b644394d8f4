"""Rows about a training whose tracking server is slow or gone: `python -m bench.run waiting`, about 5 minutes.

The bucket behind the server takes BANDWIDTH, as rclone limits it. The training has one thread: server and bucket run
on the same machine here, and would otherwise take their share of a core from it.
"""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from functools import partial
from itertools import product, repeat
from pathlib import Path
from statistics import median

import mlflow
import requests

from bench.row import Row, timed
from bench.training import job_of
from lab_server import bucket
from lab_server.program import Program
from mlproject.tracking import runs
from mlproject.tracking.settings import TrackingSettings
from mlproject.tracking.spool import waiting
from mlproject.training import checkpoint
from mlproject.training.loop import Trainer
from mlproject.training.progress import Point
from mlproject.training.worker import fabric_of

BANDWIDTH = "600k"  # bytes a second; a checkpoint takes longer than the steps
STEPS, REPEATS = 13, 3
SLOW, GONE = "the bucket behind the server is slow", "the tracking server is gone"
PORT, BUCKET_PORT = 47_311, 47_312


def rows() -> list[Row]:
    """All rows of this file."""
    with tempfile.TemporaryDirectory() as name, chdir(name), ExitStack() as ends:
        folder = Path(name)
        server = ends.enter_context(ExitStack())
        mlflow.set_tracking_uri(server.enter_context(_server(folder)))
        run = ends.enter_context(
            runs.open_run(TrackingSettings(system_metrics=False), "bench", "train", spools=folder / "spool")
        )
        step = _step(folder)
        seconds: dict[str, list[tuple[float, float]]] = {SLOW: [], GONE: []}
        for number, fault in product(range(REPEATS), seconds):
            run.flush(600)
            calm = _steps(step)
            if fault == GONE:
                server.close()
            run.log_points([Point(number, 1000 * number, {fault.replace(" ", "_"): 0.5})])
            run.log_checkpoints([folder / "last.pt"], number)
            seconds[fault].append((calm, _steps(step)))
            if not waiting(folder / "spool" / run.id):
                sys.exit("error: all was delivered before the steps were done: lower BANDWIDTH")
            if fault == GONE:
                server.enter_context(_server(folder))
        return [_row(fault, pairs) for fault, pairs in seconds.items()]


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Within, a tracking server answers whose bucket is slow; gives its address."""
    rclone = bucket.program()
    if rclone is None:
        sys.exit("error: no rclone: make .venv/server")
    (folder / "buckets" / "mlflow").mkdir(parents=True, exist_ok=True)
    address, limit = f"http://127.0.0.1:{PORT}", ["--bwlimit", BANDWIDTH]
    environment = bucket.environment(f"http://127.0.0.1:{BUCKET_PORT}", "key", "secret")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(PORT), "--artifacts-destination", "s3://mlflow"]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with (
        bucket.start(rclone, folder / "buckets", BUCKET_PORT, "key", "secret", folder / "bucket.log", limit),
        Program("MLflow", command, folder / "mlflow.log", signal.SIGTERM, environment=environment) as program,
    ):
        program.wait_until(partial(_answers, f"{address}/health"))
        yield address


def _answers(address: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(address, timeout=5).ok
    return False


def _step(folder: Path) -> Callable[[], object]:
    """A training step; the state after it is a checkpoint in `folder`."""
    job = job_of(folder, accelerator="cpu", threads=1)
    fabric = fabric_of(job.training)
    fabric.launch()
    trainer = Trainer(job, fabric)
    fixed = repeat(next(trainer.batches()))
    trainer.step(fixed)
    checkpoint.write(trainer.state.to_dict(), folder / "last.pt")
    return lambda: trainer.step(fixed)


def _steps(step: Callable[[], object]) -> float:
    """Seconds that a step takes, the median of several: what else the machine does comes in bursts."""
    return median(timed(step)[0] for _ in range(STEPS))


def _row(fault: str, pairs: Sequence[tuple[float, float]]) -> Row:
    calm, disturbed = (1000 * median(seconds) for seconds in zip(*pairs, strict=True))
    return Row(
        what=f"a training step takes longer while {fault}, by",
        against="the same steps with nothing to deliver",
        unit="%",
        samples=tuple(100 * (after / before - 1) for before, after in pairs),
        target=2.0,
        better="<=",
        detail=f"{disturbed:.4g} ms against {calm:.4g} ms a step",
    )
