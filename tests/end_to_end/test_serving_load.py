"""A served model with many clients, with some that go away, and at its end."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from bench.serving import early_and_late, listening_at, request_of, under_load

from end_to_end.conftest import Workplace, wait_for


def body_of(workplace: Workplace) -> bytes:
    images = {channel: str(next(workplace.data.rglob(f"*0001_{channel}.nii.gz"))) for channel in ("dwi", "adc")}
    return request_of(images)


def ask(url: str, body: bytes) -> requests.Response:
    return requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=120)


@contextmanager
def started(workplace: Workplace) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of its own, with the address of its /invocations, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/stroke-lesion/1", "--env-manager", "local", "-p", str(port)]
    environment = {**workplace.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{workplace.folder / 'mlflow.db'}"}
    with (workplace.folder / f"serve {port}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (workplace.folder / f"serve {port}.log").read_text()
        yield process, f"http://127.0.0.1:{port}/invocations"
    finally:
        for left in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
            left.kill()
        process.kill()
        process.wait()
        if (orphan := listening_at(port)) is not None:
            orphan.kill()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
    except requests.RequestException:
        return False


def test_a_client_that_goes_away_harms_nobody(workplace: Workplace, server: str) -> None:
    body = body_of(workplace)
    expected = ask(server, body).content
    parts = urlsplit(server)
    lines = ("POST /invocations HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""])
    for sent in (0, 100, len(body) // 2, len(body) - 1, len(body)):
        for reset in (False, True):
            with socket.create_connection((parts.hostname, parts.port)) as client:
                if reset:  # closing drops the connection at once
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(head.encode() + body[:sent])
    assert ask(server, body).content == expected


def test_sigterm_ends_a_server_and_its_requests(workplace: Workplace) -> None:
    body = body_of(workplace)
    with started(workplace) as (process, url):
        expected = ask(url, body).content
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        outcomes: list[bytes | None] = []

        def client() -> None:
            while True:
                try:
                    answer = ask(url, body)
                except requests.ConnectionError:
                    outcomes.append(None)
                    return
                outcomes.append(answer.content if answer.status_code == 200 else answer.text.encode())

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        wait_for(lambda: len(outcomes) > 4)
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        for thread in clients:
            thread.join(30)
        assert not any(thread.is_alive() for thread in clients)
        assert set(outcomes) == {expected, None}
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.long
def test_eight_clients_for_a_minute(workplace: Workplace, lesion_data: Path) -> None:
    folder = lesion_data / "isles22"
    body = request_of({c: str(next(folder.rglob(f"*_{c}.nii.gz"))) for c in ("dwi", "adc")})
    with started(workplace) as (_, url):
        expected = ask(url, body).json()
        load = under_load(url, body)
        assert not load.refused and len(load.digests) == 1 and len(load.seconds) >= 8
        early, late = early_and_late(load.memory)
        assert late < 1.1 * early + 50 * 2**20
        assert ask(url, body).json() == expected
