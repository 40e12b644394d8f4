"""`main`: train, tune, evaluate, register and, on evidence, make champion; one MLflow run with a child a stage."""

from typing import Any

from mlproject.data.dataset import DataSet
from mlproject.stages import postprocess, registration, train
from mlproject.stages.annotation import annotate, part_of, reproduction, run_name
from mlproject.stages.console import console
from mlproject.stages.plan import show_plan, show_run
from mlproject.stages.registration import TrainedModel
from mlproject.stages.settings import Experiment
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import registry, runs
from mlproject.tracking.run import Run
from mlproject.tracking.server import connect


def run(settings: Experiment) -> dict[str, Any]:
    """The entry point `main`. Gone on with after a stop, it takes up the stage at which it was stopped."""
    settings = settings.resolved()
    if settings.training.node_rank > 0:
        train.help_to_train(settings)
        return {}
    connect()
    deliver_what_waits(settings.spool_path)
    show_plan("main", "train, tune the CRF, evaluate, register", settings)
    dataset = train.prepare(settings)
    run_id = runs.given_run_id(settings.training.resume)
    if run_id:
        runs.refuse_other_settings(run_id, settings, train.MAY_CHANGE)
    trained = runs.child(run_id, "train") if run_id else None
    if trained is not None:
        runs.refuse_other_data(trained.info.run_id, dataset.digest)
    name = run_name("main", settings)
    with (
        runs.open_run(settings.tracking, name, "main", run_id=run_id, spools=settings.spool_path) as parent,
        train.saying_how_to_resume("main", parent, settings),
    ):
        show_run(parent)
        parent.rename(name)
        train.begin(settings, dataset, parent)
        again = reproduction(parent, "main", settings.data)
        annotate(parent, "main", settings, dataset, again)
        tags = runs.find(parent.id).data.tags
        if registration.CHAMPION_TAG in tags:  # the last thing that is done
            registered = f"models:/{tags[registration.REGISTERED_TAG]}"
            console.print(f"run {parent.id} is complete: its model is {registered}")
            return {"run_id": parent.id, "model": registered}
        model = trained_and_tuned(settings, dataset, parent)
        return registration.conclude("main", settings, model, parent, again)


def trained_and_tuned(settings: Experiment, dataset: DataSet, parent: Run) -> TrainedModel:
    """Train and tune in runs below an open one, which gets the validation Dice; what is done stays.

    It is tuned anew, in a run of its own, where the settings of the tuning are others now.
    """
    trained, tuned = runs.child(parent.id, "train"), runs.child(parent.id, "postprocess")
    if tuned is not None and runs.other_settings(tuned.info.run_id, settings, postprocess.MAY_CHANGE):
        tuned = None
    train_id, tuned_id = (str(run.info.run_id) if run else "" for run in (trained, tuned))
    if tuned is None or tuned.info.status != "FINISHED":
        if trained is not None and trained.info.status == "FINISHED":
            network = registry.load(f"runs:/{train_id}/model", settings.prediction.device)
        else:
            with registration.child_run(settings, parent, "train", train_id) as child:
                network, train_id = train.train(settings, dataset, child, part_of(parent)), child.id
        with registration.child_run(settings, parent, "postprocess", tuned_id) as child:
            segmenter, tuned_id = postprocess.postprocess(settings, dataset, network, child, part_of(parent)), child.id
    model_uri = registry.model_of(tuned_id)  # only now: what a run logs is delivered when it is closed
    if tuned is not None:  # by the process that was stopped, perhaps
        segmenter = registry.load(model_uri, settings.prediction.device)
    metrics = runs.find(tuned_id).data.metrics
    parent.log_metrics({name: metrics[name] for name in ("validation/tuned_dice", "validation/network_only_dice")})
    return TrainedModel(settings, dataset, segmenter, model_uri, {"training run": train_id})
