"""`reproduce`: the paper's claims as experiments; one study is one MLflow run with a child for each training."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mlproject.data.storage import LocalFolder
from mlproject.errors import Interrupted
from mlproject.stages import train
from mlproject.stages.annotation import annotate, reproduction
from mlproject.stages.console import console, facts, heading
from mlproject.stages.paper import crf, loss, network, workers
from mlproject.stages.paper.finding import Finding, minutes, page
from mlproject.stages.paper.laboratory import Effort, Laboratory, experiment_of
from mlproject.stages.plan import device, show_plan, show_run
from mlproject.stages.settings import ReproduceSettings
from mlproject.stages.sync import deliver_what_waits
from mlproject.tracking import markdown, runs
from mlproject.tracking.run import Run
from mlproject.tracking.server import connect
from mlproject.tracking.source import source

EXAMINERS: dict[str, Callable[[Laboratory], tuple[Finding, Figure, pd.DataFrame]]] = {
    "network": network.examine,
    "loss": loss.examine,
    "crf": crf.examine,
    "workers": workers.examine,
}
STAGE, FOLDER, TITLE = "reproduce", "claims", "The paper's claims, run as experiments"
ANOTHER = "give another name as reproduce.study"
MAY_CHANGE = (
    *(name for name in train.MAY_CHANGE if name not in ("training.devices", "training.threads", "crf_search", "crf.")),
    "reproduce.parts",
    "reproduce.document",
    "reproduce.about",
)


def run(settings: ReproduceSettings) -> dict[str, Any]:
    """The entry point `reproduce`: begin a study, or go on with the one of that name; what is done stays."""
    settings = settings.resolved()
    connect()
    deliver_what_waits(settings.spool_path)
    plan = settings.reproduce
    show_plan(STAGE, "the paper's claims", settings, study=f"{plan.study}, parts {', '.join(plan.parts)}")
    for file in (plan.paper, plan.platform):
        experiment_of(settings.alone(), file)  # what is wrong in it is said before a study is begun
    dataset = train.prepare(settings)
    known = runs.newest(settings.tracking, STAGE, study=plan.study)
    if known:
        runs.refuse_other_settings(known, settings, MAY_CHANGE, ANOTHER)
        runs.refuse_other_data(known, dataset.digest, ANOTHER)
    name, run_id = f"{STAGE} {plan.study}", runs.given_run_id(known)
    with (
        LocalFolder(settings.work_path / "studies" / plan.study).locked(),
        runs.open_run(settings.tracking, name, STAGE, run_id=run_id, spools=settings.spool_path) as parent,
        _saying_how_to_go_on(plan.study),
    ):
        parent.tag(study=plan.study, mlflow__runName=name)
        show_run(parent)
        train.begin(settings, dataset, parent)
        again = reproduction(parent, STAGE, settings.data, **{"reproduce.study": "NEW_NAME"})
        annotate(parent, STAGE, settings, dataset, again)
        laboratory = Laboratory(settings, dataset, parent)
        for part in plan.parts:
            if _finding(laboratory, part) is None:
                heading(f"Claim: {part}")
                _keep(parent, *_examined(laboratory, part))
        parent.flush(settings.tracking.wait_s)
        findings = [finding for part in EXAMINERS if (finding := _finding(laboratory, part))]
        written = _write(settings, laboratory, findings, again)
        overview = markdown.table(("Claim", "What came of it"), [(f.claim, f.verdict) for f in findings])
        annotate(parent, STAGE, settings, dataset, again, overview)
    for finding in findings:
        heading(finding.claim)
        console.print(finding.verdict)
    console.print()
    facts({"page": written})
    return {"run_id": parent.id, "page": written, "verdicts": {finding.part: finding.verdict for finding in findings}}


def _examined(laboratory: Laboratory, part: str) -> tuple[Finding, Figure, pd.DataFrame]:
    """What came of a claim, and what that took."""
    laboratory.effort = Effort()
    finding, figure, table = EXAMINERS[part](laboratory)
    effort = laboratory.effort
    commits = [*(training.commit for training in effort.trainings.values()), source().commit]
    whole = replace(
        finding,
        key=laboratory.key,
        trainings={run_id: training.minutes for run_id, training in effort.trainings.items()},
        measuring=effort.minutes_beside,
        commits=tuple(dict.fromkeys(commit for commit in commits if commit)),
    )
    return whole, figure, table


def _keep(parent: Run, finding: Finding, figure: Figure, table: pd.DataFrame) -> None:
    """Log a claim's figure and table, and last its finding, by which it counts as examined."""
    parent.log_figure(figure, f"{FOLDER}/{finding.part}.png")
    parent.log_table(table, f"{FOLDER}/{finding.part}.csv")
    parent.log_text(finding.to_json(), f"{FOLDER}/{finding.part}.json")


def _finding(laboratory: Laboratory, part: str) -> Finding | None:
    """What came of a claim; None where it was not examined yet, or with other settings in the two files."""
    text = runs.read_text(laboratory.parent.id, f"{FOLDER}/{part}.json")
    return Finding.from_json(text, laboratory.key) if text else None


def _write(settings: ReproduceSettings, laboratory: Laboratory, findings: Sequence[Finding], again: str) -> str:
    """Log the page of the study, write it to `reproduce.document`, and say where it is."""
    data, split = settings.data, laboratory.dataset.split
    cases = f"{len(split.train)} cases to train, {len(split.validation)} to validate, {len(split.test)} to test"
    study = [
        ("data", f"{markdown.escape(data.name)}: {cases}; digest {markdown.code(laboratory.dataset.digest)}"),
        ("channels", markdown.escape(", ".join(data.channels))),
        ("device", markdown.escape(device(settings.training))),
        ("seeds of claims 2 and 4", ", ".join(map(str, settings.reproduce.seeds))),
        ("MLflow run", markdown.code(laboratory.parent.id)),
        ("time", f"{minutes(findings):.0f} minutes in all"),
    ]
    head = (TITLE, settings.reproduce.about, study, again, findings)
    laboratory.parent.log_text(page(*head, "."), f"{FOLDER}/paper.md")
    if not settings.reproduce.document:
        return f"{FOLDER}/paper.md among the artifacts of run {laboratory.parent.id}"
    file = Path(settings.reproduce.document).expanduser().absolute()
    folder = file.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for finding in findings:
            figure = runs.download(laboratory.parent.id, f"{FOLDER}/{finding.part}.png", Path(scratch))
            assert figure is not None  # logged before the finding
            shutil.copy(figure, folder)
    file.write_text(page(*head, folder.name))
    return str(file)


@contextmanager
def _saying_how_to_go_on(study: str) -> Iterator[None]:
    """Within: being interrupted ends in a text that says what becomes of the study."""
    try:
        yield
    except Interrupted as error:
        text = f"the study was stopped ({error}); the same command goes on with the study {study!r}"
        raise Interrupted(text, error.exit_code - 128) from None
