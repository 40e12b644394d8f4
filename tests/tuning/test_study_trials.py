import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from mlproject.tuning.study_trials import counts, successor, to_repeat

RUNNING, WAITING, FAIL = TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL
COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED


def trial(number: int, state: TrialState, history: tuple[int, ...] = (), **user_attrs: str) -> FrozenTrial:
    marks = {"failed_trial": history[0], "retry_history": list(history)} if history else {}
    made = optuna.create_trial(
        state=state,
        value=0.5 if state == COMPLETE else None,
        params={"x": 0.25},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs=user_attrs,
        system_attrs=marks,
    )
    made.number = number
    return made


@pytest.mark.parametrize(
    ("trials", "given_up", "expected"),
    [
        ([], [], {"counted": 0}),
        ([trial(0, COMPLETE), trial(1, PRUNED), trial(2, RUNNING)], [], {"finished": 1, "pruned": 1, "running": 1}),
        ([trial(0, FAIL, failure="out of memory")], [], {"failed": 1}),
        ([trial(0, FAIL)], [], {"waiting": 1}),  # lost, and not queued again yet
        ([trial(0, FAIL)], [0], {"failed": 1}),
        ([trial(0, FAIL), trial(1, WAITING, (0,))], [], {"waiting": 1}),
        ([trial(0, FAIL), trial(1, COMPLETE), trial(2, COMPLETE, (0,))], [], {"finished": 2}),
        ([trial(0, FAIL), trial(1, FAIL, (0,)), trial(2, RUNNING, (0, 1))], [], {"running": 1}),
        ([trial(0, FAIL), trial(1, FAIL, (0,), failure="diverged")], [], {"failed": 1}),
        ([trial(0, FAIL, stopped="by SIGINT")], [], {"waiting": 1}),
    ],
)
def test_counts(trials: list[FrozenTrial], given_up: list[int], expected: dict[str, int]) -> None:
    names = ("finished", "pruned", "failed", "running", "waiting")
    assert counts(trials, given_up) == {**dict.fromkeys(names, 0), "counted": sum(expected.values()), **expected}


def test_to_repeat() -> None:
    trials = [trial(0, FAIL), trial(1, FAIL, failure="x"), trial(2, FAIL), trial(3, WAITING, (0,)), trial(4, RUNNING)]
    assert [lost.number for lost in to_repeat(trials, [])] == [2]
    assert to_repeat(trials, [2]) == []


def test_successor() -> None:
    first = trial(3, FAIL, run_id="a")
    second = successor(first, retries=1)
    assert second is not None
    assert (second.state, second.params, second.user_attrs) == (WAITING, {"x": 0.25}, {})
    assert (second.system_attrs["failed_trial"], second.system_attrs["retry_history"]) == (3, [3])
    second.number, second.state = 7, FAIL
    assert successor(second, retries=1) is None
    second.user_attrs = {"stopped": "by SIGINT"}
    third = successor(second, retries=1)
    assert third is not None
    assert third.system_attrs["retry_history"] == [3, 7]
    third.number, third.state = 9, FAIL
    assert successor(third, retries=1) is None
    assert successor(third, retries=2) is not None
