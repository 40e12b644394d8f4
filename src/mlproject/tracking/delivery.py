"""Bringing what a run has logged to its server, beside the work: in order, and for as long as it takes."""

import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests
from mlflow.exceptions import MlflowException

from mlproject import credentials
from mlproject.data.case_names import for_others
from mlproject.errors import UserError
from mlproject.tracking import patience
from mlproject.tracking.server import public_uri
from mlproject.tracking.spool import ASIDE, REASON, Entry, Spool, write_entry

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0  # seconds between two attempts
SECONDS_TO_END, SECONDS_UNTOLD = 2.0, 3.0
OFTEN = (5, 100.0)
"""Failures of an entry, and seconds from the first to the last, after which a server that takes others is tried no
more; shorter than the usual tracking.wait_s, so that it comes before a command's end."""
NOT_ABOUT_THE_ENTRY = {401, 403, 407, 408, 425, 429}
"""Of the refusals (HTTP 4xx), those that anything sent now would get."""
NEVER_ABOUT_THE_ENTRY = {"BAD_REQUEST", "TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR"}
"""MLflow's error codes for a database that fails; BAD_REQUEST is HTTP 400."""
MLFLOW_BEGINS = re.compile(r"^API request to \S+ failed with exception ")


class Outage:
    """Whether the server takes anything; all deliveries of a process share it, so that it is told once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reason = ""

    def begin(self, reason: str) -> None:
        """The server did not take something."""
        with self._lock:
            if not self.reason:
                logger.warning(
                    "the tracking server %s takes nothing (%s): the work goes on, what is logged waits on this disk",
                    public_uri(),
                    reason,
                )
            self.reason = reason

    def end(self) -> None:
        """The server has taken something."""
        with self._lock:
            if self.reason:
                logger.warning("the tracking server %s is back: what waited is on its way", public_uri())
            self.reason = ""


OUTAGE = Outage()


class Delivery:
    """A thread that delivers the entries of a spool until it is told to finish."""

    def __init__(self, spool: Spool, deliver: Callable[[Entry], None]) -> None:
        self.spool = spool
        self._deliver = deliver
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"deliver-{spool.folder.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with patience.at_most(patience.SECONDS_TO_BRIDGE):
            self._deliver_all()

    def _deliver_all(self) -> None:
        pause = FIRST_PAUSE
        while not self._ends.is_set():
            before = len(self.spool)
            try:
                reason = deliver_first(self.spool, self._deliver, seconds=1.0)
            except OSError as error:  # of this disk
                reason = in_a_line(error)
            if reason:
                OUTAGE.begin(reason)
                self._ends.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            elif before:
                OUTAGE.end()
                pause = FIRST_PAUSE

    def wait(self, seconds: float, in_all: bool = False) -> int:
        """Wait until all is delivered; returns how many entries are left in the spool.

        Args:
            seconds: to wait while not a single entry is delivered.
            in_all: to wait altogether.
        """
        left, began = len(self.spool), time.monotonic()
        until, told = began + seconds, False
        while left and time.monotonic() < until:
            if not told and time.monotonic() > began + SECONDS_UNTOLD:
                told = True
                logger.info("run %s: %d entries are on their way to the server", self.spool.folder.name, left)
            self.spool.wait(min(1.0, max(0.0, until - time.monotonic())))
            if len(self.spool) < left and not in_all:
                until = time.monotonic() + seconds
            left = len(self.spool)
        if left:
            patience.give_up()
        return left

    def finish(self, seconds: float, in_all: bool = False) -> int:
        """The same, and end."""
        self.wait(seconds, in_all)
        self._ends.set()
        self._thread.join(SECONDS_TO_END)
        left = len(self.spool)
        if not self._thread.is_alive():  # else it has an entry in hand, and the lock ends with the process
            self.spool.close()
        return left


def deliver_first(
    spool: Spool, deliver: Callable[[Entry], None], seconds: float = 0, enough: tuple[int, float] = OFTEN
) -> str:
    """Deliver the first entry of a spool, waiting so long for one; why the server takes nothing now, "" if it does.

    An entry that the server refuses for good is set aside, and said, here and in the run; so is one that has failed
    often `enough`, as OFTEN, where the server takes others. Once it is delivered after all, the run says that.
    """
    entry = None
    try:
        entry = spool.first(seconds)
        if entry is None:
            return ""
        deliver(entry)
    except Exception as error:
        reason = in_a_line(error)
        if _may_pass(error) and not (entry and _is_of_the_entry(error, entry, spool, deliver, enough)):
            return reason
        try:
            place, run = spool.set_aside(reason), spool.folder.name
        except OSError as full:
            return f"the server refuses an entry ({reason}), which cannot be set aside ({full.strerror})"
        logger.error("run %s: the server refuses an entry, which is kept in %s: %s", run, place, reason)
        _say(place.name, f"not taken by the server: {place.name} ({reason})", deliver)
        return ""
    if (entry.folder / REASON).exists():
        _say(entry.folder.name, f"delivered later: {entry.folder.name}", deliver)
    spool.remove()
    return ""


def _is_of_the_entry(
    error: Exception, entry: Entry, spool: Spool, deliver: Callable[[Entry], None], enough: tuple[int, float]
) -> bool:
    """Whether the entry is the trouble after all: it has failed often `enough`, and fails between others that do not.

    These others are what `_say` leaves in the run: a tag, for the server's database, and a file for its bucket.
    """
    attempts, over = spool.failed()
    slow = "timed out" in str(error).lower()
    of_this_disk = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    if attempts < enough[0] or over < enough[1] or slow or of_this_disk:
        return False
    with suppress(OSError):
        (entry.folder / REASON).write_text(f"{in_a_line(error)}\n")

    def others_are_taken() -> bool:
        return _say(entry.folder.name, f"tried once more: {entry.folder.name} ({in_a_line(error)})", deliver)

    if not others_are_taken():
        return False
    try:
        deliver(entry)
    except Exception:  # of MLflow and what it uses
        return others_are_taken()
    return False  # the trouble is over: it is sent once more, which does no harm


def _say(name: str, text: str, deliver: Callable[[Entry], None]) -> bool:
    """Tell the run's readers what has become of an entry; False where the server does not take that.

    The tag comes first, and is one that the UI hides: where the bucket is away, readers shall see nothing.
    """
    said = for_others(text)

    def note(folder: Path) -> None:
        (folder / f"{name}.txt").write_text(f"{said}\n")

    with tempfile.TemporaryDirectory() as tags, tempfile.TemporaryDirectory() as files:
        try:
            deliver(write_entry(Path(tags), "tags", {"tags": {f"mlflow.{ASIDE}": said}}, None))
            deliver(write_entry(Path(files), "artifacts", {"to": ASIDE}, note))
        except Exception:  # of MLflow and what it uses; a run that is deleted takes neither
            return False
    return True


def in_a_line(error: BaseException) -> str:
    """What an exception says, on one line and without secrets."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return credentials.without(MLFLOW_BEGINS.sub("", line))[:300]


def _may_pass(error: Exception) -> bool:
    """Whether an entry can be delivered later as it is: the server, not the entry, is the trouble."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return error.error_code in NEVER_ABOUT_THE_ENTRY or status >= 500 or status in NOT_ABOUT_THE_ENTRY
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status >= 500 or status in NOT_ABOUT_THE_ENTRY
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):  # the network's, or a full disk here
        return True
    raised_by = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(raised_by & {"urllib3", "botocore", "boto3", "s3transfer", "sqlalchemy"})
