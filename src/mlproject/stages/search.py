"""`search`: train again and again with other settings, and keep the best; one study for all machines that join it."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from mlproject import config, interrupts
from mlproject.data.dataset import DataSet
from mlproject.errors import Interrupted, SettingsError
from mlproject.stages import train
from mlproject.stages.annotation import annotate
from mlproject.stages.console import clock, console, heading
from mlproject.stages.plan import show_plan, show_run
from mlproject.stages.search_finale import again, conclude
from mlproject.stages.search_helpers import gpu_groups, helpers
from mlproject.stages.search_trial import TRIAL_TAG, WORKER_TAG, attempt, refuse_space
from mlproject.stages.settings import SearchSettings
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import runs
from mlproject.tracking.run import Run
from mlproject.tracking.server import connect
from mlproject.tuning.study import SharedStudy, storage_url


def run(settings: SearchSettings) -> dict[str, Any]:
    """The entry point `search`: begin a study, or join the one of that name; whoever is last does the finale."""
    settings = _for_this_machine(settings.resolved())
    url = storage_url(settings.search, settings.work_path)
    refuse_space(settings)
    gpus = gpu_groups(settings)
    connect()
    deliver_what_waits(settings.spool_path)
    study = f"{settings.search.study}, {settings.search.trials} trials in all, {settings.search.parallel} at once here"
    varied = ", ".join(dimension.name for dimension in settings.search.space)
    show_plan("search", "settings that are best on the validation cases", settings, study=study, varied=varied)
    dataset = train.prepare(settings)
    given = runs.given_run_id("")
    if given:
        runs.refuse_other_stage(given, "search", "worker")
    shared = SharedStudy.open(
        settings.search,
        url,
        _identity(settings, dataset),
        lambda: runs.begin(settings.tracking, "search", given),
        lambda trial, reason: _close_lost(shared.parent, trial, reason),
    )
    with _own_run(settings, shared, given) as own, _saying_how_to_go_on(settings), helpers(settings, gpus):
        if own.id == shared.parent:
            train.begin(settings, dataset, own)
            name = f"search {settings.search.study}"
            own.tag(study=settings.search.study, mlflow__runName=name)
            annotate(own, "search", settings, dataset, again(settings, own))
            own.flush(settings.tracking.wait_s)  # before others log to it, too
        show_run(runs.attach(shared.parent))
        console.print(f"done:     {shared.counts()['counted']} of {settings.search.trials} trials")
        do = partial(attempt, settings=settings, dataset=dataset, study_run=shared.parent, worker=own)
        shared.run(_telling_how_far(do, shared, settings.search.trials), interrupts.requested)
        if interrupts.requested():
            raise interrupts.stop_now("stopped between two trials")
        return {"study": settings.search.study, **_finish(settings, dataset, shared)}


def _telling_how_far(
    do: Callable[[optuna.Trial], float], shared: SharedStudy, total: int
) -> Callable[[optuna.Trial], float]:
    """The same, which prints before each trial how far the study is, and from its pace here the time left."""
    began, done_before = time.monotonic(), _done(shared)

    def tell_and_do(trial: optuna.Trial) -> float:
        done = _done(shared)
        pace = (time.monotonic() - began) / max(done - done_before, 1)
        left = f", {clock(pace * (total - done))} left" if done > done_before else ""
        heading(f"Trial {trial.number}: {done} of {total} done{left}")
        return do(trial)

    return tell_and_do


def _done(shared: SharedStudy) -> int:
    counts = shared.counts()
    return counts["counted"] - counts["running"] - counts["waiting"]


def _for_this_machine(settings: SearchSettings) -> SearchSettings:
    """The settings, with the cores shared out among the trials that run at once, where nothing else is said."""
    if settings.training.nodes > 1 or settings.training.resume:
        raise SettingsError(
            "a trial of a search trains on one machine and from its beginning: leave training.nodes and "
            "training.resume as they are; more machines join by the same command, and so a study is gone on with"
        )
    cores = max(1, len(os.sched_getaffinity(0)) // settings.search.parallel)
    threads = settings.training.threads or max(1, cores // settings.training.devices)
    return replace(
        settings,
        training=replace(settings.training, threads=threads),
        crf_search=replace(settings.crf_search, processes=settings.crf_search.processes or cores),
    )


def _identity(settings: SearchSettings, dataset: DataSet) -> dict[str, Any]:
    """What all trials of a study have in common: the space, the data with its split, and the settings not varied."""
    varied = {name for dimension in settings.search.space for name, _ in dimension.settings(0)}
    may_change = (*(name for name in train.MAY_CHANGE if not name.startswith("crf")), "search", "crf_search.processes")
    common = {
        name: value
        for name, value in config.flatten(config.to_tree(settings)).items()
        if name not in varied and not name.startswith(may_change)
    }
    space = {dimension.name: config.to_tree(dimension) for dimension in settings.search.space}
    return {"space": space, "data": dataset.digest, "settings": common}


@contextmanager
def _own_run(settings: SearchSettings, shared: SharedStudy, given: str) -> Iterator[Run]:
    """This process's MLflow run: the study's own where it began it, else one below it, marked as a worker."""
    spools = settings.spool_path
    if shared.created or given == shared.parent:
        with runs.open_run(settings.tracking, "search", "search", run_id=shared.parent, spools=spools) as run:
            yield run
        return
    name = f"worker on {socket.gethostname()}"
    console.print(f"joining the study {settings.search.study}")
    parent = runs.attach(shared.parent)
    with runs.open_run(settings.tracking, name, "worker", run_id=given, parent=parent, spools=spools) as run:
        run.tag(study=settings.search.study, mlflow__runName=name)
        yield run


@contextmanager
def _saying_how_to_go_on(settings: SearchSettings) -> Iterator[None]:
    """Within: being interrupted ends in a text that says what becomes of the study."""
    try:
        yield
    except Interrupted as error:
        text = (
            f"the search was stopped ({error}); the trial in hand will be done again. The same command goes on with "
            f"the study {settings.search.study!r}, here or on another machine that sees its database"
        )
        raise Interrupted(text, error.exit_code - 128) from None


def _close_lost(study_run: str, trial: FrozenTrial, reason: str) -> None:
    """Close what a worker that has died, or lost the server, left open: the trial's run, and its own."""
    for run in runs.children(study_run, **{runs.STAGE_TAG: "trial", TRIAL_TAG: str(trial.number)}):
        runs.close(run.info.run_id, "FAILED", reason)
        worker = run.data.tags[WORKER_TAG]
        if worker != study_run and "stopped" not in trial.user_attrs:
            runs.close(worker, "FAILED", reason)


def _finish(settings: SearchSettings, dataset: DataSet, shared: SharedStudy) -> dict[str, Any]:
    """Do the finale, or wait for who does it; who has done it closes the study's run. Returns what is known of it."""
    with shared.finale() as mine:
        if not mine:
            runs.close(shared.parent, "FINISHED")  # joining has opened it again
            console.print(f"the study {settings.search.study} is complete: look at MLflow run {shared.parent}")
            return {"run_id": shared.parent}
        try:
            result = conclude(settings, dataset, shared.optuna, runs.attach(shared.parent))
        except BaseException as error:
            if interrupts.is_stop(error):
                runs.close(shared.parent, "KILLED")
            else:
                runs.close(shared.parent, "FAILED", str(error))
            raise
        runs.close(shared.parent, "FINISHED")
        return result
