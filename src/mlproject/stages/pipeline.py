"""`main`: train, tune, evaluate, register and, on evidence, make champion; one MLflow run with a child a stage."""

from mlproject.stages import postprocess, registration, train
from mlproject.stages.console import console
from mlproject.stages.settings import Experiment
from mlproject.tracking import registry, runs
from mlproject.tracking.server import connect


def run(settings: Experiment) -> None:
    """The entry point `main`. Gone on with after a stop, it takes up the stage at which it was stopped."""
    settings = settings.resolved()
    if settings.training.node_rank > 0:
        train.help_to_train(settings)
        return
    connect()
    dataset = train.prepare(settings)
    run_id = runs.given_run_id(settings.training.resume)
    if run_id:
        runs.refuse_other_settings(run_id, settings, train.MAY_CHANGE)
    trained = runs.child(run_id, "train") if run_id else None
    if trained is not None:
        runs.refuse_other_data(trained.info.run_id, dataset.digest)
    with (
        runs.open_run(settings.tracking, "main", "main", run_id=run_id) as parent,
        train.saying_how_to_resume("main", parent, settings),
    ):
        parent.log_settings(settings)
        tags = runs.find(parent.id).data.tags
        if registration.CHAMPION_TAG in tags:  # the last thing that is done
            console.print(f"run {parent.id} is complete: its model is models:/{tags[registration.REGISTERED_TAG]}")
            return
        if trained is not None and trained.info.status == "FINISHED":
            train_id = str(trained.info.run_id)
            segmenter = registry.load(f"runs:/{train_id}/model", settings.prediction.device)
        else:
            with registration.child_run(settings, parent, "train") as child:
                train_id = child.id
                segmenter = train.train(settings, dataset, child)
        with registration.child_run(settings, parent, "postprocess") as child:
            segmenter = postprocess.postprocess(settings, dataset, segmenter, child)
            model_uri = f"runs:/{child.id}/model"
        registration.conclude(settings, dataset, segmenter, model_uri, parent, {"training run": train_id})
