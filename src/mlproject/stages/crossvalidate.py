"""`crossvalidate`: every case tested once, by a network that has not seen it; the folds' networks as one model.

A study is one MLflow run with a child for each fold, which has the children that a run of `main` has. The result is
out of fold: each network is tested on the cases of its fold, with the postprocessing that was chosen on its own
validation cases.

The model that is registered is the ensemble of these networks. It has seen every case, so none can say how good it is,
or which postprocessing suits it. It gets the one that suits the single networks best on all cases out of fold, as in
nnU-Net (Isensee et al., Nature Methods 2021). This choice has no part in the result above; how well it suits the mean
of the networks, whose probabilities are smoother, only cases from elsewhere can tell.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlproject.data.dataset import DataSet, digest_of, folds_of
from mlproject.data.splits import Split
from mlproject.data.storage import LocalFolder
from mlproject.prediction.segmenter import Segmenter
from mlproject.stages import postprocess, registration, train
from mlproject.stages.annotation import annotate, part_of, reproduction, result_in_words
from mlproject.stages.console import console, heading
from mlproject.stages.out_of_fold import pooled
from mlproject.stages.pipeline import trained_and_tuned
from mlproject.stages.plan import show_plan, show_run
from mlproject.stages.registration import TrainedModel
from mlproject.stages.settings import CrossValidationSettings, Experiment
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import registry, runs
from mlproject.tracking.run import Run
from mlproject.tracking.server import connect

STAGE, FOLD = "crossvalidate", "fold"
ENSEMBLE_TAG = "ensemble"
ANOTHER = "give another name as study"


def run(settings: CrossValidationSettings) -> dict[str, Any]:
    """The entry point `crossvalidate`: begin a study, or go on with the one of that name; what is done stays."""
    settings = settings.resolved()
    connect()
    deliver_what_waits(settings.spool_path)
    study = f"{settings.study}, {settings.data.folds} folds"
    show_plan(STAGE, "test every case once, and join the folds' networks", settings, study=study)
    datasets = folds_of(train.prepare(settings), settings.data)
    names = tuple(datasets[0].cases)
    whole = replace(datasets[0], split=Split((), (), names), digest=digest_of(datasets[0].load(names)))
    run_id = runs.given_run_id(settings.training.resume or runs.newest(settings.tracking, STAGE, study=settings.study))
    if run_id:
        runs.refuse_other_settings(run_id, settings, postprocess.MAY_CHANGE, ANOTHER)
        runs.refuse_other_data(run_id, whole.digest, ANOTHER)
    name = f"{STAGE} {settings.study}"
    with (
        LocalFolder(settings.work_path / "studies" / f"{STAGE}-{settings.study}").locked(),
        runs.open_run(settings.tracking, name, STAGE, run_id=run_id, spools=settings.spool_path) as parent,
        train.saying_how_to_resume(STAGE, parent, settings),
    ):
        parent.tag(study=settings.study, mlflow__runName=name)
        show_run(parent)
        train.begin(settings, whole, parent)
        again = reproduction(parent, STAGE, settings.data, study="NEW_NAME")
        annotate(parent, STAGE, settings, whole, again)
        tags = runs.find(parent.id).data.tags
        if registration.CHAMPION_TAG in tags:  # the last thing that is done
            registered = f"models:/{tags[registration.REGISTERED_TAG]}"
            console.print(f"the study {settings.study} is complete, in run {parent.id}: its model is {registered}")
            return {"run_id": parent.id, "model": registered}
        folds = [_fold(_of_fold(settings, number), dataset, parent) for number, dataset in enumerate(datasets)]
        results, said = pooled(folds, parent, registration.notes_on(whole))
        annotate(parent, STAGE, settings, whole, again, said)
        ensemble, uri = _ensemble(settings, datasets, folds, parent)
        origin = {f"fold {number}": fold for number, fold in enumerate(folds)}
        model = TrainedModel(settings.alone(), whole, ensemble, uri, origin)
        heading("Out of fold: each case tested by the network that has not seen it")
        return registration.published(STAGE, settings, model, results, said, parent, again) | {"folds": folds}


def _of_fold(settings: CrossValidationSettings, number: int) -> Experiment:
    """The experiment of a fold, as `main` takes it."""
    return replace(settings.alone(), data=replace(settings.data, fold=number))


def _fold(settings: Experiment, dataset: DataSet, parent: Run) -> str:
    """The id of a fold's run, which is done now, or gone on with, if it has not been finished."""
    number = settings.data.fold
    known = runs.children(parent.id, **{runs.STAGE_TAG: FOLD, FOLD: str(number)})
    run_id = str(known[0].info.run_id) if known else ""
    if known:
        runs.refuse_other_data(run_id, dataset.digest, ANOTHER)
    if known and known[0].info.status == "FINISHED":
        console.print(f"fold {number}: done already, run {run_id}")
        return run_id
    heading(f"Fold {number}: {number} of {settings.data.folds} done")
    name, tags = f"{FOLD} {number}", {FOLD: str(number)}
    spools = settings.spool_path
    with runs.open_run(settings.tracking, name, FOLD, run_id=run_id, parent=parent, tags=tags, spools=spools) as fold:
        train.begin(settings, dataset, fold)
        annotate(fold, FOLD, settings, dataset, part_of(parent))
        results = registration.measured(trained_and_tuned(settings, dataset, fold), fold)
        said = result_in_words(results.summaries, results.chosen, notes=results.notes)
        annotate(fold, FOLD, settings, dataset, part_of(parent), said)
        return fold.id


def _ensemble(
    settings: Experiment, datasets: Sequence[DataSet], folds: Sequence[str], parent: Run
) -> tuple[Segmenter, str]:
    """The folds' networks as one model, logged to the open parent, and its URI; the one that is logged already."""
    device = settings.prediction.device
    logged = runs.find(parent.id).data.tags.get(ENSEMBLE_TAG)
    if logged:
        return registry.load(logged, device), logged
    heading("Ensemble")
    members, maps = [], []
    for fold, dataset in zip(folds, datasets, strict=True):
        tuned = runs.child(fold, "postprocess")
        assert tuned is not None  # the fold is finished
        member = registry.load(registry.model_of(tuned.info.run_id), device)
        test = dataset.load(dataset.split.test)
        maps += postprocess.cached_probabilities(member, test, settings.work_path / "probabilities")
        # The device may have been another one for each fold.
        members.append(Segmenter(replace(member.description, prediction=settings.prediction), member.network))
    ensemble, dice = postprocess.tuned_on(maps, "out-of-fold", settings, Segmenter.join(members), parent)
    uri = registry.log_model(ensemble, parent.id, key=ENSEMBLE_TAG)
    # Not as the ensemble's: they are of the single networks.
    metrics = postprocess.postprocessing_metrics(ensemble.description)
    parent.log_metrics({"validation/tuned_dice": dice, **metrics})
    parent.tag(**{ENSEMBLE_TAG: uri})
    return ensemble, uri
