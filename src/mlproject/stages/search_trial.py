"""One trial of a search: the settings that it varies, its training, and the tuning of its postprocessing."""

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import optuna
import torch

from mlproject import config
from mlproject.data.dataset import DataSet, open_dataset
from mlproject.network.architectures import build_network
from mlproject.stages import postprocess, train
from mlproject.stages.annotation import annotate, part_of
from mlproject.stages.console import console
from mlproject.stages.settings import Experiment, SearchSettings
from mlproject.tracking import runs
from mlproject.tracking.markdown import escape
from mlproject.tracking.run import Run
from mlproject.tracking.server import tracking_errors
from mlproject.training.progress import Epoch
from mlproject.tuning.space import check_space, put, suggest
from mlproject.tuning.study import NINTHS

# What a trial cannot vary: what does not decide the result, and the data that all are compared on.
FIXED = (*train.MAY_CHANGE, "data")
KINDS = dict(config.leaves(Experiment))
RUN_ATTRIBUTE = "run_id"
"""User attribute of a trial: the id of its MLflow run."""
TRIAL_TAG, WORKER_TAG = "trial", "worker"
"""Tags of a trial's run: its number, and the id of the run of the process that does it."""


def refuse_space(settings: SearchSettings) -> None:
    """Raise SettingsError for a space that does not fit the settings, or an end of it that the network cannot take."""
    check_space(settings.search.space, KINDS, FIXED)
    for dimension in settings.search.space:
        for end in dimension.ends(KINDS):
            experiment = experiment_of(settings, dict(dimension.settings(end)), "search space")
            build_network(experiment.network, len(experiment.data.channels), experiment.patches.size)


def experiment_of(settings: SearchSettings, values: Mapping[str, Any], source: str) -> Experiment:
    """The experiment of one trial: the settings, with its values (dotted name → value) put in."""
    tree = {name: branch for name, branch in config.to_tree(settings).items() if name != "search"}
    experiment = config.from_tree(Experiment, put(tree, values), f"{source} ({as_text(values)})")
    return replace(experiment, training=replace(experiment.training, upload_every=0))


def attempt(trial: optuna.Trial, settings: SearchSettings, dataset: DataSet, study_run: str, worker: Run) -> float:
    """Do one trial in an MLflow run below `study_run`; its value is the mean validation Dice of the whole chain.

    Raises optuna.TrialPruned where the pruner ended the training; what else is raised makes it a failed trial.
    """
    name = f"trial {trial.number}"
    tags = {TRIAL_TAG: str(trial.number), WORKER_TAG: worker.id, "study": settings.search.study}
    with (
        tracking_errors(),
        runs.open_run(
            settings.tracking, name, "trial", parent=runs.attach(study_run), tags=tags, spools=settings.spool_path
        ) as run,
    ):
        trial.set_user_attr(RUN_ATTRIBUTE, run.id)
        again = part_of(runs.attach(study_run))
        values = suggest(trial, settings.search.space, KINDS)
        console.print(f"{name}: {as_text(values)}")
        experiment = experiment_of(settings, values, name)
        if experiment.preprocessing != settings.preprocessing:
            dataset = open_dataset(
                experiment.data, experiment.preprocessing, experiment.cache_path, experiment.tracking.case_naming
            )
        try:
            annotate(run, "trial", experiment, dataset, again)
            last, best = _train(trial, experiment, dataset, run)
            pruned = last.share < 1
            value = best if pruned else _tune(experiment, dataset, run)
        finally:
            # What is worth keeping is in the model logged; a trial that is stopped is begun anew, perhaps elsewhere.
            shutil.rmtree(experiment.run_path(run.id), ignore_errors=True)
            torch.cuda.empty_cache()  # for the next trial's own process; nothing without a GPU
        trial.set_user_attr("value", value)  # fails where the trial was given to another, so that one run alone has it
        # The same keys in every trial: parallel coordinates show only the runs that have them all.
        run.log_metrics({"trial/value": value, "trial/network_dice": best, "trial/share_trained": last.share})
        outcome = "pruned" if pruned else "finished"
        run.tag(outcome=outcome, mlflow__runName=f"{name}, pruned" if pruned else name)
        result = f"{outcome}: validation Dice {value:.4f}, with {escape(as_text(values))}."
        annotate(run, "trial", experiment, dataset, again, result)
        run.ends_as = "KILLED" if pruned else "FINISHED"
        runs.attach(study_run).log_metrics({"search/value": value}, step=trial.number)
    console.print(f"{name}: {outcome}, Dice {value:.4f}")
    if pruned:
        raise optuna.TrialPruned
    return value


def _train(trial: optuna.Trial, experiment: Experiment, dataset: DataSet, run: Run) -> tuple[Epoch, float]:
    """Fit until the budget's end, or until the pruner ends it; the last epoch and the best validation Dice."""
    train.begin(experiment, dataset, run)
    job = train.job_of(experiment, dataset, experiment.run_path(run.id), isolated=True)
    best, reported = 0.0, 0
    with closing(train.epochs(job, run, f"trial {trial.number}")) as fitted:
        for epoch in fitted:
            if epoch.validation_dice is None:
                continue
            best = max(best, epoch.validation_dice)
            percent = NINTHS[int(9 * epoch.share + 1e-9)]
            if percent > reported:
                reported = percent
                trial.report(best, percent)
                if epoch.share < 1 and trial.should_prune():
                    break
    train.log_curves(run)
    return epoch, best


def _tune(experiment: Experiment, dataset: DataSet, run: Run) -> float:
    """Tune the postprocessing of the trial's best epoch, log the model, and return what the whole chain reaches."""
    segmenter = train.best_model(experiment, dataset, run.id)
    probabilities = experiment.run_path(run.id) / "probabilities"
    tuned, dice = postprocess.tuned_on_validation(experiment, dataset, segmenter, run, probabilities)
    postprocess.log_tuned(tuned, dice, experiment, dataset, run)
    return dice


def as_text(values: Mapping[str, Any]) -> str:
    """Names and values in one line, numbers to four digits."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
