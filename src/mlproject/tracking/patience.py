"""How long a call to the tracking server may take, and how long it waits for a server that is away.

MLflow has one timeout and one number of attempts for all that a process asks of it (120 s, and 8 in 4 minutes): a
server that accepts connections and never answers would hold each call for a quarter of an hour. `install` puts `_send`
in the place of the one function that all of MLflow's calls over HTTP pass, whatever store they come from.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from mlflow.exceptions import MlflowException
from mlflow.utils import rest_utils
from mlflow.utils.request_utils import _get_http_response_with_retries
from requests.exceptions import RetryError

from mlproject import credentials, interrupts

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
SECONDS_FOR_VALUES, MOST_FOR_VALUES = 15.0, 120.0
SECONDS_FOR_FILES, MOST_FOR_FILES = 60.0, 3600.0
"""For an answer. A proxy answers to an upload when the bucket has the whole file, so the time is doubled, up to the
most, for what did not end in it while the server answered others."""
SECONDS_TO_LOOK, SECONDS_FRESH = 4.0, 5.0
"""For a sign of life, which is looked for where nothing was answered lately: only then is a call sent."""
SECONDS_TO_BRIDGE, SECONDS_STOPPING = 6.0, 5.0
PAUSES = (1.0, 2.0, 4.0)  # seconds between two attempts; the last one again and again
SECONDS_TO_SETTLE = 2.0
FILES = "/mlflow-artifacts/"
CREATIONS = ("/runs/create", "/model-versions/create", "/logged-models")
"""Of what is sent, that which would be there twice if it were sent twice; see `once`, which finds it by a tag."""
CREATION_TAG = "mlflow.creation"  # the UI hides mlflow.*
UNANSWERED = (requests.ConnectionError, requests.Timeout)

Made = TypeVar("Made")


@dataclass
class _State:
    """What this process knows of the server.

    Attributes:
        wait_s: how long a call waits for it.
        answered: when it has last answered, by the monotonic clock; never, where the last call met nobody.
        in_vain: it has been waited for to the end; no other call need do so before it answers again.
        told: that it is waited for.
        patience: of calls without and with files, by what their usual timeout is multiplied.
    """

    wait_s: float = 120.0
    answered: float = -math.inf
    in_vain: bool = False
    told: bool = False
    patience: dict[bool, float] = field(default_factory=lambda: {False: 1.0, True: 1.0})


_state, _thread = _State(), threading.local()


def install(wait_s: float | None = None) -> None:
    """Give MLflow's calls these limits; `wait_s` as in TrackingSettings, the last one if None."""
    if not logger.isEnabledFor(logging.DEBUG):  # a line for each attempt, a traceback for each failure of a database
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    rest_utils._get_http_response_with_retries = _send  # type: ignore[attr-defined, assignment]
    if wait_s is not None:
        _state.wait_s = wait_s


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Within, in this thread: a call waits no longer for a server that is away, and not at all for one known to be."""
    _thread.seconds = seconds
    try:
        yield
    finally:
        del _thread.seconds


def give_up() -> None:
    """Let no call wait for the server before it answers again."""
    _state.in_vain = True


def given_up() -> bool:
    """Whether the server was waited for in vain."""
    return _state.in_vain


def once(create: Callable[[], Made], find: Callable[[], Sequence[Made]]) -> Made:
    """Make something on the server; where the answer is lost, `find` tells whether it is there, and waits for that."""
    try:
        return create()
    except MlflowException:
        if interrupts.requested():  # to stop: nothing more is begun
            raise
        for pause in (0.0, SECONDS_TO_SETTLE):  # a server that goes on may still be about to make it
            time.sleep(pause)
            if found := find():
                return found[0]
        return create()


def _send(method: str, url: str, _: int, *how: Any, **request: Any) -> requests.Response:
    """As the function of MLflow that it replaces, whose retries are not used: here they end after some time."""
    hurried = hasattr(_thread, "seconds")
    seconds = _seconds_to_wait()
    began, pauses = time.monotonic(), iter(PAUSES)
    until = began + seconds
    while True:
        response, error = None, None
        try:
            response = _attempt(method, url, *how, **request)
            if not _database_fails(response):
                _state.in_vain = _state.told = False
                return response
        except (*UNANSWERED, RetryError) as away:
            error = away
        if "timed out" in str(error).lower() and FILES in url and _timeout(True, request["timeout"]) < MOST_FOR_FILES:
            until = time.monotonic() + seconds  # the server is there, and slow
        creates = method == "POST" and url.endswith(CREATIONS)
        if creates or time.monotonic() >= until or (interrupts.requested() and not hurried):
            _state.in_vain |= not (creates or hurried)
            if response is None:
                assert error is not None
                raise error
            return response
        if not (hurried or _state.told) and time.monotonic() > began + SECONDS_TO_BRIDGE:
            _state.told = True
            server, reason = credentials.without(_server(url)), error or "its database fails"
            logger.warning("the tracking server %s is away (%s): waiting for it, at most %g s", server, reason, seconds)
        time.sleep(next(pauses, PAUSES[-1]))


def _seconds_to_wait() -> float:
    """How long a call of this thread, which is about to be sent, waits for a server that is away."""
    if hasattr(_thread, "seconds"):
        return float(_thread.seconds) if _state.answered > -math.inf else 0.0
    return 0.0 if _state.in_vain or interrupts.requested() else max(_state.wait_s, SECONDS_TO_BRIDGE)


def _attempt(method: str, url: str, *how: Any, **request: Any) -> requests.Response:
    """Send a call once, to a server that gives a sign of life; raises one of UNANSWERED, or RetryError for HTTP 5xx."""
    if time.monotonic() - _state.answered > SECONDS_FRESH:
        _look(url, request)
    if hasattr(request.get("data"), "seek"):
        request["data"].seek(0)
    of_files = FILES in url
    limits = {"timeout": _timeout(of_files, request["timeout"]), "respect_retry_after_header": False}
    try:
        response: requests.Response = _get_http_response_with_retries(  # type: ignore[no-untyped-call]
            method, url, 0, *how, **{**request, **limits}
        )
    except RetryError as error:
        _state.answered = time.monotonic()
        raise RetryError(getattr(error.args[0], "reason", error)) from error  # its own text begins with the address
    except UNANSWERED as error:
        _state.answered = -math.inf
        if "timed out" in str(error).lower():
            _look(url, request)
            _state.patience[of_files] = min(2 * _state.patience[of_files], MOST_FOR_FILES)
        raise
    _state.answered = time.monotonic()
    return response


def _timeout(of_files: bool, given: float) -> float:
    """Seconds for an answer; `given`: MLflow's own, which counts where a user has set it."""
    if of_files:
        usual = given if TIMEOUT_VARIABLE in os.environ else SECONDS_FOR_FILES
        return min(usual * _state.patience[True], MOST_FOR_FILES)
    seconds = min(given, SECONDS_FOR_VALUES * _state.patience[False], MOST_FOR_VALUES)
    stopping = interrupts.requested() and not hasattr(_thread, "seconds")
    return min(seconds, SECONDS_STOPPING) if stopping else seconds


def _look(url: str, request: dict[str, Any]) -> None:
    """Raise requests.ConnectionError where the server of a URL gives no sign of life."""
    how = {name: request[name] for name in ("verify", "cert") if name in request}
    try:
        answer = requests.get(f"{_server(url)}/health", timeout=SECONDS_TO_LOOK, **how)
        if answer.status_code >= 500:  # a proxy whose server is down
            answer.raise_for_status()
    except requests.RequestException as error:
        _state.answered = -math.inf
        raise requests.ConnectionError(f"{_server(url)} does not answer ({type(error).__name__})") from error


def _server(url: str) -> str:
    return url.partition("/api/")[0]


def _database_fails(response: requests.Response) -> bool:
    """Whether an MLflow server says that its database does: its error code BAD_REQUEST, with HTTP 400."""
    return response.status_code == 400 and '"BAD_REQUEST"' in response.text
