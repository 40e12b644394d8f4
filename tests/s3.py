"""A real S3 server for tests: rclone, over a folder of which each folder is a bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from free_port import free_port
from lab_server import bucket
from lab_server.bucket import program
from lab_server.settings import is_taken

__all__ = ["environment", "program", "server"]

KEY, SECRET = "the-key", "the-secret"


@contextmanager
def server(rclone: Path, folder: Path, port: int = 0, *options: str) -> Iterator[str]:
    """Within, a server answers, on a free port or the one given; gives its URL. `options`: more of rclone's."""
    port = port or free_port()
    fresh = ["--dir-cache-time", "1ms"]  # tests make buckets behind its back; 0s keeps a core busy
    log = folder.with_name(f"{folder.name}.log")
    with bucket.start(rclone, folder, port, KEY, SECRET, log, [*options, *fresh]) as running:
        running.wait_until(lambda: is_taken(port))
        yield f"http://127.0.0.1:{port}"


def environment(address: str) -> dict[str, str]:
    """What boto3 needs to reach the server."""
    return bucket.environment(address, KEY, SECRET)
