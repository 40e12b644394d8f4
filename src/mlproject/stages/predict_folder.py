"""`predict` for many cases: each is recorded in a table, so that the same command goes on where it ended."""

import shutil
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from typing import Any

from mlproject import interrupts
from mlproject.data.case import LONGEST_NAME, Case, DataSettings, Fault, FaultsError, is_plain
from mlproject.data.cases import find_cases
from mlproject.data.fetching import fetch
from mlproject.data.storage import folder_of, is_s3
from mlproject.errors import CasesFailedError, DataError, SettingsError
from mlproject.stages.console import console, facts, heading
from mlproject.stages.prediction_files import checked, params_of, refuse_input_as_output
from mlproject.stages.prediction_rows import Job, digest_of
from mlproject.stages.prediction_table import FILE, PredictionTable
from mlproject.stages.progress import display, track
from mlproject.stages.settings import PredictSettings
from mlproject.tracking.answers import Answer, Model
from mlproject.tracking.model_server import ServerGoneError

GONE_IN_A_ROW = 3
"""After so many cases for which the server could not be reached, the others are not tried."""
SHOWN = 20


@dataclass
class Outcome:
    """What became of the cases.

    Attributes:
        done: lesion volume in ml by case.
        failed: what is wrong, by case.
        skipped: how many an earlier command has done.
        left: how many are still to do.
        kept: how many of those that failed have the result of an earlier command.
    """

    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    left: int = 0
    kept: int = 0


def segment(settings: PredictSettings, model: Model, scratch: Path) -> dict[str, Any]:
    """Segment all cases of `settings.data.root` into the folder `settings.output`; `scratch` is a folder to work in.

    Raises:
        CasesFailedError: some cases failed; the others are done.
        SettingsError, DataError: nothing was begun, or the output folder cannot be written.
        Interrupted: what was done is recorded.
    """
    folder = folder_of(settings.output)
    _refuse_output_among_the_cases(settings)
    cases, faults = _find(settings, model.channels)
    jobs, bad_names = _jobs(cases, settings, model)
    names = [name for job in jobs for name in job.names.values()]
    refuse_input_as_output(cases, map(folder.locate, names))
    outcome = Outcome(failed=faults | bad_names)
    heading("predict: segment the cases of a folder")
    facts(
        {
            "model": f"{model.version} ({settings.model})",
            "cases": f"{len(cases) + len(faults)} in {settings.data.root}, channels {', '.join(model.channels)}",
            "output": folder.locate(""),
        }
    )
    with folder.locked():
        table = PredictionTable(folder)
        todo = table.left_to_do(jobs, settings.force)
        outcome.skipped, outcome.left = len(jobs) - len(todo), len(todo)
        if outcome.skipped:
            console.print(f"{outcome.skipped} of {len(jobs)} cases are done already")
        table.begin(todo)
        try:
            for name, fault in outcome.failed.items():
                table.failed(name, fault)
            _segment_all(todo, settings, model, table, outcome, Path(scratch))
            outcome.kept = sum(row["status"] == "kept" for row in table.rows.values())
        except BaseException as error:
            if not interrupts.is_stop(error):
                raise
            raise interrupts.stop_now(
                f"stopped: {outcome.skipped + len(outcome.done)} of {len(jobs)} cases are done, and recorded in "
                f"{folder.locate(FILE)}. The same command goes on with the others"
            ) from error
    return _result(outcome, folder.locate(FILE), settings, model.version)


def _segment_all(
    jobs: Sequence[Job],
    settings: PredictSettings,
    model: Model,
    table: PredictionTable,
    outcome: Outcome,
    scratch: Path,
) -> None:
    """Segment the jobs and enter each into table and outcome, until all are done or the server is gone."""
    params = params_of(settings)

    def ask(job: Job) -> tuple[Job, Path, Answer | Exception, str, float]:
        began, answers, images = time.monotonic(), Path(tempfile.mkdtemp(dir=scratch)), ""
        try:
            images = digest_of(job.case)
            answer: Answer | Exception = model.segment(job.case, params, answers)
        except (DataError, OSError, MemoryError) as error:
            answer = error
        return job, answers, answer, images, time.monotonic() - began

    if jobs:
        model.start()
    gone = 0
    with ThreadPool(settings.parallel) as pool, display("segmenting") as shown:
        for job, answers, answer, images, seconds in pool.imap_unordered(ask, jobs):
            name = job.case.name
            try:
                if isinstance(answer, Exception):
                    raise answer
                if answer.model_id != model.model_id:
                    raise DataError(
                        f"the server changed in the midst: it is {answer.model_version} ({answer.model_id}) now"
                    )
                table.store(job, answer, checked(answer, job.case, job.names, answers), images, seconds)
                outcome.done[name] = answer.lesion_ml
            except (DataError, OSError, MemoryError) as error:
                outcome.failed[name] = " ".join((str(error) or type(error).__name__).split())
                table.failed(name, outcome.failed[name], job)
            shutil.rmtree(answers, ignore_errors=True)
            outcome.left -= 1
            shown.show(1 - outcome.left / len(jobs), f"{len(jobs) - outcome.left} of {len(jobs)} cases")
            gone = gone + 1 if isinstance(answer, ServerGoneError) else 0
            if gone == GONE_IN_A_ROW:
                return


def _find(settings: PredictSettings, channels: tuple[str, ...]) -> tuple[list[Case], dict[str, str]]:
    """The cases, fetched, and by name what is wrong with those not found whole. The model says what it needs."""
    scans = settings.data
    where = DataSettings(scans.layout, scans.root, channels, missing="zero")
    cases, faults = _found(where, settings.cache_path)
    fetch(cases, scans.copies_gb, labelled=False, watch=track)
    return cases, faults


def _found(where: DataSettings, cache: Path) -> tuple[list[Case], dict[str, str]]:
    try:
        return find_cases(where, labelled=False, cache=cache), {}
    except FaultsError as error:
        if not error.sound:
            raise
        faults: dict[str, str] = {}
        for fault in error.faults:
            name, what = (fault.case, fault.text) if isinstance(fault, Fault) else fault.split(": ", 1)
            faults[name] = f"{faults[name]}; {what}" if name in faults else what
        return sorted(error.sound, key=lambda case: case.name), faults


def _jobs(cases: Sequence[Case], settings: PredictSettings, model: Model) -> tuple[list[Job], dict[str, str]]:
    """What is to be made of each case, and by name what is wrong with the names of the others."""
    jobs: list[Job] = []
    faults: dict[str, str] = {}
    taken: set[str] = set()
    for case in cases:
        names = {"mask": f"{case.name}.nii.gz"}
        if settings.naming == "submission":
            if case.no_submission:
                faults[case.name] = f"naming=submission: {case.no_submission}"
                continue
            if not case.submission:
                raise SettingsError(
                    f"naming=submission: data.layout={settings.data.layout} gives cases no names for a challenge "
                    "(isles2017 does); leave naming out"
                )
            names["mask"] = f"{case.submission}.nii"
        if settings.probability:
            names["probability"] = f"{case.name}_probability.nii.gz"
        files = {unicodedata.normalize("NFC", name.casefold()) for name in names.values()}
        if fault := next(filter(None, map(_fault_of_name, names.values())), None):
            faults[case.name] = fault
        elif files & taken:
            faults[case.name] = f"another case has the file name {', '.join(sorted(files & taken))} already"
        else:
            threshold = "tuned" if settings.threshold is None else str(settings.threshold)
            jobs.append(Job(case, names, model.version, model.model_id, threshold, str(settings.crf).lower()))
        taken |= files
    return jobs, faults


def _fault_of_name(name: str) -> str | None:
    """Why a file of this name must not be written."""
    if is_plain(name, LONGEST_NAME):
        return None
    return (
        f"no file is written for a case of this name: {name!r} begins with . or -, holds a slash or a line break, is "
        "no UTF-8 or is too long"
    )


def _refuse_output_among_the_cases(settings: PredictSettings) -> None:
    root, output = _whole(settings.data.root), _whole(settings.output)
    if output.is_relative_to(root) and output.parts[len(root.parts) :][:1] != ("derivatives",):
        raise SettingsError(
            f"output={settings.output} lies in data.root={settings.data.root}: masks among the scans would be taken "
            "for scans; give a folder elsewhere, or one below derivatives/"
        )


def _whole(location: str) -> PurePath:
    return PurePath(f"s3://{location[5:]}") if is_s3(location) else Path(location).expanduser().resolve()


def _result(outcome: Outcome, table: str, settings: PredictSettings, version: str) -> dict[str, Any]:
    """Say what was done, and return it. Raises CasesFailedError where cases failed or are left."""
    empty = sum(volume == 0 for volume in outcome.done.values())
    number = outcome.skipped + len(outcome.done) + len(outcome.failed) + outcome.left
    facts(
        {
            "done": f"{len(outcome.done)} of {number} cases{f', {empty} without a lesion (0 ml)' if empty else ''}",
            "failed": str(len(outcome.failed) or ""),
            "kept": f"{outcome.kept} of them have the mask of an earlier command" if outcome.kept else "",
            "table": table,
        }
    )
    result = {
        "output": settings.output,
        "table": table,
        "model_version": version,
        "cases": number,
        "done": len(outcome.done),
        "done_before": outcome.skipped,
        "failed": outcome.failed,
        "kept": outcome.kept,
        "not_tried": outcome.left,
    }
    if not outcome.failed and not outcome.left:
        return result
    lines = [f"{name}: {fault}" for name, fault in sorted(outcome.failed.items())]
    more = [f"... and {len(lines) - SHOWN} more, in {table}"] if len(lines) > SHOWN else []
    left = f", and {outcome.left} were not tried because the server is gone" if outcome.left else ""
    raise CasesFailedError(
        "\n  ".join(
            [f"{len(lines)} of {number} cases failed{left}. The same command tries them again", *lines[:SHOWN], *more]
        ),
        result,
    )
