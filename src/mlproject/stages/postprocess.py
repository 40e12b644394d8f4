"""`postprocess`: choose threshold, smallest lesion and CRF for a trained network on its validation cases."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mlproject import config
from mlproject.data.case_keys import mark_used
from mlproject.data.dataset import DataSet
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError, ModelError
from mlproject.evaluation.report import verdict
from mlproject.prediction.probability import CaseProbability
from mlproject.prediction.segmenter import ModelDescription, Segmenter
from mlproject.stages.annotation import annotate, reproduction, run_name
from mlproject.stages.commands import stage_command
from mlproject.stages.console import console, facts, heading
from mlproject.stages.plan import opened, show_plan, show_run
from mlproject.stages.progress import CrfSearchDisplay, display, track
from mlproject.stages.settings import EvaluateSettings, Experiment, PostprocessSettings
from mlproject.stages.sync import deliver_what_waits
from mlproject.stages.train import MAY_CHANGE as MAY_CHANGE_IN_TRAINING
from mlproject.stages.train import NETWORK_ALONE, begin, training_run_of
from mlproject.tracking import registry, runs
from mlproject.tracking.run import Run
from mlproject.tracking.server import connect
from mlproject.tuning.crf_search import SearchResult, tune

FORMAT_VERSION = 1  # of the cached probabilities
# With the same settings but for these, the tuning is the same one.
MAY_CHANGE = (*(name for name in MAY_CHANGE_IN_TRAINING if not name.startswith("crf")), "crf_search.processes")
BEST_THRESHOLD, WITH_CRF = "best threshold", "with CRF"


def run(settings: PostprocessSettings) -> dict[str, Any]:
    """The entry point `postprocess`."""
    connect()
    deliver_what_waits(settings.spool_path)
    training_run = training_run_of(settings.run)
    experiment = settings_of(training_run, settings)
    show_plan("postprocess", "tune threshold and CRF of a trained run", experiment)
    dataset = opened(experiment)
    runs.refuse_other_data(training_run, dataset.digest)
    segmenter = registry.load(f"runs:/{training_run}/model", settings.prediction.device)
    run_id = runs.given_run_id("")
    name, spools = run_name("postprocess", experiment), settings.spool_path
    with runs.open_run(settings.tracking, name, "postprocess", run_id=run_id, spools=spools) as mlflow_run:
        mlflow_run.rename(name)
        show_run(mlflow_run)
        mlflow_run.tag(training_run=training_run)
        again = reproduction(mlflow_run, "postprocess", experiment.data, run=training_run)
        tuned = postprocess(experiment, dataset, segmenter, mlflow_run, again)
    uri = f"runs:/{mlflow_run.id}/model"
    measure = stage_command("evaluate", EvaluateSettings, experiment, model=uri)
    console.print()
    facts({"model": uri, "next": "measure it on the cases that it has not seen:"})
    console.print(measure)
    return {
        "run_id": mlflow_run.id,
        "training_run": training_run,
        "model": uri,
        "postprocessing": tuned.description.postprocessing.to_dict(),
        "metrics": runs.find(mlflow_run.id).data.metrics,
    }


def settings_of(training_run: str, settings: Experiment) -> Experiment:
    """The settings a run was trained with; from `settings` come the search, and where data and work lie."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = runs.download(training_run, "config.yaml", Path(folder))
        if file is None:
            raise ModelError(f"run {training_run} has no config.yaml: it is not a training run of this software")
        tree = yaml.safe_load(file.read_text())
    trained = config.from_tree(Experiment, tree, f"config.yaml of run {training_run}")
    data = replace(trained.data, root=settings.data.root or trained.data.root)
    data = replace(data, split_file=settings.data.split_file or data.split_file, copies_gb=settings.data.copies_gb)
    return replace(
        trained,
        work_dir=settings.work_dir,
        data=data,
        prediction=replace(trained.prediction, device=settings.prediction.device),
        crf_search=settings.crf_search,
        crf=settings.crf,
        tracking=settings.tracking,
    ).resolved()


def postprocess(settings: Experiment, dataset: DataSet, segmenter: Segmenter, mlflow_run: Run, again: str) -> Segmenter:
    """Tune inside an open MLflow run; returns the same network with the postprocessing chosen, logged as a model.

    `again`: what the run's description says of how to do it again.
    """
    heading("Postprocessing")
    begin(settings, dataset, mlflow_run)
    annotate(mlflow_run, "postprocess", settings, dataset, again)
    probabilities = settings.work_path / "probabilities"
    tuned, dice = tuned_on_validation(settings, dataset, segmenter, mlflow_run, probabilities)
    log_tuned(tuned, dice, settings, dataset, mlflow_run)
    chosen = tuned.description.postprocessing
    result = (
        f"Validation Dice {dice:.4f}, with threshold {chosen.threshold:.3f}, smallest lesion "
        f"{chosen.min_lesion_ml:.3g} ml and {'no' if chosen.crf is None else 'the'} CRF."
    )
    annotate(mlflow_run, "postprocess", settings, dataset, again, result)
    return tuned


def log_tuned(tuned: Segmenter, dice: float, settings: Experiment, dataset: DataSet, mlflow_run: Run) -> None:
    """Log a tuned model, and with it the validation Dice that it was chosen by and its postprocessing."""
    metrics = {"validation/tuned_dice": dice, **postprocessing_metrics(tuned.description)}
    key = hashlib.sha256(repr(tuned.description).encode()).hexdigest()[:16]  # tuned alike, it is one model
    mlflow_run.log_model(tuned, settings.data.name, dataset.digest, metrics, key=key)


def postprocessing_metrics(description: ModelDescription) -> dict[str, float]:
    """The chosen postprocessing as numbers, under the same names in every run, so that runs can be compared.

    `tuned/crf_*` are the parameters of the best CRF, `tuned/crf_used` says whether it was chosen.
    """
    chosen = description.postprocessing
    best = description.candidates.get(WITH_CRF)
    crf = vars(best.crf) if best and best.crf else {}
    return {
        "tuned/threshold": chosen.threshold,
        "tuned/min_lesion_ml": chosen.min_lesion_ml,
        "tuned/crf_used": float(chosen.crf is not None),
        **{f"tuned/crf_{name}": float(value) for name, value in crf.items() if not isinstance(value, str)},
    }


def tuned_on_validation(
    settings: Experiment, dataset: DataSet, segmenter: Segmenter, mlflow_run: Run, probabilities: Path
) -> tuple[Segmenter, float]:
    """The same network with the postprocessing chosen, and the mean validation Dice that they reach together.

    `probabilities`: the folder where the network's probabilities of the validation cases are kept.
    """
    maps = cached_probabilities(segmenter, dataset.load(dataset.split.validation), probabilities)
    return tuned_on(maps, "validation", settings, segmenter, mlflow_run)


def tuned_on(
    maps: Sequence[CaseProbability], kind: str, settings: Experiment, segmenter: Segmenter, mlflow_run: Run
) -> tuple[Segmenter, float]:
    """The same network with the postprocessing that suits these predictions best, and their mean Dice with it.

    `kind`: what the cases are, in a word. The metrics of the tuning are logged under `validation/`.
    """
    console.print(f"tuning threshold, smallest lesion and CRF on {len(maps)} {kind} cases")
    with display("CRF search") as shown:
        report = CrfSearchDisplay(shown, settings.crf_search.trials).show
        result = tune(maps, settings.crf_search, settings.crf, report)
    _log(result, mlflow_run)
    chosen = WITH_CRF if result.chosen == result.with_crf else BEST_THRESHOLD
    console.print(f"{verdict(f'{WITH_CRF} against {BEST_THRESHOLD}, {kind}', result.difference)} Chosen: {chosen}.")
    candidates = {
        NETWORK_ALONE: result.network_only,
        BEST_THRESHOLD: result.best_threshold,
        WITH_CRF: result.with_crf,
    }
    dice = result.mean_dice["with_crf" if chosen == WITH_CRF else "best_threshold"]
    return segmenter.with_postprocessing(result.chosen, candidates, [entry.case for entry in maps]), dice


def cached_probabilities(segmenter: Segmenter, cases: Sequence[PreparedCase], folder: Path) -> list[CaseProbability]:
    """The network's probability of each case, kept on disk under the weights, settings and voxels it came from."""
    made_with = (FORMAT_VERSION, segmenter.description.prediction, segmenter.description.preprocessing)
    weights = hashlib.sha256(repr(made_with).encode())
    for value in segmenter.network.state_dict().values():
        weights.update(value.cpu().contiguous().numpy().tobytes())
    maps = []
    for case in track("predicting", cases, len(cases)):
        key = hashlib.sha256((weights.hexdigest() + "".join(case.channel_digests.values())).encode())
        path = folder / f"{key.hexdigest()[:40]}.npy"
        if not _is_readable(path):
            _write(segmenter.probability(case), path)
        mark_used(path)
        maps.append(CaseProbability(case, np.load(path, mmap_mode="r", allow_pickle=False)))
    return maps


def _is_readable(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _write(probability: NDArray[np.float32], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            np.save(Path(folder) / path.name, probability)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}): free some space, or set work_dir"
        ) from error


def _log(result: SearchResult, mlflow_run: Run) -> None:
    """The validation results, the curve of the trials, and the tables of all that was tried."""
    mlflow_run.log_metrics(
        {
            **{f"validation/{name}_dice": dice for name, dice in result.mean_dice.items()},
            "validation/crf_gain": result.difference.mean,
            "validation/crf_gain_low": result.difference.low,
            "validation/crf_gain_high": result.difference.high,
            "validation/crf_gain_p": result.difference.wilcoxon_p,
        }
    )
    mlflow_run.log_curve("crf_search/dice", result.trials["dice"])
    mlflow_run.log_curve("crf_search/best_dice", result.trials["dice"].cummax())
    mlflow_run.log_table(result.trials, "crf_search/trials.csv")
    mlflow_run.log_table(result.pairs, "crf_search/weights.csv")
    mlflow_run.log_table(result.finalists, "crf_search/finalists.csv")
    mlflow_run.log_table(result.case_dice.reset_index(), "crf_search/validation_dice.csv")
