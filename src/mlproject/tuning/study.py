"""One Optuna study that any number of processes on any number of machines work through together."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from mlproject import credentials
from mlproject.errors import SettingsError
from mlproject.tuning import study_trials
from mlproject.tuning.space import Dimension
from mlproject.tuning.study_attempt import Attempt, Failed
from mlproject.tuning.study_identity import create_or_join
from mlproject.tuning.study_storage import (
    DATABASE_VARIABLE,
    choose_url,
    database_errors,
    exclusive,
    open_storage,
    parse,
)

__all__ = ["CLAIM_LOCK", "DATABASE_VARIABLE", "NINTHS", "SharedStudy", "StudySettings", "storage_url"]

NINTHS = tuple(round(100 * ninth / 9) for ninth in range(10))
"""Percent of its training after which a trial reports. The same in all: the median pruner compares equal steps only."""
POLL_SECONDS = 1.0
CLAIM_LOCK = "claim of a trial"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySettings:
    """The study that all workers share.

    Attributes:
        trials: the study's total over all machines, not each worker's share.
        space: the settings that a trial varies.
        parallel: trials at once on this machine, each with training.devices GPUs of its own.
        study: the study's name; the same name in the same database is the same study.
        storage: SQLAlchemy URL of the database, without a password; the SQLite file study.db in work_dir if empty. The
            environment variable STROKE_LESION_STUDY_DATABASE overrides it and may hold a password.
        pruner: what stops a trial that lags behind; hyperband decides after a ninth and a third of a training
            (several brackets, Li et al. 2018), median from two ninths on.
        startup_trials: random trials before TPE proposes; the median pruner stops none before that many are finished.
        seed: of the proposals.
        heartbeat_seconds: a trial whose worker is silent for twice as long is given to another.
        retries: how often that may happen to one trial.
    """

    trials: int = 40
    space: tuple[Dimension, ...] = ()
    parallel: int = 1
    study: str = "loss-and-crf"
    storage: str = ""
    pruner: Literal["hyperband", "median", "none"] = "hyperband"
    startup_trials: int = 8
    seed: int = 0
    heartbeat_seconds: int = 60
    retries: int = 2

    def __post_init__(self) -> None:
        at_least = {"trials": 1, "parallel": 1, "startup_trials": 1, "seed": 0, "heartbeat_seconds": 1, "retries": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise SettingsError(f"search.{name} must be at least {least}, got {getattr(self, name)}")
        if not self.study.strip():
            raise SettingsError("search.study is empty: give the study a name")
        if self.storage:
            credentials.refuse("search.storage", self.storage)
            parse(self.storage, "search.storage")


def storage_url(settings: StudySettings, folder: Path) -> str:
    """Where the study is kept; the URL may hold a password, so print `study_storage.public_url` of it only.

    Raises:
        SettingsError: The environment variable or search.storage is no usable URL, or they contradict each other.
    """
    return choose_url(settings.storage, folder)


class SharedStudy:
    """A study in a database, open in this process.

    A trial that is repeated (its worker died or was stopped) is a new trial for Optuna, which lists its forerunners;
    here they count as one.

    Attributes:
        optuna: Optuna's study; it maximises.
        parent: the run id that was given when the study was created.
        created: whether this process created it.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        settings: StudySettings,
        url: str,
        created: bool,
        on_lost: Callable[[FrozenTrial, str], None],
    ) -> None:
        self.optuna = study
        self.parent: str = study.user_attrs["parent"]
        self.created = created
        self._storage, self._settings, self._url, self._on_lost = storage, settings, url, on_lost

    @classmethod
    def open(
        cls,
        settings: StudySettings,
        url: str,
        identity: Mapping[str, Any],
        new_run: Callable[[], str],
        on_lost: Callable[[FrozenTrial, str], None],
    ) -> Self:
        """Create the study, or join the one of that name.

        Args:
            settings: The study's; `trials` may differ from what it was created with.
            url: From `storage_url`.
            identity: Nested plain values of all that a trial's value depends on: {"space": {...}, "data": digest, ...}.
            new_run: Called where the study is new; returns the run id that is kept as the study's `parent`.
            on_lost: Called with a trial and the reason when its worker is found to be gone or was stopped, before the
                trial is queued again; by one process, and a second time only where that one died or failed in the call.

        Raises:
            SettingsError: A study of that name has another identity; the text shows each difference.
            TrackingError: The database does not answer or refuses.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", ExperimentalWarning)
        # These must be the same for all workers too, or one would give up on the others' trials.
        own = {"pruner": settings.pruner, "heartbeat_seconds": settings.heartbeat_seconds}
        with database_errors(url), exclusive(url, CLAIM_LOCK):
            storage = open_storage(url, settings.heartbeat_seconds)
            study = optuna.create_study(
                storage=storage, study_name=settings.study, direction="maximize", load_if_exists=True
            )
            created = create_or_join(study, {**identity, "search": own}, new_run)
            workers_before = study.user_attrs.get("workers", 0)
            study.set_user_attr("workers", workers_before + 1)
            shared = cls(study, storage, settings, url, created, on_lost)
        study.pruner, brackets = _pruner(settings)
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(1, settings.startup_trials // brackets),  # every bracket has a TPE of its own
            multivariate=True,
            constant_liar=True,
            seed=settings.seed + workers_before,  # else two workers would propose the same random trials
        )
        return shared

    def run(self, objective: Callable[[optuna.Trial], float], stop: Callable[[], bool]) -> None:
        """Work through trials until the study has its total and none is running or waiting anywhere.

        While others still run theirs, it waits and takes over those whose worker is gone. It returns early when
        `stop()` is true between two trials. What the objective raises:

        - optuna.TrialPruned: the trial is pruned.
        - KeyboardInterrupt, which Interrupted is, TrackingError or an error of the study's database (none is the
          trial's fault): the trial is failed with the reason as its user attribute `stopped`, and repeated by whoever
          looks for work next, without charge to `retries`; the exception goes on to the caller.
        - Any other Exception, and a value that is not finite: the trial is failed with the reason as its user
          attribute `failure`, and the study goes on.

        Raises:
            TrackingError: The database does not answer or refuses.
        """
        while not stop():
            with database_errors(self._url), ExitStack() as claim:
                claim.enter_context(exclusive(self._url, CLAIM_LOCK))
                self._take_over_lost()
                counts = self.counts()
                if counts["waiting"] or counts["counted"] < self._settings.trials:
                    self._work(objective, claim)
                    continue
            if not counts["running"]:
                return
            time.sleep(POLL_SECONDS)

    def counts(self) -> dict[str, int]:
        """Trials that are finished, pruned, failed, running, waiting; their sum `counted`. Repeated ones count once."""
        with database_errors(self._url):
            return study_trials.counts(self.optuna.get_trials(deepcopy=False), self._given_up())

    @contextmanager
    def finale(self) -> Iterator[bool]:
        """Around the work that is done once, when the study has its total: True in the one process that shall do it.

        The others wait until it is done. Where the process dies, or an exception leaves the block, the next one gets
        True; so does one that asks for more trials than it was done for.
        """
        with ExitStack() as lock:
            with database_errors(self._url):
                lock.enter_context(exclusive(self._url, f"finale of {self._settings.study}"))
                due = self.optuna.user_attrs.get("done_for", 0) < self._settings.trials
            if not due:
                lock.close()
            yield due
            if due:
                with database_errors(self._url):
                    self.optuna.set_user_attr("done_for", self._settings.trials)

    def _work(self, objective: Callable[[optuna.Trial], float], claim: ExitStack) -> None:
        """One trial, from the claim to its end; `claim` holds the lock, which is freed as soon as the trial stands."""

        def stand(trial: optuna.Trial) -> None:
            self._storage.record_heartbeat(trial._trial_id)  # now: a trial without one would never be found lost
            trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
            claim.close()

        attempt = Attempt(objective, stand)
        try:
            self.optuna.optimize(attempt, n_trials=1, catch=(Failed,))
        except Exception:
            if attempt.left_by is not None:
                raise attempt.left_by from None
            failed = self.optuna.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if attempt.number not in [trial.number for trial in failed]:
                raise
            # Optuna could not store the result: others have failed the trial while this process was suspended.
            logger.warning("trial %s was given to another worker: this one was silent too long", attempt.number)

    def _take_over_lost(self) -> None:
        """Fail the trials whose worker is gone, and queue them again. The lock must be held: one process does it."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "worker" not in trial.user_attrs:  # it died while it held the lock, before its first heartbeat
                self.optuna.tell(trial.number, state=TrialState.FAIL)
        optuna.storages.fail_stale_trials(self.optuna)
        for trial in study_trials.to_repeat(self.optuna.get_trials(deepcopy=False), self._given_up()):
            reason = trial.user_attrs.get("stopped")
            if reason is None:
                worker = trial.user_attrs.get("worker", "of unknown name")
                reason = f"its worker {worker} was silent for more than {2 * self._settings.heartbeat_seconds} seconds"
                logger.warning("trial %d is taken over: %s", trial.number, reason)
            self._on_lost(trial, reason)
            again = study_trials.successor(trial, self._settings.retries)
            if again is None:
                self.optuna.set_user_attr("given_up", [*self._given_up(), trial.number])
            else:
                self.optuna.add_trial(again)

    def _given_up(self) -> list[int]:
        return list(self.optuna.user_attrs.get("given_up", []))


def _pruner(settings: StudySettings) -> tuple[optuna.pruners.BasePruner, int]:
    """The pruner, and among how many brackets it deals the trials, which report at NINTHS."""
    if settings.pruner == "none":
        return optuna.pruners.NopPruner(), 1
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(settings.startup_trials, n_warmup_steps=NINTHS[2]), 1
    # It decides at the first and the third ninth; the brackets leave out none, the first, or both.
    return optuna.pruners.HyperbandPruner(NINTHS[1], NINTHS[9], 3), 3
