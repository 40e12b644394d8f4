"""What a study ends with: its plots and table, the test result of the best trial, and its model registered."""

import optuna
from optuna.trial import TrialState

from mlproject.data.dataset import DataSet, open_dataset
from mlproject.errors import TrainingError
from mlproject.stages import registration
from mlproject.stages.console import console
from mlproject.stages.search_trial import RUN_ATTRIBUTE, as_text
from mlproject.stages.settings import SearchSettings
from mlproject.tracking import registry
from mlproject.tracking.runs import Run
from mlproject.tuning.study_report import trial_table, write_study


def conclude(settings: SearchSettings, dataset: DataSet, study: optuna.Study, parent: Run) -> None:
    """Log the study, measure the best trial's model on the test cases, register it, and print where all is.

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
    model_uri = f"runs:/{best.user_attrs[RUN_ATTRIBUTE]}/model"
    segmenter = registry.load(model_uri, settings.prediction.device)
    preprocessing = segmenter.description.preprocessing
    if preprocessing != settings.preprocessing:  # it was varied
        dataset = open_dataset(settings.data, preprocessing, settings.cache_path)
    values = as_text(best.params)
    parent.log_metrics({"search/best_value": study.best_value})
    parent.tag(best_trial=str(best.number), best_run=best.user_attrs[RUN_ATTRIBUTE], best_values=values)
    console.print(
        f"best of {len(finished)} finished trials: {best.number}, validation Dice {study.best_value:.4f}, {values}"
    )
    chosen_from = f"{best.number} of the study {settings.search.study}, {len(finished)} finished: {values}"
    registration.conclude(settings, dataset, segmenter, model_uri, parent, {"trial": chosen_from})
