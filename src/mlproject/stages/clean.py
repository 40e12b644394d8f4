"""`clean`: what work_dir holds, which of it no run needs any more, and its removal."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
from mlflow.exceptions import MlflowException

from mlproject.errors import CasesFailedError, DataError, TrackingError
from mlproject.stages.clean_rules import Item, RunState, find_items
from mlproject.stages.console import complain, console, facts, heading, new_table
from mlproject.stages.settings import CleanSettings
from mlproject.tracking.runs import STAGE_TAG
from mlproject.tracking.server import connect, public_uri

SQLITE = "sqlite:///"
GROUPED = (
    "prepared case",
    "copy from a bucket",
    "probability",
    "settings of a run",
)  # hundreds of them: one line for all that share a fate


def run(settings: CleanSettings) -> dict[str, Any]:
    """The entry point `clean`. Raises CasesFailedError where something could not be removed."""
    folder = settings.work_path
    if not folder.is_dir():
        raise DataError(f"work_dir={folder} is no folder: there is nothing to clean, or work_dir is another one")
    heading("clean: what no run needs any more")
    refusal = _refusal_of_server()
    facts({"work_dir": str(folder), "tracking": public_uri()})
    if refusal and (folder / "runs").is_dir():
        complain("warning", f"{refusal}. What belongs to runs is left as it is; what they share goes by its age")
    if refusal:
        items = find_items(folder, settings.older_than_days, state_of=lambda _: None)
    else:
        items = find_items(folder, settings.older_than_days, state_of, _running(folder))
    _show(items)
    unneeded = [item for item in items if not item.needed]
    result: dict[str, Any] = {
        "work_dir": str(folder),
        "bytes": sum(item.size for item in items),
        "unneeded_bytes": sum(item.size for item in unneeded),
        "items": [item.to_dict() for item in items],
        "removed": [],
    }
    if not unneeded:
        console.print("\nnothing to remove")
        return result
    total = _size(result["unneeded_bytes"])
    if not settings.remove:
        console.print(
            f"\n{total} can be removed: the same command with --remove, which prints each path before it goes"
        )
        return result
    console.print()
    done, failed = _remove(unneeded, result["removed"])
    console.print(f"removed: {_size(sum(item.size for item in done))} of {total}")
    if failed:
        raise CasesFailedError(f"{len(failed)} of {len(unneeded)} could not be removed: {'; '.join(failed)}", result)
    return result


def state_of(run_id: str) -> RunState | None:
    """What the tracking server says of a run; None where it does not know it."""
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return RunState(
        stage=run.data.tags.get(STAGE_TAG, ""),
        status=run.info.status,
        has_model=bool(run.outputs and run.outputs.model_outputs),
        deleted=run.info.lifecycle_stage != "active",
    )


def _running(folder: Path) -> list[str]:
    """Ids of the runs that are at work with this work_dir, here or on another machine, where it may be called else."""
    with_folder = {path.name for path in (folder / "runs").glob("*")}
    found = mlflow.search_runs(
        filter_string="attributes.status = 'RUNNING'", search_all_experiments=True, output_format="list"
    )
    return [
        run.info.run_id
        for run in found
        if run.info.run_id in with_folder or run.data.params.get("cfg.work_dir") == str(folder)
    ]


def _refusal_of_server() -> str:
    """Why the tracking server cannot be asked; empty where it can. A database that is missing is not made."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return f"there is no {public_uri()}: set MLFLOW_TRACKING_URI to the server that knows the runs"
    try:
        connect()
    except TrackingError as error:
        return str(error)
    return ""


def _show(items: Sequence[Item]) -> None:
    table = new_table("size", "used", "what", "needed", "why")
    for column, justify in enumerate(("right", "right", "left", "left", "left")):
        table.columns[column].justify = justify  # type: ignore[assignment]
    for entry in _grouped(items):
        table.add_row(*entry)
    console.print()
    console.print(table)
    console.print(f"\n{_size(sum(item.size for item in items))} in all")


def _grouped(items: Sequence[Item]) -> list[tuple[str, str, str, str, str]]:
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        alone = () if item.kind in GROUPED else (str(item.path),)
        groups.setdefault((item.kind, str(item.needed), item.reason, *alone), []).append(item)
    rows = []
    for group in groups.values():
        first = group[0]
        what = f"{len(group)} x {first.kind}" if first.kind in GROUPED else f"{first.kind} {first.name}"
        days = min(item.days_unused for item in group)
        used = "today" if days < 1 else f"{days:.0f} d ago"
        rows.append((_size(sum(i.size for i in group)), used, what, "yes" if first.needed else "no", first.reason))
    return rows


def _remove(items: Sequence[Item], removed: list[str]) -> tuple[list[Item], list[str]]:
    """Remove what these items name, a folder in one step, each path printed before; `removed` gets those that are gone.

    Returns the items that are gone, and what failed, with the reason.
    """
    done, failed = [], []
    for item in items:
        try:
            for path in item.paths:
                console.print(f"removing {path}")  # before: what is stopped in the midst is named, too
                if path.is_dir():
                    unwanted = path.with_name(f".{path.name}.{uuid4().hex}")
                    path.rename(unwanted)  # no other process sees half of it
                    shutil.rmtree(unwanted)
                else:
                    path.unlink(missing_ok=True)
                removed.append(str(path))
        except OSError as error:
            failed.append(f"{error.filename}: {error.strerror}")
        else:
            done.append(item)
    return done, failed


def _size(number: float) -> str:
    power = min(int(math.log(max(number, 1), 1000)), 4)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
