"""`sync`: deliver what runs have logged while the server was gone."""

from pathlib import Path
from typing import Any

from mlproject.errors import UndeliveredError
from mlproject.stages.console import complain, console, facts, heading
from mlproject.stages.settings import SyncSettings
from mlproject.tracking.server import connect, public_uri
from mlproject.tracking.waiting import Outcome, deliver_spools


def run(settings: SyncSettings) -> dict[str, Any]:
    """The entry point `sync`. Raises UndeliveredError where something is left, other than of a run at work."""
    heading("sync: deliver what waits for the server")
    facts({"from": str(settings.spool_path), "tracking": public_uri()})
    connect()
    outcomes = []
    for outcome in deliver_spools(settings.spool_path, refused_too=True):
        outcomes.append(outcome)
        console.print(_in_words(outcome))
    if not outcomes:
        console.print("nothing waits")
    result = {
        "delivered": {outcome.run_id: outcome.delivered for outcome in outcomes},
        "left": {outcome.run_id: outcome.left for outcome in outcomes if outcome.left},
    }
    left = [outcome for outcome in outcomes if outcome.reason and not outcome.at_work]
    if left:
        entries = sum(outcome.left for outcome in left) or "uncounted"
        raise UndeliveredError(
            f"{entries} entries of {len(left)} runs still wait in {settings.spool_path}, the first because of this: "
            f"{left[0].reason}"
        )
    return result


def deliver_what_waits(spools: Path) -> None:
    """Deliver what earlier runs on this work_dir have left, before another one begins; say what is left still."""
    for outcome in deliver_spools(spools):
        if outcome.delivered:
            console.print(_in_words(outcome))
        elif not outcome.at_work:
            complain("warning", _in_words(outcome))


def _in_words(outcome: Outcome) -> str:
    left = f", {outcome.left or 'perhaps some'} wait: {outcome.reason}" if outcome.reason else ""
    return f"run {outcome.run_id}: {outcome.delivered} entries delivered{left}"
