"""The accounts of a shared study: which trials count, which are repeated, and how often.

A repeated trial is a new one for Optuna, with the system attributes that its RetryHeartbeatStaleTrialCallback gives:
`failed_trial` (the first one's number) and `retry_history` (all forerunners' numbers).
"""

from collections.abc import Collection, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def counts(trials: Sequence[FrozenTrial], given_up: Collection[int]) -> dict[str, int]:
    """Trials by state, and all that count; a trial and its repetitions count once, by what the last has come to.

    Args:
        trials: All of the study's, in the order of their numbers.
        given_up: Numbers of the lost trials that are not repeated any more.
    """
    last = {trial.system_attrs.get("failed_trial", trial.number): trial for trial in trials}
    waiting = [trial.number for trial in to_repeat(trials, given_up)]
    names = ["waiting" if trial.number in waiting else STATES[trial.state] for trial in last.values()]
    return {name: names.count(name) for name in STATES.values()} | {"counted": len(names)}


def to_repeat(trials: Sequence[FrozenTrial], given_up: Collection[int]) -> list[FrozenTrial]:
    """The trials that failed without a fault of their own, and that are neither queued again nor given up yet."""
    repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and "failure" not in trial.user_attrs
        and trial.number not in repeated
        and trial.number not in given_up
    ]


def successor(trial: FrozenTrial, retries: int) -> FrozenTrial | None:
    """The same parameters as a new trial that waits; None where the trial has been lost more than `retries` times.

    A trial that a user stopped (user attribute `stopped`) is not charged for it. User attributes and what the
    pruner noted are not taken over: the new trial begins at its beginning.
    """
    attributes = trial.system_attrs
    history = [*attributes.get("retry_history", []), trial.number]
    stops = attributes.get("stops", 0) + ("stopped" in trial.user_attrs)
    if len(history) - stops > retries:
        return None
    marks = {"failed_trial": history[0], "retry_history": history, "stops": stops}
    proposed = {name: attributes[name] for name in ("fixed_params",) if name in attributes}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=proposed | marks,
    )
