"""What waits on this disk for a server: what is said of it, and how it is delivered later."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from mlproject.errors import TrackingError
from mlproject.tracking import patience
from mlproject.tracking.delivery import deliver_first, in_a_line
from mlproject.tracking.run_on_server import RunOnServer
from mlproject.tracking.server import public_uri
from mlproject.tracking.spool import Spool, SpoolBusyError, refused, spools_in, waiting

UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
AT_ONCE = (1, 0.0)
"""As `enough` of deliver_first: nobody waits for minutes, and each attempt is several."""


@dataclass(frozen=True)
class Outcome:
    """What became of a spool.

    Attributes:
        run_id: whose it is.
        delivered: entries that the server has now.
        left: entries that still wait, as far as this user may count them.
        reason: why.
        at_work: another process is at work with the run, and delivers them.
    """

    run_id: str
    delivered: int
    left: int
    reason: str = ""
    at_work: bool = False


def deliver_spools(spools: Path, refused_too: bool = False) -> Iterator[Outcome]:
    """Deliver what waits below `work_dir/spool`, run by run; `refused_too`: what a server refused once, too."""
    for folder in spools_in(spools):
        before, at_work = 0, False
        try:
            before = waiting(folder)
            if not before:
                continue
            with patience.at_most(patience.SECONDS_TO_BRIDGE):
                reason = _deliver(Spool(folder, server=""), refused_too)
        except TrackingError as error:  # about this one alone: the others are delivered
            at_work, reason = isinstance(error, SpoolBusyError), str(error)
        left = waiting(folder) if before else 0
        yield Outcome(folder.name, before - left, left, reason, at_work)


def _deliver(spool: Spool, refused_too: bool) -> str:
    """Deliver a spool, and close it; says why something is left."""
    run_id = spool.folder.name
    try:
        mlflow.MlflowClient().get_run(run_id)
        if refused_too:
            spool.try_again()
        on_server, reason = RunOnServer(run_id), ""
        while len(spool) and not reason:
            reason = deliver_first(spool, on_server.take, enough=AT_ONCE)
        return reason or ("refused by the server" if spool.aside else "")
    except MlflowException as error:
        if error.error_code == UNKNOWN:
            return f"{public_uri()} does not know this run: set MLFLOW_TRACKING_URI to {spool.server or 'its server'}"
        return in_a_line(error)
    finally:
        spool.close()


def not_delivered(folder: Path, reason: str) -> str:
    """What to say of a spool whose run has ended; "" where nothing waits in it."""
    left = waiting(folder)
    if not left:
        return ""
    is_refused = refused(folder) == left  # which `sync` alone tries again
    why = reason or ("refused by the server" if is_refused else "the server was too slow")
    others = "" if is_refused else ", as does the next run on this work_dir"
    return (
        f"{left} entries that run {folder.name} has logged wait in {folder} ({why}). "
        f"`python src/run.py sync --work_dir {folder.parents[1]}` delivers them{others}"
    )
