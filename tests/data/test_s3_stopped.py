"""A signal while a bucket says nothing: the work is left at once, however often boto3 would try again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import s3
from mlproject import interrupts

SOURCE = Path(interrupts.__file__).parents[1]
WORK = """
import sys
from pathlib import Path
from mlproject import interrupts
from mlproject.data.case import Case
from mlproject.data.fetching import fetch
from mlproject.data.objects import BucketObject, place_of_copy
from mlproject.data.s3 import S3Folder, download
from mlproject.errors import Interrupted
interrupts.install()
bucket, cache = S3Folder("s3://bucket/set"), Path(sys.argv[1])
scan = BucketObject(bucket.client.meta.endpoint_url, "bucket", "set/a.nii.gz", 10, "etag")
copy = place_of_copy(cache, (scan,))
for work in (
    bucket.objects,
    lambda: bucket.read("cases.csv"),
    lambda: bucket.write("mask.nii.gz", b"mask"),
    lambda: bucket.find("a.nii.gz"),
    lambda: download(bucket.client, scan, cache / "a.nii.gz"),
    lambda: fetch([Case("a", {"dwi": copy}, None, "a", objects={copy: (scan,)})], limit_gb=1),
):
    try:
        work()
    except Interrupted as error:
        print(error, flush=True)
    interrupts._received = None
"""


@pytest.fixture
def silent() -> Iterator[tuple[str, threading.Semaphore]]:
    """A server that takes connections and never answers: its URL, and what is released with each of them."""
    taken, connections = threading.Semaphore(0), []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    connections.append(server.accept())
                except OSError:
                    return
                taken.release()

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        server.shutdown(socket.SHUT_RDWR)


def test_whatever_is_done_with_a_bucket_is_left_at_a_signal(
    silent: tuple[str, threading.Semaphore], tmp_path: Path
) -> None:
    address, taken = silent
    environment = {**os.environ, **s3.environment(address), "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        for _ in range(6):
            assert taken.acquire(timeout=30)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == 6 * "stopped by SIGTERM\n"
        assert process.returncode == 0
    finally:
        process.kill()
