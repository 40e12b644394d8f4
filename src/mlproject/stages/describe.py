"""`describe`: what a data set holds before training, and a configuration that fits it and this machine."""

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlproject.data.case import DataSettings
from mlproject.data.fetching import fetch
from mlproject.data.survey import Found, describe_cases, find
from mlproject.errors import CasesFailedError, DataError, SettingsError
from mlproject.stages.commands import plain_command
from mlproject.stages.console import console, facts, heading
from mlproject.stages.describe_summary import summarise, usable
from mlproject.stages.describe_tables import show
from mlproject.stages.progress import track
from mlproject.stages.proposal import Proposal, propose
from mlproject.stages.settings import DescribeSettings

SHOWN_ABOVE = ("data.layout", "data.root", "data.channels")


def run(settings: DescribeSettings) -> dict[str, Any]:
    """The entry point `describe`. Returns all that was found, and the proposed configuration.

    Raises:
        SettingsError: the file to write exists already.
        DataError: no case is found.
        NoUsableCaseError: none of them can be used for training.
    """
    if settings.output and Path(settings.output).expanduser().exists():
        raise SettingsError(f"output={settings.output} exists already: give another name, or take it away")
    given = settings.data
    chosen = {name: value for name in ("layout", "channels") if (value := getattr(given, name)) is not None}
    data = DataSettings(
        root=given.root, copies_gb=given.copies_gb, lesion_labels=given.lesion_labels, label_name=given.label_name
    )
    heading("describe: what a data set holds")
    found = find(replace(data, **chosen), "layout" in chosen, "channels" in chosen, settings.cache_path)
    fetch(found.cases, given.copies_gb, watch=track)
    cases = list(track("reading cases", describe_cases(found.cases, settings.processes), len(found.cases)))
    summary = summarise(found, cases)
    show(summary)
    if not usable(cases):
        raise NoUsableCaseError(_no_usable_case(summary), summary)
    proposal = propose(found, cases, settings.gpu_memory_gb)
    file = _write(proposal, _output(settings, found))
    _show_proposal(proposal, file)
    return {**summary, "configuration": proposal.tree, "configuration_file": str(file)}


class NoUsableCaseError(CasesFailedError):
    """Nothing to train on; `result` says what was found all the same."""

    exit_code = DataError.exit_code


def _no_usable_case(summary: dict[str, Any]) -> str:
    if summary["cases"] and not summary["labelled"]:
        return f"{summary['root']}: no case has a label: a model can be used on these cases, but not be trained on them"
    return f"{summary['root']}: no case can be used for training: mend the faults, {len(summary['faults'])} in all"


def _output(settings: DescribeSettings, found: Found) -> Path:
    """The file to write: the one given, else one named after the data set that does not exist."""
    if settings.output:
        return Path(settings.output).expanduser().absolute()
    name = found.data.name.removesuffix(".csv") or "data"
    candidates = (Path.cwd() / f"{name}{number}.yaml" for number in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(path for path in candidates if not path.exists())


def _write(proposal: Proposal, file: Path) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(proposal.yaml)
    except OSError as error:
        raise SettingsError(f"output={file}: cannot be written ({error.strerror}): give another output") from error
    return file


def _show_proposal(proposal: Proposal, file: Path) -> None:
    heading("Proposed configuration")
    for choice in proposal.choices:
        if choice.name not in SHOWN_ABOVE:
            console.print(f"{choice.name}: {choice.text}")
            _print_wrapped(choice.reason, "    ")
    for warning in proposal.warnings:
        _print_wrapped(f"Note: {warning}.", "")
    console.print()
    facts({"written": str(file), "next": plain_command("main", config=str(file))})


def _print_wrapped(text: str, indent: str) -> None:
    console.print(textwrap.fill(text, min(console.width, 100), initial_indent=indent, subsequent_indent=indent))
