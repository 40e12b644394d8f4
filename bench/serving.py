"""`python -m bench.serving URL dwi=FILE adc=FILE`: a served model under load: how long it takes.

URL is that of `mlflow models serve`; several clients send the same case again and again, each as soon as it has its
answer. Prints a table, and fails where an answer differs from the first or is none.
"""

import base64
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import requests

CLIENTS, SECONDS = 8, 60.0


@dataclass
class Load:
    """What came of it.

    Attributes:
        seconds: of each request that was answered, from sending it to the last byte.
        digests: SHA-256 of the answers, and how often each came.
        refused: status and text of the others.
        memory: bytes that the server's process held, once a second; empty where it runs elsewhere.
    """

    seconds: list[float] = field(default_factory=list)
    digests: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def main(url: str, *images: str) -> None:
    """Measure, and print."""
    load = under_load(url, request_of(dict(image.split("=", 1) for image in images)))
    if load.refused or len(load.digests) != 1:
        sys.exit(f"error: {len(load.digests)} different answers, {len(load.refused)} refusals: {load.refused[:3]}")
    ordered = np.sort(load.seconds)
    print("| clients | answers in a minute | median | 95 % | longest | memory of the server, early and late |")
    print("|---|---|---|---|---|---|")
    times = " | ".join(f"{seconds:.2f} s" for seconds in (np.median(ordered), np.quantile(ordered, 0.95), ordered[-1]))
    memory = " and ".join(f"{held / 2**20:.0f} MiB" for held in early_and_late(load.memory)) if load.memory else ""
    print(f"| {CLIENTS} | {len(ordered) * 60 / SECONDS:.0f} | {times} | {memory} |")


def request_of(images: dict[str, str]) -> bytes:
    """The body of a request about one case: channel → file."""
    row = {channel: base64.b64encode(Path(file).read_bytes()).decode() for channel, file in images.items()}
    return json.dumps({"dataframe_records": [row]}).encode()


def under_load(url: str, request: bytes, clients: int = CLIENTS, seconds: float = SECONDS) -> Load:
    """Let `clients` send a request again and again for so many seconds."""
    load = Load()
    server = listening_at(urlsplit(url).port or 80)
    end = time.monotonic() + seconds

    def client(_: int) -> None:
        with requests.Session() as session:
            while time.monotonic() < end:
                began = time.monotonic()
                answer = session.post(
                    url.removesuffix("/invocations") + "/invocations",
                    data=request,
                    headers={"Content-Type": "application/json"},
                    timeout=600,
                )
                if answer.status_code != 200:
                    load.refused.append(f"{answer.status_code}: {answer.text[:200]}")
                    continue
                load.seconds.append(time.monotonic() - began)
                digest = hashlib.sha256(answer.content).hexdigest()
                load.digests[digest] = load.digests.get(digest, 0) + 1

    with ThreadPoolExecutor(clients) as pool:
        pending = [pool.submit(client, number) for number in range(clients)]
        while not all(future.done() for future in pending):
            if server is not None:
                load.memory.append(server.memory_info().rss)
            time.sleep(1)
    for future in pending:
        future.result()
    return load


def listening_at(port: int) -> psutil.Process | None:
    """The process of this machine that listens at a port."""
    for process in psutil.process_iter():
        try:
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp")):
                return process
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return None


def early_and_late(memory: list[int]) -> tuple[int, int]:
    """The most that was held in the second and in the last quarter of the time; the first one warms up."""
    quarter = max(len(memory) // 4, 1)
    return max(memory[quarter : 2 * quarter] or memory), max(memory[-quarter:])


if __name__ == "__main__":
    main(*sys.argv[1:])
