"""What a study ends with: its plots and table, the test result of the best trial, and its model registered."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from mlproject.data.dataset import DataSet, open_dataset
from mlproject.errors import TrainingError
from mlproject.stages import registration
from mlproject.stages.console import console, heading, new_table
from mlproject.stages.search_trial import RUN_ATTRIBUTE, as_text
from mlproject.stages.settings import SearchSettings
from mlproject.tracking import registry
from mlproject.tracking.runs import Run
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
        "data": f"{settings.data.root_path.name}, digest {dataset.digest}",
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
    model_uri = registry.model_of(best.user_attrs[RUN_ATTRIBUTE])
    segmenter = registry.load(model_uri, settings.prediction.device)
    preprocessing = segmenter.description.preprocessing
    if preprocessing != settings.preprocessing:  # it was varied
        dataset = open_dataset(settings.data, preprocessing, settings.cache_path)
    values = as_text(best.params)
    parent.log_metrics({"search/best_value": study.best_value})
    parent.tag(best_trial=str(best.number), best_run=best.user_attrs[RUN_ATTRIBUTE], best_values=values)
    heading(f"The best of {len(finished)} finished trials is {best.number}")
    console.print(_best_trials(finished))
    chosen_from = f"{best.number} of the study {settings.search.study}, {len(finished)} finished: {values}"
    result = registration.conclude("search", settings, dataset, segmenter, model_uri, parent, {"trial": chosen_from})
    return result | {"best_trial": best.number, "best_values": best.params, "validation_dice": study.best_value}


def _best_trials(finished: Sequence[FrozenTrial]) -> Table:
    """The best trials, the best first."""
    table = new_table("trial", "validation Dice", "settings")
    table.columns[2].justify = "left"
    for trial in sorted(finished, key=lambda trial: -(trial.value or 0))[:SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", as_text(trial.params))
    return table
