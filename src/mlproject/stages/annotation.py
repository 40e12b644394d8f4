"""What a run's page in the MLflow UI says: a telling name, tags, and how to do it again."""

import shlex

from mlproject.data.dataset import DataSet
from mlproject.stages.plan import budget, device
from mlproject.stages.settings import Experiment
from mlproject.tracking import markdown
from mlproject.tracking.markdown import code, escape
from mlproject.tracking.runs import Run
from mlproject.tracking.source import source


def run_name(stage: str, settings: Experiment) -> str:
    """Such as `main phantom60 dynunet 2500 steps seed 0`."""
    amount = budget(settings.training).partition(" of ")[0].partition(",")[0]
    return f"{stage} {settings.data.root_path.name} {settings.network.name} {amount} seed {settings.training.seed}"


def annotate(run: Run, stage: str, settings: Experiment, dataset: DataSet, again: str, result: str = "") -> None:
    """Tags and description of a run of this stage.

    `again`: how to do it again, in Markdown, from `reproduction` or `part_of`. `result`: in Markdown, once there is
    one.
    """
    code_of_run = source()
    run.tag(
        dataset=settings.data.root_path.name,
        cases=str(len(dataset.cases)),
        channels=", ".join(settings.data.channels),
        device=device(settings.training),
        changed_code="yes" if code_of_run.changed else "no",
    )
    parts = (result or "No result yet.", what(stage, settings, dataset), f"**To do it again**\n\n{again}")
    run.describe("\n\n".join(parts))


def what(stage: str, settings: Experiment, dataset: DataSet) -> str:
    """What was run, on what, in Markdown."""
    split, loss = dataset.split, settings.loss
    rows = [
        ("stage", code(stage)),
        (
            "data",
            f"{escape(settings.data.root_path.name)}: {len(dataset.cases)} cases ({len(split.train)} train, "
            f"{len(split.validation)} validation, {len(split.test)} test), digest {code(dataset.digest)}",
        ),
        ("channels", escape(", ".join(settings.data.channels))),
        (
            "network",
            f"{settings.network.name}, patches of {' x '.join(map(str, settings.patches.size))} voxels",
        ),
        (
            "training",
            f"{budget(settings.training)}, on {escape(device(settings.training))}; loss {loss.cross_entropy:g} x "
            f"cross-entropy + {loss.dice:g} x soft Dice; learning rate {settings.training.learning_rate:g}; seed "
            f"{settings.training.seed}",
        ),
    ]
    return markdown.table(("", ""), rows)


def part_of(parent: Run) -> str:
    """What stands in place of `reproduction` in a run below another."""
    return f"It is a part of [its parent run](#/experiments/{parent.experiment_id}/runs/{parent.id}): do that again."


def reproduction(run: Run, entry_point: str, /, **more: str) -> str:
    """The commands that do a run again, in Markdown: every setting comes from the run's own config.yaml.

    `more`: what else the entry point needs.
    """
    origin = source()
    version = f" --version {origin.commit}" if origin.url and origin.commit else ""
    commands = [f"mlflow artifacts download --run-id {run.id} --artifact-path config.yaml --dst-path ."]
    if origin.commit and not origin.url:
        commands.append(f"git checkout {origin.commit}    # in a checkout of this project")
    given = "".join(f" -P {shlex.quote(f'{name}={value}')}" for name, value in more.items())
    commands.append(
        f"mlflow run {shlex.quote(origin.project)}{version} --env-manager local -e {entry_point}{given} "
        '-P config="$PWD/config.yaml" -P data.root=/path/to/the/data'
    )
    text = markdown.block("\n".join(commands))
    if origin.changed:
        text += "\n\nThe checkout had changes that are not committed, so the commit alone does not give this run."
    return text
