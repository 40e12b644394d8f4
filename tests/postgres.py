"""A real PostgreSQL server for tests, with its own cluster in a temporary folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from free_port import free_port
from lab_server.postgres import ADMIN, Cluster, binaries

__all__ = ["binaries", "server"]

PASSWORD = "of the tests"


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """Within, a server answers on 127.0.0.1; gives its URL, with a password."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # where we are root, PostgreSQL is another user
        cluster = Cluster(programs, folder / "cluster", free_port(), PASSWORD)
        with cluster.start(folder / "log", {"fsync": "off"}) as running:
            running.wait_until(cluster.answers)
            yield f"postgresql://{ADMIN}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{cluster.port}/postgres"
