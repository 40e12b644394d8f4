"""The client of a model that `mlflow models serve` answers for."""

import base64
import binascii
import gzip
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import requests

from mlproject.data.case import Case
from mlproject.data.image_files import GZIP, GZIP_MAGIC, decompressed
from mlproject.data.nifti_header import without_text
from mlproject.errors import DataError, ModelError, SettingsError
from mlproject.tracking.answers import Answer, Params, about, request_files

TOKEN_VARIABLE = "STROKE_LESION_SERVER_TOKEN"
ROUTE = "/invocations"
WAITS_S = (1.0, 2.0, 4.0)
"""Between one try to reach the server and the next."""
NAMELESS = GZIP_MAGIC + b"\x08" + bytes(6) + b"\xff"
"""A gzip header without the file's name, a comment or a date."""
OUT_OF_ORDER = (502, 503)
"""What a proxy answers while the server behind it starts or is away."""


class ServerGoneError(DataError):
    """The server could not be reached for this case, or was silent for the time allowed."""


class ModelServer:
    """A model behind a URL. The server is asked at once which model it is.

    Credentials are those of ~/.netrc for the host, or a bearer token in the environment variable TOKEN_VARIABLE.

    Attributes:
        channels: what the model takes, the reference first.
        version: what it calls itself in its answers.
        model_id: the id under which MLflow logged it.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        """Reach the server. Raises SettingsError for a bad URL, ModelError where no model of this software answers."""
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SettingsError(
                f"model={url!r} is no server's address ({error}): give one as http://HOST:PORT"
            ) from error
        if "@" in parts.netloc:
            raise SettingsError(
                f"the URL of {parts.hostname} holds a user or password, which would be logged: put them into "
                f"~/.netrc, or a token into {TOKEN_VARIABLE}"
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise SettingsError(f"model={url!r} is no server's address: give one as http://HOST:PORT")
        self.address = url.rstrip("/").removesuffix(ROUTE)
        self.timeout_s = timeout_s
        self.channels, self.version, self.model_id = self._introduction()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open between two requests."""

    def start(self) -> None:
        """The server has loaded the model."""

    def segment(self, case: Case, params: Params, folder: Path) -> Answer:
        """Segment a case; see answers.Model. Raises ServerGoneError where the server cannot be reached for it."""
        row = {name: _text(name, file) for name, file in request_files(case, folder).items()}
        answer = self._send("POST", ROUTE, {"dataframe_records": [row], "params": dict(params)})
        if answer.status_code != 200:
            raise DataError(about(case, _complaint(answer)))
        try:
            (found,) = answer.json()["predictions"]
            files = {name: folder / f"{name}.nii.gz" for name in ("mask", "probability") if name in found}
            for name, file in files.items():
                file.write_bytes(base64.b64decode(found[name], validate=True))
            return Answer(
                mask=files["mask"],
                probability=files.get("probability"),
                lesion_ml=float(found["lesion_volume_ml"]),
                lesion_count=int(found["lesion_count"]),
                model_version=str(found["model_version"]),
                model_id=str(found["model_id"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, binascii.Error) as error:
            raise DataError(f"the server's answer is none of this software's models ({error!r})") from error

    def _introduction(self) -> tuple[tuple[str, ...], str, str]:
        """Channels, version and id, which a model names where a request holds no image."""
        try:
            health = self._send("GET", "/ping")
            answer = self._send("POST", ROUTE, {"dataframe_records": []})
        except ServerGoneError as error:
            raise ModelError(f"{error}. Start it with: mlflow models serve -m MODEL --env-manager local") from error
        for reply in (health, answer):
            if reply.status_code in (401, 403):
                raise ModelError(
                    f"the server {self.address} refuses (status {reply.status_code}): put the user and password for "
                    f"{urlsplit(self.address).hostname} into ~/.netrc, or a token into {TOKEN_VARIABLE}"
                )
        named = re.search(r"columns (\[.*?\]).* to the model (.+) \((\S+)\)$", _complaint(answer))
        if answer.status_code != 400 or named is None:
            raise ModelError(
                f"no model of this software answers at {self.address}{ROUTE} (status {answer.status_code}: "
                f"{_complaint(answer)[:200]!r}). Is the address right? A model that was logged by an earlier version "
                "of the software does not say what it is: give its models:/ or runs:/ URI instead of the URL"
            )
        return tuple(json.loads(named[1])), named[2], named[3]

    def _send(self, method: str, route: str, body: dict[str, Any] | None = None) -> requests.Response:
        """One request, tried again while the server cannot be reached; it may be answered twice, which does no harm."""
        token = os.environ.get(TOKEN_VARIABLE)
        for wait in (*WAITS_S, None):
            try:
                answer = requests.request(
                    method, self.address + route, json=body, timeout=(10, self.timeout_s), allow_redirects=False,
                    auth=(lambda request: _with_token(request, token)) if token else None,
                )  # fmt: skip
                if answer.status_code not in OUT_OF_ORDER:
                    return answer
                problem = f"status {answer.status_code}"
            except requests.ReadTimeout as error:
                raise self._silent() from error
            except requests.exceptions.SSLError as error:
                raise ModelError(
                    f"no safe connection to the server {self.address}: {_cause(error)}. If its certificate has an "
                    "issuer of your own, name the issuer's file by REQUESTS_CA_BUNDLE"
                ) from error
            except requests.ConnectionError as error:
                if "Read timed out" in str(error):  # in the midst of its answer
                    raise self._silent() from error
                problem = _cause(error)
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
                raise DataError(f"the answer of the server {self.address} broke off: {_cause(error)}") from error
            except requests.RequestException as error:
                raise ModelError(f"the server {self.address} cannot be asked: {_cause(error)}") from error
            if wait is not None:
                time.sleep(wait)
        raise ServerGoneError(f"the server {self.address} cannot be reached ({problem})")

    def _silent(self) -> ServerGoneError:
        return ServerGoneError(f"the server {self.address} did not answer within timeout_s={self.timeout_s:g}")


def _text(channel: str, file: Path) -> str:
    """An image as a request holds it, without what its headers say in words: that may identify the patient."""
    content = file.read_bytes()
    try:
        plain = b"".join(decompressed([content])) if content.startswith(GZIP_MAGIC) else content
        bare = without_text(plain)
    except DataError as error:
        raise DataError(f"{channel} {file.name}: {error}") from error
    if bare != plain:
        content = gzip.compress(bare, 1, mtime=0)
    elif content.startswith(GZIP_MAGIC):
        content = _nameless(content, plain)
    return base64.b64encode(content).decode()


def _nameless(content: bytes, plain: bytes) -> bytes:
    """A gzip file without the name that its file had, which gzip and pigz write into it; `plain`: decompressed.

    Where it can be, only its header is changed: to compress a large scan again takes seconds.
    """
    end = zlib.crc32(plain).to_bytes(4, "little") + (len(plain) % 2**32).to_bytes(4, "little")
    begins = zlib.decompressobj(zlib.MAX_WBITS | GZIP).decompress(content, 1)
    if not (begins and content.endswith(end)):  # several streams in a row, each with a header
        return gzip.compress(plain, 1, mtime=0)
    flags, start = content[3], 10
    if flags & 4:  # a field of its own
        start += 2 + int.from_bytes(content[10:12], "little")
    for flag in (8, 16):  # name and comment
        if flags & flag:
            start = content.index(0, start) + 1
    return NAMELESS + content[start + (2 if flags & 2 else 0) :]  # a checksum of the header


def _with_token(request: requests.PreparedRequest, token: str) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _complaint(answer: requests.Response) -> str:
    """Why a server refused, in one line."""
    if answer.status_code == 504:
        return (
            "the server ran out of its own time (status 504): start it with "
            "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT=600 in its environment"
        )
    if answer.status_code == 413:
        return "the proxy before the server takes no request as large as this (status 413): raise its limit"
    if answer.is_redirect:
        return f"the server redirects to {answer.headers['location']}: give that address"
    try:
        return " ".join(str(answer.json()["message"]).split())
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}: {' '.join(answer.text.split())[:200]}"


def _cause(error: requests.RequestException) -> str:
    """The innermost reason of an exception of requests, without addresses in memory."""
    reason: Any = error.args[0] if error.args else ""
    text = str(getattr(reason, "reason", reason))  # urllib3 puts its own reason into a MaxRetryError
    return re.sub(r".*(\): |>: )", "", text) or type(error).__name__
