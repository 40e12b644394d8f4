import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from study_worker import IDENTITY, TRIALS, settings

from mlproject.errors import Interrupted, SettingsError, TrackingError
from mlproject.tuning.study import CLAIM_LOCK, DATABASE_VARIABLE, NINTHS, SharedStudy, StudySettings, storage_url
from mlproject.tuning.study_storage import exclusive

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind."""
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path}/s.db"


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's.db'}"


def opened(
    url: str, name: str = "study", run_id: str = "run", lost: list[int] | None = None, **given: Any
) -> SharedStudy:
    identity, found = given.pop("identity", IDENTITY), [] if lost is None else lost
    return SharedStudy.open(
        settings(name, **given), url, identity, lambda: run_id, lambda trial, _: found.append(trial.number)
    )


def never() -> bool:
    return False


def x(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def states(study: SharedStudy) -> list[TrialState]:
    return [trial.state for trial in study.optuna.trials]


class Worker:
    """study_worker.py as a process."""

    def __init__(self, folder: Path, url: str, name: str, run_id: str, manner: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("study_worker.py")), str(folder), url, name, run_id]
        self.process = subprocess.Popen([*command, manner], env={**os.environ, "PYTHONPATH": str(SOURCE)})
        self.folder, self.run_id = folder, run_id

    def wait_until_begun(self) -> int:
        """The number of the first trial that it has begun."""
        while self.process.poll() is None:
            for file in self.folder.glob("begun-*"):
                if file.read_text() == self.run_id:
                    return int(file.name.removeprefix("begun-"))
            time.sleep(0.02)
        raise AssertionError("the worker ended before it began a trial")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


StartWorker = Callable[..., Worker]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker: url, name of the study, run id, and how it behaves; none outlives the test."""
    workers: list[Worker] = []

    def start(url: str, name: str, run_id: str, manner: str = "") -> Worker:
        workers.append(Worker(tmp_path, url, name, run_id, manner))
        return workers[-1]

    yield start
    for started in workers:
        started.kill()


def test_two_workers_reach_the_total_exactly_and_one_does_the_finale(
    url: str, tmp_path: Path, worker: StartWorker
) -> None:
    workers = [worker(url, "race", name, "race") for name in ("a", "b")]
    assert [started.process.wait() for started in workers] == [0, 0]
    study = opened(url, "race", run_id="c")
    assert study.counts() == {
        "finished": TRIALS,
        "pruned": 0,
        "failed": 0,
        "running": 0,
        "waiting": 0,
        "counted": TRIALS,
    }
    assert len(study.optuna.trials) == TRIALS
    assert study.parent in ("a", "b")
    assert len(list(tmp_path.glob("finale-*"))) == 1


def test_one_worker_at_a_time_claims_a_trial(url: str) -> None:
    study = opened(url, "claims", trials=1)
    thread = threading.Thread(target=study.run, args=(x, never))
    with exclusive(url, CLAIM_LOCK):
        thread.start()
        thread.join(0.5)
        assert study.counts()["counted"] == 0
    thread.join()
    assert study.counts()["finished"] == 1


def test_a_killed_worker_s_trial_is_repeated_by_another(postgres_url: str, tmp_path: Path, worker: StartWorker) -> None:
    url = postgres_url
    killed = worker(url, "killed", "a", "hang")
    number = killed.wait_until_begun()
    other = worker(url, "killed", "b")
    other.wait_until_begun()
    killed.kill()
    assert other.process.wait() == 0

    study = opened(url, "killed", run_id="c")
    first, again = study.optuna.trials[number], study.optuna.trials[-1]
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == first.params
    assert again.system_attrs["retry_history"] == [number]
    assert (study.parent, study.created) == ("a", False)
    assert study.counts()["finished"] == study.counts()["counted"] == TRIALS
    assert len(study.optuna.trials) == TRIALS + 1
    (line,) = (tmp_path / "lost").read_text().splitlines()
    assert line.startswith(f"{number} its worker ")


def test_when_all_are_killed_the_same_command_goes_on_with_the_study(sqlite: str, worker: StartWorker) -> None:
    killed = worker(sqlite, "study", "a", "hang")
    killed.wait_until_begun()
    killed.kill()
    lost: list[int] = []
    study = opened(sqlite, run_id="b", lost=lost)
    study.run(x, never)
    assert (study.parent, study.created) == ("a", False)
    assert lost == [0]
    assert study.counts()["finished"] == study.counts()["counted"] == TRIALS


def test_a_finale_whose_process_dies_is_done_by_the_next(url: str, worker: StartWorker) -> None:
    assert worker(url, "dies", "a", "die").process.wait() == -signal.SIGKILL
    with opened(url, "dies").finale() as mine:
        assert mine


def test_the_others_wait_for_the_finale(url: str) -> None:
    one, other = opened(url, "finale"), opened(url, "finale")
    order: list[str] = []

    def wait() -> None:
        with other.finale() as mine:
            order.append(f"other {mine}")

    thread = threading.Thread(target=wait)
    with one.finale() as mine:
        thread.start()
        thread.join(0.5)
        order.append(f"one {mine}")
    thread.join()
    assert order == ["one True", "other False"]


def test_a_finale_is_repeated_after_an_error_and_for_a_higher_total(sqlite: str) -> None:
    study = opened(sqlite, trials=2)
    with pytest.raises(ZeroDivisionError), study.finale():
        raise ZeroDivisionError
    for trials, due in [(2, True), (2, False), (1, False), (3, True), (3, False)]:
        with opened(sqlite, trials=trials).finale() as mine:
            assert mine == due


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"space": {"x": [0.0, 2.0]}, "data": "digest"}, r"space.x \(then \[0.0, 1.0\], now \[0.0, 2.0\]\)"),
        ({"space": {"x": [0.0, 1.0]}, "data": "new"}, r'data \(then "digest", now "new"\)'),
        ({**IDENTITY, "settings": {"a": {"b": 1}}}, r'settings.a.b \(then "absent", now 1\)'),
        ({"data": "digest"}, r'space.x \(then \[0.0, 1.0\], now "absent"\)'),
    ],
)
def test_a_study_with_another_identity_is_refused(sqlite: str, changed: dict[str, Any], shown: str) -> None:
    opened(sqlite)
    with pytest.raises(SettingsError, match=f"{shown}.*search.study another name"):
        opened(sqlite, identity=changed)
    assert not opened(sqlite).created
    assert opened(sqlite, "another name", identity=changed).created


def test_what_workers_must_share_is_part_of_the_identity(sqlite: str) -> None:
    opened(sqlite)
    with pytest.raises(SettingsError, match=r'search.pruner \(then "hyperband", now "median"\)'):
        opened(sqlite, pruner="median")
    assert not opened(sqlite, trials=50, retries=0).created


def test_a_study_that_others_made_is_refused(sqlite: str) -> None:
    optuna.create_study(storage=sqlite, study_name="study").optimize(x, n_trials=1)
    with pytest.raises(SettingsError, match="'study' in this database was not made by this program"):
        opened(sqlite)


@pytest.mark.parametrize("error", [Interrupted("stopped by SIGINT", 2), KeyboardInterrupt(), TrackingError("gone")])
def test_a_trial_that_was_stopped_is_repeated_without_charge(sqlite: str, error: BaseException) -> None:
    study = opened(sqlite, trials=2, retries=0)

    def stopped(trial: optuna.Trial) -> float:
        x(trial)
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            study.run(stopped, never)
        assert study.counts()["waiting"] == study.counts()["counted"] == 1
    lost: list[int] = []
    other = opened(sqlite, trials=2, retries=0, lost=lost)
    other.run(x, never)
    trials = other.optuna.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].params == trials[1].params == trials[2].params != trials[3].params
    assert "failure" not in trials[0].user_attrs
    assert other.counts()["finished"] == other.counts()["counted"] == 2
    assert lost == [1]  # for what it may have left open


def test_a_failed_trial_has_its_reason_and_the_study_goes_on(sqlite: str) -> None:
    study = opened(sqlite, trials=4)
    ends: Sequence[Callable[[], float]] = (lambda: 1 / 0, lambda: float("nan"), lambda: 0.5, lambda: [][0])
    study.run(lambda trial: ends[trial.number](), never)
    assert study.counts() == {"finished": 1, "pruned": 0, "failed": 3, "running": 0, "waiting": 0, "counted": 4}
    reasons = [trial.user_attrs.get("failure") for trial in study.optuna.trials]
    assert reasons == [
        "ZeroDivisionError: division by zero",
        "the trial's value is nan",
        None,
        "IndexError: list index out of range",
    ]


def dead_worker(study: SharedStudy) -> None:
    """What a worker leaves that is killed while it claims a trial: Optuna's claim alone, without a heartbeat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna misses the heartbeat, too
        study.optuna.ask()


@pytest.mark.parametrize("retries", [0, 1])
def test_a_trial_whose_worker_dies_is_repeated_or_given_up(sqlite: str, retries: int) -> None:
    lost: list[int] = []
    study = opened(sqlite, trials=1, retries=retries, lost=lost)
    dead_worker(study)
    study.run(x, never)
    study.run(x, never)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE][: retries + 1]
    assert lost == [0]
    assert study.counts()["counted"] == 1


def test_a_lost_trial_stays_known_until_its_end_is_reported(sqlite: str) -> None:
    def unreachable(trial: FrozenTrial, reason: str) -> None:
        raise TrackingError("no server")

    study = SharedStudy.open(settings("study", trials=1), sqlite, IDENTITY, lambda: "run", unreachable)
    dead_worker(study)
    with pytest.raises(TrackingError, match="no server"):
        study.run(x, never)
    assert study.counts()["waiting"] == 1
    lost: list[int] = []
    opened(sqlite, trials=1, lost=lost).run(x, never)
    assert lost == [0]


@pytest.mark.parametrize("reports", [True, False])
def test_a_worker_whose_trial_was_given_away_goes_on(sqlite: str, reports: bool) -> None:
    """As after a suspension: others have failed the trial meanwhile, and repeat it."""
    study, other = opened(sqlite, trials=2), opened(sqlite, trials=2)

    def slow(trial: optuna.Trial) -> float:
        if trial.number == 0:
            other.optuna.tell(trial.number, state=TrialState.FAIL)
            if reports:
                trial.report(0.5, 1)
        return x(trial) if trial.number else 0.5

    study.run(slow, never)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.counts()["finished"] == study.counts()["counted"] == 2


def test_stop_ends_between_trials(sqlite: str) -> None:
    study = opened(sqlite)
    study.run(x, lambda: len(study.optuna.trials) >= 2)
    assert study.counts()["counted"] == 2


def test_a_higher_total_goes_on(sqlite: str) -> None:
    opened(sqlite, trials=2).run(x, never)
    study = opened(sqlite, trials=3)
    study.run(x, never)
    assert study.counts()["finished"] == 3


def test_workers_propose_differently_and_one_worker_reproducibly(tmp_path: Path) -> None:
    first = [opened(f"sqlite:///{tmp_path}/{file}", trials=2, pruner="none") for file in ("a.db", "b.db")]
    for study in first:
        study.run(x, never)
    assert [trial.params for trial in first[0].optuna.trials] == [trial.params for trial in first[1].optuna.trials]
    joined = opened(f"sqlite:///{tmp_path}/b.db", trials=4, pruner="none")
    joined.run(x, never)
    values = [trial.params["x"] for trial in joined.optuna.trials]
    assert len(set(values)) == 4


@pytest.mark.parametrize(("pruner", "decisions"), [("hyperband", {11, 33}), ("median", {22}), ("none", set())])
def test_prunes_what_lags_behind_and_nothing_near_its_end(sqlite: str, pruner: str, decisions: set[int]) -> None:
    study = opened(sqlite, trials=20, pruner=pruner, startup_trials=2)

    def worse_and_worse(trial: optuna.Trial) -> float:
        for percent in NINTHS[1:]:
            trial.report(-trial.number, percent)
            if percent < 100 and trial.should_prune():
                raise optuna.TrialPruned
        return -trial.number

    study.run(worse_and_worse, never)
    ends = [trial.last_step for trial in study.optuna.trials if trial.state == TrialState.PRUNED]
    assert study.counts()["pruned"] == len(ends)
    assert study.counts()["counted"] == 20
    assert set(ends) == decisions
    assert len(ends) < 20


@pytest.mark.parametrize(
    ("storage", "secret", "chosen"),
    [
        ("", "", "sqlite:///{folder}/study.db"),
        ("sqlite:////data/s.db", "", "sqlite:////data/s.db"),
        ("sqlite:///~/s.db", "", f"sqlite:///{Path.home()}/s.db"),
        ("", "postgresql://me:p%40ss@host/db", "postgresql+psycopg://me:p%40ss@host/db"),
        ("postgresql://me@host/db", "", "postgresql+psycopg://me@host/db"),
        ("postgresql://me@host/db", "postgresql+psycopg2://me:pw@host/db", "postgresql+psycopg://me:pw@host/db"),
    ],
)
def test_storage_url(storage: str, secret: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, secret)
    assert storage_url(StudySettings(storage=storage), tmp_path) == chosen.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("storage", "secret", "message"),
    [
        ("postgresql://me:pass@host/db", "", "search.storage holds a .*password.* in a URL, and MLflow"),
        ("postgresql://me@host/db?password=pass", "", "search.storage holds a .*password.* in a URL, and MLflow"),
        ("", "me:pass@host", f"{DATABASE_VARIABLE} is no database URL"),
        ("", "postgresql://me:pass@host:port/db", f"{DATABASE_VARIABLE} is no database URL"),
        ("", "mysql://me:pass@host/db", f"{DATABASE_VARIABLE} begins with mysql"),
        ("", "postgres://me:pass@host/db", f"{DATABASE_VARIABLE} begins with postgres:"),
        ("sqlite://", "", "search.storage names no file"),
        ("postgresql://me@host/db", "postgresql://me:pass@host/other", "is postgresql://me@host/db, but STROKE"),
        ("sqlite:///a.db", "postgresql://me:pass@host/other", "take one of the two away"),
    ],
)
def test_storage_refused(
    storage: str, secret: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, secret)
    with pytest.raises(SettingsError, match=message) as raised:
        storage_url(StudySettings(storage=storage), tmp_path)
    assert "pass@" not in str(raised.value)
    assert "=pass" not in str(raised.value)


@pytest.mark.parametrize("name", ["trials", "parallel", "startup_trials", "seed", "heartbeat_seconds", "retries"])
def test_settings_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"search.{name} must be at least [01], got -1"):
        StudySettings(**{name: -1})
    with pytest.raises(SettingsError, match=r"search\.study is empty"):
        StudySettings(study=" ")


def test_a_database_that_is_away_or_refuses_is_one_line(postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url, reason in [
        (postgres_url.replace("of%20the%20tests", "wr0ng"), "password authentication failed"),
        (f"{postgres_url.removesuffix('/postgres')}/nowhere", 'database "nowhere" does not exist'),
        ("postgresql://me:wr0ng@127.0.0.1:1/db", "Connection refused"),
        (f"sqlite:///{tmp_path}", "unable to open database file"),
        (f"sqlite:///{tmp_path}/file/s.db", "needs a lock file beside it"),
    ]:
        with pytest.raises(TrackingError, match=reason) as raised:
            opened(url)
        assert "\n" not in str(raised.value)
        assert "wr0ng" not in str(raised.value)
        assert "of the tests" not in str(raised.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match="needs the Python package psycopg"):
        opened("postgresql://me@127.0.0.1:1/db")
