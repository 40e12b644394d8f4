"""What --help prints: the stages, and each setting of a stage with its type, default, unit and meaning."""

import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from mlproject import config

OPTIONS = {
    "--help": "this text; after a stage, its settings",
    "--json": "print one JSON document (stage, status, error, results, help) and nothing else",
    "--debug": "show tracebacks and debug messages",
    "--print_config": "print the settings that would be used, as YAML, and stop",
}
EXAMPLES = (
    "python src/run.py main --config conf/demo.yaml",
    "python src/run.py main --config conf/isles2022.yaml --data.root /data/ISLES-2022 --training.minutes 60 "
    "--training.steps null",
    "python src/run.py predict --model models:/stroke-lesion@champion --images.dwi dwi.nii.gz --images.adc "
    "adc.nii.gz --output mask.nii.gz",
)
VARIABLES = {
    "MLFLOW_TRACKING_URI": "the MLflow server, or sqlite:///FILE; without it mlflow.db in this folder",
    "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD": "for a server that asks for them",
    "MLFLOW_TRACKING_TOKEN": "for a server behind a proxy that takes a token",
    "STROKE_LESION_STUDY_DATABASE": "the database that the workers of a search share",
    "STROKE_LESION_DEVICE": "where a served model runs: cpu, cuda, cuda:1",
    "STROKE_LESION_MAX_...": "what a request may ask of a served model: docs/serving.md",
    "CUDA_VISIBLE_DEVICES": "the GPUs that may be used",
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL": "for files in an S3 bucket",
    "NO_COLOR": "no colours",
}
EXIT_CODES = {
    "0": "done",
    "1": "failed on the way, or some of many cases failed",
    "2": "refused: settings, data, model or server, with what to do",
    "3": "done here, but the MLflow server is gone: what it has not got waits in work_dir, for `sync`",
    "128 + n": "stopped by signal n: 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1; training has left a checkpoint",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting, as a reader wants to see it.

    Attributes:
        name: dotted name.
        kind: its type in words.
        default: as in YAML.
        meaning: what its class's docstring says of it.
    """

    name: str
    kind: str
    default: str
    meaning: str


def show_overview(stages: Mapping[str, str]) -> None:
    """Print the stages (name → what it does), options, examples, environment variables and exit codes."""
    page = _Page()
    page.line("usage: python src/run.py STAGE [--config FILE] [--a.b VALUE ...]")
    page.list("Stages", stages)
    page.list("Options of all stages", OPTIONS)
    page.title("Examples")
    for example in EXAMPLES:
        page.line(example, indent=2, hanging=6, ends=" \\")
    page.list("Environment variables", VARIABLES)
    page.list("Exit codes", EXIT_CODES)
    page.line()
    page.line("`python src/run.py STAGE --help` lists every setting of a stage.")
    page.line("`mlflow run . -e STAGE -P a.b=VALUE` takes the same names.")


def show_stage(stage: str, what: str, settings: type) -> None:
    """Print what a stage does, and all its settings by group; its own before those that all experiments have."""
    page = _Page()
    page.line(f"usage: python src/run.py {stage} [--config FILE] [--a.b VALUE ...]")
    page.line()
    page.line(f"{stage}: {what}.")
    page.line(_summary(settings))
    page.line()
    page.line(
        "--config FILE: a YAML file with settings; what is given on the command line goes before it. "
        "true and false settings given without a value are true; null is no value."
    )
    groups = list(_groups_taken(settings))
    inherited = {field.name for base in settings.__bases__ if dataclasses.is_dataclass(base)
                 for field in dataclasses.fields(base)}  # fmt: skip
    for title, meaning, members in sorted(groups, key=lambda group: group[0].partition(".")[0] in inherited):
        page.title(title)
        if meaning:
            page.line(meaning)
        for setting in members:
            page.setting(setting)
    page.list("Options of all stages", OPTIONS)


def settings_of(settings: type) -> Iterator[Setting]:
    """Every setting of a stage."""
    for _, _, members in _groups_taken(settings):
        yield from members


def _groups_taken(settings: type) -> Iterator[tuple[str, str, list[Setting]]]:
    """The groups, without what the stage does not take."""
    for title, meaning, members in _groups(settings):
        if taken := [setting for setting in members if config.is_taken(settings, setting.name)]:
            yield title, meaning, taken


def _groups(settings: type, prefix: str = "") -> Iterator[tuple[str, str, list[Setting]]]:
    """Title, meaning and members of each group of settings: those on the first level first."""
    meanings, kinds = _meanings(settings), typing.get_type_hints(settings)
    members, below = [], []
    for field in dataclasses.fields(typing.cast(Any, settings)):
        name, kind = f"{prefix}{field.name}", kinds[field.name]
        if dataclasses.is_dataclass(kind):
            below.append((f"{name}.", typing.cast(type, kind)))
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        members.append(Setting(name, _kind(kind), _default(default), meanings.get(field.name, "")))
        element = next((k for k in typing.get_args(kind) if dataclasses.is_dataclass(k)), None)
        if element is not None:
            below.append((f"{name}[].", typing.cast(type, element)))
    if members:
        yield prefix.rstrip(".") or "General", _summary(settings) if prefix else "", members
    for name, kind in below:
        yield from _groups(kind, name)


def _meanings(settings: type) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of each attribute, on one line each."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        _, _, attributes = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
        for entry in re.split(r"^    (?=\w)", attributes, flags=re.MULTILINE)[1:]:
            names, _, meaning = entry.partition(":")
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def _summary(settings: type) -> str:
    return " ".join((inspect.getdoc(settings) or "").partition("\nAttributes:\n")[0].split())


def _kind(kind: Any) -> str:
    """A type in words: `int or null`, `a|b`, `[float, float, float]`, `[text, ...]`."""
    names = {bool: "true|false", str: "text", types.NoneType: "null", Any: "any value"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "|".join(map(str, inner))
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return " or ".join(map(_kind, inner))
    if origin is tuple:
        return f"[{', '.join('...' if entry is Ellipsis else _kind(entry) for entry in inner)}]"
    if origin is dict:
        return "a text for each name"
    if dataclasses.is_dataclass(kind):
        return f"{{{', '.join(field.name for field in dataclasses.fields(kind))}}}"
    return names.get(kind) or str(kind.__name__)


def _default(value: Any) -> str:
    return "" if value == "" or value == {} else json.dumps(value, default=str).replace('"', "")


class _Page:
    """Text for the terminal's width, or 80 columns where there is none."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.width = min(self.console.width, 110)

    def line(self, text: str = "", indent: int = 0, hanging: int | None = None, ends: str = "") -> None:
        """Text from column `indent`, its further lines from `hanging`; all but the last one end in `ends`."""
        further = " " * (indent if hanging is None else hanging)
        lines = textwrap.wrap(
            text, self.width - len(ends), initial_indent=" " * indent, subsequent_indent=further,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        self.console.print(f"{ends}\n".join(lines))

    def title(self, text: str) -> None:
        """A heading below an empty line."""
        self.console.print(f"\n{text}", style="bold")

    def list(self, title: str, entries: Mapping[str, str]) -> None:
        """Names with their meanings in a second column; a long name has its line to itself."""
        self.title(title)
        column = max(len(name) for name in entries if len(name) <= 30) + 4
        for name, meaning in entries.items():
            first = f"  {name}"
            if len(first) > column - 2:
                self.console.print(first)
                first = ""
            text = textwrap.wrap(meaning, self.width - column)
            self.console.print(f"{first:<{column}}" + f"\n{'':{column}}".join(text))

    def setting(self, setting: Setting) -> None:
        """A setting: name, type and default, and its meaning below."""
        name = setting.name if "[]" in setting.name else f"--{setting.name}"
        default = f"   default: {setting.default}" if setting.default else ""
        fits = len(f"  {name}  {setting.kind}{default}") <= self.width
        kind = f"  {setting.kind}" if fits else ""
        self.console.print(Text.assemble("  ", (name, "bold"), kind, (default, "dim")))
        if not fits:
            self.line(setting.kind.replace("|", "| "), indent=6)
        self.line(setting.meaning, indent=6)
