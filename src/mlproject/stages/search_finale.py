"""What a study ends with: its plots and table, the test result of the best trial, and its model registered."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from mlproject.data.dataset import DataSet, open_dataset
from mlproject.errors import TrainingError
from mlproject.stages import registration
from mlproject.stages.annotation import reproduction
from mlproject.stages.console import console, heading, new_table
from mlproject.stages.registration import TrainedModel
from mlproject.stages.search_trial import KINDS, RUN_ATTRIBUTE, as_text, experiment_of
from mlproject.stages.settings import SearchSettings
from mlproject.tracking import registry
from mlproject.tracking.markdown import code
from mlproject.tracking.run import Run
from mlproject.tuning.space import suggest
from mlproject.tuning.study import DATABASE_VARIABLE
from mlproject.tuning.study_report import trial_table, write_study

SHOWN = 5  # trials in the terminal's table; the study's page has all


def conclude(settings: SearchSettings, dataset: DataSet, study: optuna.Study, parent: Run) -> dict[str, Any]:
    """Log the study, measure the best trial's model on the test cases, register it, print and return where all is.

    The test cases are looked at here, for the one setting that was chosen, and nowhere else in a search.

    Raises:
        TrainingError: no trial was finished.
    """
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    facts = {
        "study": settings.search.study,
        "MLflow run": parent.id,
        "data": f"{settings.data.name}, digest {dataset.digest}",
        "objective": "mean Dice of the validation cases, after threshold, smallest lesion and CRF",
    }
    folder = settings.run_path(parent.id) / "search"
    study.set_metric_names(["validation Dice"])
    page = write_study(folder, study, f"Search {settings.search.study}", facts)
    parent.log_folder(folder, "search")
    if not finished:
        reasons = trial_table(study.get_trials(deepcopy=False))["failure"].dropna()
        first = f"the first failed one: {reasons.iloc[0]}" if len(reasons) else "all were pruned"
        raise TrainingError(f"no trial of the study {settings.search.study!r} was finished ({first}); look at {page}")
    best = study.best_trial
    best_run = best.user_attrs[RUN_ATTRIBUTE]
    experiment = experiment_of(settings, suggest(best, settings.search.space, KINDS), f"trial {best.number}")
    if experiment.preprocessing != settings.preprocessing:  # it was varied
        dataset = open_dataset(
            experiment.data, experiment.preprocessing, experiment.cache_path, experiment.tracking.case_naming
        )
    values = as_text(best.params)
    parent.log_metrics({"search/best_value": study.best_value})
    parent.tag(best_trial=str(best.number), best_run=best_run, best_values=values)
    heading(f"The best of {len(finished)} finished trials is {best.number}")
    console.print(_best_trials(finished))
    model_uri = registry.model_of(best_run)
    segmenter = registry.load(model_uri, settings.prediction.device)
    trial = f"{best.number} of the study {settings.search.study}, the best of {len(finished)} finished: {values}"
    model = TrainedModel(experiment, dataset, segmenter, model_uri, {"trial": trial, "training run": best_run})
    result = registration.conclude("search", settings, model, parent, again(settings, parent))
    return result | {"best_trial": best.number, "best_values": best.params, "validation_dice": study.best_value}


def again(settings: SearchSettings, run: Run) -> str:
    """How to join a study, and how to do it again, in Markdown."""
    varied = ", ".join(code(dimension.name) for dimension in settings.search.space)
    return (
        f"The study {code(settings.search.study)}: {settings.search.trials} trials over {varied}. To join it, give the "
        "command with which it was begun on another machine, with the same tracking server and the same study database "
        f"(environment variable `{DATABASE_VARIABLE}`). To do it again, as a study of another name:\n\n"
        + reproduction(run, "search", settings.data, **{"search.study": "NEW_NAME"})
    )


def _best_trials(finished: Sequence[FrozenTrial]) -> Table:
    """The best trials, the best first."""
    table = new_table("trial", "validation Dice", "settings")
    table.columns[2].justify = "left"
    for trial in sorted(finished, key=lambda trial: -(trial.value or 0))[:SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", as_text(trial.params))
    return table
