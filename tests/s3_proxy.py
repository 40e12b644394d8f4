"""A proxy before a real S3 or MLflow server: counts, and spoils answers as networks, gateways, expired sessions do."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What goes back to the client.

    Attributes:
        status, headers, body: the server's own at first; names of headers are in lower case.
        sent: how many bytes of the body go out before the connection breaks off; None: all.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    sent: int | None = None

    def refuse(self, status: int, code: str) -> None:
        self.status, self.headers = status, {"content-type": "application/xml"}
        self.body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        address: its URL.
        spoil: given method, path (with the query) and answer, changes the answer.
        delay_s: added to every answer.
        objects: keys of the objects whose content was asked for, in order.
    """

    address: str = ""
    spoil: Callable[[str, str, Answer], None] = lambda *_: None
    delay_s: float = 0.0
    objects: list[str] = field(default_factory=list)


@contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    """Within, a proxy before the server at this URL answers."""
    state = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = http.client.HTTPConnection(server.removeprefix("http://"))
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            headers = {n: v for n, v in found.items() if n not in ("transfer-encoding", "connection")}
            answer = Answer(response.status, headers, response.read())
            upstream.close()
            if self.command == "GET" and "?" not in self.path.replace("?x-id=GetObject", ""):
                state.objects.append(self.path.partition("?")[0].split("/", 2)[-1])
            state.spoil(self.command, self.path, answer)
            time.sleep(state.delay_s)
            self._send(answer)

        do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            given = {name: value for name, value in answer.headers.items() if name != "content-length"}
            length = answer.headers.get("content-length") if self.command == "HEAD" else str(len(answer.body))
            for name, value in {**given, "Content-Length": length or "0"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body if answer.sent is None else answer.body[: answer.sent])
            self.close_connection = answer.sent is not None

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as running:
        state.address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield state
        finally:
            running.shutdown()
