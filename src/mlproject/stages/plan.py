"""What a stage prints before it begins: what will be done, on what, and where it is logged."""

import torch

from mlproject.data.dataset import DataSet, open_dataset
from mlproject.prediction.sliding_window import resolve_device
from mlproject.stages.commands import run_address
from mlproject.stages.console import facts, heading
from mlproject.stages.progress import track
from mlproject.stages.settings import EvaluateSettings, Experiment
from mlproject.tracking.run import Run
from mlproject.tracking.server import public_uri
from mlproject.training.settings import TrainingSettings

ONLY_PREDICT = ("postprocess", "evaluate")  # the stages that take a trained network


def show_plan(stage: str, what: str, settings: Experiment, **more: str) -> None:
    """Print what a stage does, in words, and what its settings ask for; `more`: further names and values."""
    data, patches = settings.data, settings.patches
    heading(f"{stage}: {what}")
    facts(
        {
            "data": f"{data.root} ({data.layout})",
            "channels": ", ".join(data.channels),
            "network": f"{settings.network.name} on patches of {' x '.join(map(str, patches.size))} voxels",
            "budget": "" if stage in ONLY_PREDICT else budget(settings.training),
            "device": device_of(stage, settings),
            **more,
            "work_dir": str(settings.work_path),
            "tracking": f"{public_uri()}, experiment {settings.tracking.experiment}",
        }
    )


def show_evaluation(given: EvaluateSettings, settings: EvaluateSettings) -> None:
    """Print what `evaluate` will measure; `given`: the same before aliases and runs were looked up."""

    def exactly(uri: str, word: str) -> str:
        return uri if uri == word else f"{uri}, which is {word} now"

    heading("evaluate: measure a model on labelled cases")
    facts(
        {
            "model": exactly(settings.model, given.model),
            "against": exactly(settings.compare, given.compare),
            "data": f"{settings.data.root} ({settings.data.layout})",
            "called": names_in_words(settings),
            "device": device_of("evaluate", settings),
            "work_dir": str(settings.work_path),
            "tracking": f"{public_uri()}, experiment {settings.tracking.experiment}",
        }
    )


def show_measured(settings: EvaluateSettings, channels: str, number: int) -> None:
    """Print what the images of the model, or of both models, are, and how many cases will be measured."""
    models = "neither model has" if settings.compare else "the model has not"
    which = "all" if settings.cases == "all" else f"those that {models} seen"
    facts({"channels": channels, "cases": f"{number} to measure, {which}"})


def show_run(run: Run) -> None:
    """Print which MLflow run the results go to."""
    facts({"run": run_address(run.id, run.experiment_id)})


def opened(settings: Experiment) -> DataSet:
    """The data set of an experiment, with a display while its cases are read and prepared; prints what it holds."""
    naming = settings.tracking.case_naming
    dataset = open_dataset(settings.data, settings.preprocessing, settings.cache_path, naming, track)
    split = dataset.split
    fold = f", in fold {settings.data.fold} of {settings.data.folds}" if settings.data.folds else ""
    facts(
        {
            "cases": f"{len(dataset.cases)}: {len(split.train)} to train, {len(split.validation)} to validate, "
            f"{len(split.test)} to test{fold}",
            "called": names_in_words(settings),
        }
    )
    return dataset


def names_in_words(settings: Experiment) -> str:
    """What the cases are called where they have pseudonyms; else ""."""
    naming = settings.tracking.case_naming
    return f"by pseudonyms; {naming.table_of(settings.data)} says whose" if naming.pseudonyms(settings.data) else ""


def budget(training: TrainingSettings) -> str:
    """The budget in words, such as `2500 steps of 2 patches`."""
    if training.minutes is not None:
        return f"{training.minutes:g} minutes, {training.batch_size} patches a step"
    amount = f"{training.steps} steps" if training.epochs is None else f"{training.epochs} epochs in steps"
    return f"{amount} of {training.batch_size} patches"


def device_of(stage: str, settings: Experiment) -> str:
    """What does the work of a stage, in words."""
    if stage not in ONLY_PREDICT:
        return device(settings.training)
    where = resolve_device(settings.prediction.device)
    return torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"


def device(training: TrainingSettings) -> str:
    """What trains, in words."""
    on_gpu = training.accelerator != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    several = f"{training.devices} x " if training.devices > 1 else ""
    machines = f" on each of {training.nodes} machines" if training.nodes > 1 else ""
    return f"{several}{name}{machines}"
