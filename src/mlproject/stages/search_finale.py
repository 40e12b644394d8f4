"""What a study ends with: its plots and table, the test result of the best trial, and its model registered."""

import optuna
from optuna.trial import TrialState

from mlproject.data.dataset import DataSet
from mlproject.errors import TrainingError
from mlproject.stages import evaluate, registration
from mlproject.stages.console import console
from mlproject.stages.search_trial import RUN_ATTRIBUTE, as_text
from mlproject.stages.settings import SearchSettings
from mlproject.tracking import registry, runs
from mlproject.tracking.runs import Run
from mlproject.tuning.study_report import write_study


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
        failures = [trial.user_attrs.get("failure", "pruned") for trial in study.get_trials(deepcopy=False)]
        raise TrainingError(
            f"no trial of the study {settings.search.study!r} was finished (the first: {failures[0]}); look at {page}"
        )
    best = study.best_trial
    trial_run = best.user_attrs[RUN_ATTRIBUTE]
    model_uri = f"runs:/{trial_run}/model"
    segmenter = registry.load(model_uri, settings.prediction.device)
    with runs.open_run(settings.tracking, "evaluate", "evaluate", parent=parent) as child:
        test = dataset.load(dataset.split.test)
        facts |= {"model": model_uri, "trial": f"{best.number}: {as_text(best.params)}"}
        results = evaluate.evaluate(segmenter, test, child, settings, facts, registration.notes_on(dataset))
    parent.log_metrics(evaluate.headline(results.summaries, results.differences, results.chosen))
    parent.log_metrics({"search/best_value": study.best_value})
    parent.tag(best_trial=str(best.number), best_run=trial_run, best_values=as_text(best.params))
    verdict, version = registration.register(settings, dataset, model_uri, parent)
    console.print(
        f"best of {len(finished)} finished trials: trial {best.number}, validation Dice {study.best_value:.4f}, "
        f"{as_text(best.params)}"
    )
    results.show()
    registration.say_where(results.report, settings.tracking.registered_model, version, verdict)
