"""What a run's page in the MLflow UI says: a telling name, tags, and how to do it again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from mlproject.data.case import DataSettings
from mlproject.data.case_names import PUBLIC
from mlproject.data.dataset import DataSet, digest_of
from mlproject.data.preprocessing import PreparedCase
from mlproject.data.storage import is_s3
from mlproject.evaluation.metrics import ALL_CASES
from mlproject.prediction.segmenter import ModelDescription
from mlproject.stages.plan import ONLY_PREDICT, budget, device_of
from mlproject.stages.settings import EvaluateSettings, Experiment
from mlproject.tracking import markdown
from mlproject.tracking.markdown import code, escape
from mlproject.tracking.model_card import METRIC_TITLES, interval
from mlproject.tracking.run import Run
from mlproject.tracking.source import source

RESULT = ("dice", "lesion_f1", "volume_difference_ml")


def run_name(stage: str, settings: Experiment) -> str:
    """Such as `main phantom60 seed 0 dynunet 2500 steps`: the run list cuts names off, so what differs comes early."""
    amount = budget(settings.training).partition(" of ")[0].partition(",")[0]
    seed = f"seed {settings.training.seed}" + (f" fold {settings.data.fold}" if settings.data.folds else "")
    return f"{stage} {settings.data.name} {seed} {settings.network.name} {amount}"


def annotate(run: Run, stage: str, settings: Experiment, dataset: DataSet, again: str, result: str = "") -> None:
    """Tags and description of a run of this stage.

    `again`: how to do it again, in Markdown, from `reproduction` or `part_of`. `result`: in Markdown, once there is
    one.
    """
    run.tag(
        dataset=settings.data.name,
        cases=str(len(dataset.cases)),
        channels=", ".join(settings.data.channels),
        device=device_of(stage, settings),
        changed_code="yes" if source().changed else "no",
    )
    run.describe(note(result, _what(stage, settings, dataset), again))


def settings_of_model(settings: EvaluateSettings, described: ModelDescription) -> EvaluateSettings:
    """The settings of an evaluation with what the model decides in them; what it does not say has no part in one."""
    return replace(
        settings,
        data=replace(settings.data, channels=described.channels, missing=described.missing),
        preprocessing=described.preprocessing,
        network=described.network,
        prediction=replace(described.prediction, device=settings.prediction.device),
    )


def annotate_evaluation(
    run: Run, settings: EvaluateSettings, channels: Sequence[str], cases: Sequence[PreparedCase], result: str
) -> None:
    """The same of an evaluation that is no part of another run; its data set has no split."""
    data = settings.data.name
    models = {"model": settings.model, "compared with": settings.compare}
    rows = [
        ("stage", code("evaluate")),
        *((name, escape(model)) for name, model in models.items() if model),
        ("data", f"{escape(_called(settings.data))}: {len(cases)} cases, digest {code(digest_of(cases))}"),
        ("channels", escape(", ".join(channels))),
    ]
    run.tag(
        dataset=data,
        cases=str(len(cases)),
        channels=", ".join(channels),
        device=device_of("evaluate", settings),
        changed_code="yes" if source().changed else "no",
    )
    again = reproduction(run, "evaluate", replace(settings.data, split_file=None), model=settings.model)
    run.describe(note(result, markdown.table(("", ""), rows), again))


def note(result: str, what: str, again: str) -> str:
    """A description: what matters first, as the UI shows three lines of it at once."""
    return "\n\n".join((result or "No result yet.", what, f"**To do it again**\n\n{again}"))


def result_in_words(
    summaries: Mapping[str, Mapping[str, pd.DataFrame]],
    chosen: str,
    tested: str = "Test",
    bold: str = "the variant that the model uses",
    notes: Sequence[str] = (),
) -> str:
    """A test result as Markdown: a sentence, and a table with a row for each variant, the chosen one in bold.

    `tested`: how, in a word. `bold`: what the bold row is. `notes`: what a reader must know; plain text.
    """
    variants = summaries[ALL_CASES]
    rows = []
    for variant, summary in variants.items():
        mark = "**" if variant == chosen else ""
        rows.append([f"{mark}{escape(variant)}{mark}", *(interval(summary, name) for name in RESULT)])
    cases = int(variants[chosen]["cases"]["dice"])
    header = [f"{cases} test cases", *(METRIC_TITLES[name] for name in RESULT)]
    first = f"{tested} Dice **{interval(variants[chosen], 'dice')}**."  # the UI shows three lines: notes before numbers
    table = markdown.table(header, rows)
    return "\n\n".join([first, *map(escape, notes), table, f"Mean and 95 % interval; in bold {bold}."])


def _what(stage: str, settings: Experiment, dataset: DataSet) -> str:
    """What was run, on what, in Markdown."""
    split, loss = dataset.split, settings.loss
    where = "" if stage in ONLY_PREDICT else f", on {escape(device_of(stage, settings))}"
    fold = f", fold {settings.data.fold} of {settings.data.folds}" if settings.data.folds else ""
    parts = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test{fold}"
    if stage == "crossvalidate":
        parts = f"in {settings.data.folds} folds, each case in the test part of one"
    rows = [
        ("stage", code(stage)),
        (
            "data",
            f"{escape(_called(settings.data))}: {len(dataset.cases)} cases ({parts}), digest {code(dataset.digest)}",
        ),
        ("channels", escape(", ".join(settings.data.channels))),
        (
            "network",
            f"{settings.network.name}, patches of {' x '.join(map(str, settings.patches.size))} voxels",
        ),
        (
            "training",
            f"{budget(settings.training)}{where}; loss {loss.cross_entropy:g} x "
            f"cross-entropy + {loss.dice:g} x soft Dice; learning rate {settings.training.learning_rate:g}; seed "
            f"{settings.training.seed}",
        ),
    ]
    return markdown.table(("", ""), rows)


def _called(data: DataSettings) -> str:
    """A data set's name; of one in a bucket the whole, which means the same on every machine."""
    return data.where if is_s3(data.root) else data.name


def part_of(parent: Run) -> str:
    """What stands in place of `reproduction` in a run below another."""
    return f"It is a part of [its parent run](#/experiments/{parent.experiment_id}/runs/{parent.id}): do that again."


def reproduction(run: Run, entry_point: str, data: DataSettings, /, **more: str) -> str:
    """The commands that do a run again, in Markdown: every setting comes from the run's own config.yaml.

    `data`: the run's. `more`: what else the entry point needs, or what must be another than in config.yaml.
    """
    origin = source()
    version = f" --version {origin.commit}" if origin.url and origin.commit else ""
    given = "".join(f" -P {shlex.quote(f'{name}={value}')}" for name, value in more.items())
    files, given = ["config.yaml"], f'{given} -P config="$PWD/config.yaml"'
    if data.layout != "demo":  # which makes its cases itself
        given += f" -P {shlex.quote(f'data.root={data.where}' if is_s3(data.root) else 'data.root=/path/to/the/data')}"
    if data.split_file is not None:  # a file of the machine that the run was on; the run has its own copy
        files, given = [*files, "split.csv"], f'{given} -P data.split_file="$PWD/split.csv"'
    commands = [f"mlflow artifacts download --run-id {run.id} --artifact-path {name} --dst-path ." for name in files]
    if origin.commit and not origin.url:
        commands.append(f"git checkout {origin.commit}    # in a checkout of this project")
    commands.append(f"mlflow run {shlex.quote(origin.project)}{version} --env-manager local -e {entry_point}{given}")
    text = markdown.block("\n".join(commands)) + "\n\nOn another machine, add `-P work_dir=FOLDER`."
    if data.layout not in PUBLIC:
        text += " Where its cases have pseudonyms, the table of them (`case_names.csv`) must go with the data."
    if origin.changed:
        text += " The checkout had changes that are not committed, so the commit alone does not give this run."
    return text
