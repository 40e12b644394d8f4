"""Settings: from YAML files and the command line to frozen dataclasses, and back to text.

A setting has one dotted name everywhere: YAML, command line, `mlflow run -P`, MLflow parameters.
"""

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from mlproject import credentials
from mlproject.errors import SettingsError

T = TypeVar("T")
Tree = dict[str, Any]


def load(settings: type[T], arguments: Sequence[str], folders: Sequence[Path], stage: str) -> T:
    """Settings of one stage from its command line: `--config FILE` first, then each `--a.b value` over it.

    A relative FILE is looked for in `folders`, in their order. Raises SettingsError for an unknown name
    (with the nearest valid one), one that the stage does not take, a value of the wrong type or with a password in it,
    and whatever the dataclass itself refuses.
    """
    names = dict(leaves(settings))
    arguments = _join_values(arguments, names)
    _refuse_secrets(arguments)
    parser = ArgumentParser(prog=f"src/run.py {stage}", exit_on_error=False)
    parser.add_argument("--config", type=str)
    parser.add_class_arguments(settings)
    given = [argument[2:].split("=")[0] for argument in arguments]
    _refuse_unknown([name for name in given if name != "config"], names, "on the command line")
    _refuse_untaken(given, names, settings, stage)
    if given.count("config") > 1:
        raise SettingsError("--config is given twice: put the settings of one file into the other, and give that one")
    try:
        file = parser.parse_args([a for a in arguments if re.match(r"--config(=|$)", a)]).config
        if file:
            path = _existing(file, folders)
            from_file = _as_arguments(_read_yaml(path), names, path)
            _refuse_secrets(from_file, f" ({path})")
            arguments = [*from_file, *arguments]
        parsed = parser.parse_args(arguments)
        parsed.pop("config")
        return settings(**vars(parser.instantiate(parsed)))
    except (ArgumentError, TypeError, ValueError) as error:
        raise SettingsError(_one_line(error)) from error


def read(file: str, folders: Sequence[Path]) -> Tree:
    """Dotted name and value of what a YAML file holds; a relative one is looked for in `folders`, in their order."""
    return flatten(_read_yaml(_existing(file, folders)))


def from_tree(settings: type[T], tree: Mapping[str, Any], source: str) -> T:
    """Settings from nested dictionaries, as `to_tree` makes them; `source` says in an error where they stood."""
    names = dict(leaves(settings))
    arguments = _as_arguments(tree, names, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings)
    try:
        return settings(**vars(parser.instantiate(parser.parse_args(arguments))))
    except (ArgumentError, TypeError, ValueError) as error:
        raise SettingsError(f"{source}: {_one_line(error)}") from error


def to_tree(settings: Any) -> Tree:
    """The settings as nested dictionaries of plain YAML and JSON values."""
    return typing.cast(Tree, json.loads(json.dumps(dataclasses.asdict(settings), default=str)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, from dotted name to value. Raises SettingsError where two have the same name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        below = flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
        if repeated := flat.keys() & below.keys():
            raise SettingsError(f"{min(repeated)} is given twice: by its dotted name, and below its group")
        flat |= below
    return flat


def dump(settings: Any) -> str:
    """The settings as YAML, ready for `--config`."""
    return as_yaml(to_tree(settings))


def as_yaml(tree: Mapping[str, Any]) -> str:
    """Nested dictionaries as YAML."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def taken(settings: Any) -> Tree:
    """The same as `to_tree`, without what the stage with these settings does not take (`is_taken`)."""
    tree: Tree = {}
    for name, value in flatten(to_tree(settings)).items():
        if is_taken(type(settings), name):
            *groups, last = name.split(".")
            group = tree
            for title in groups:
                group = group.setdefault(title, {})
            group[last] = value
    return tree


def is_taken(settings: type, name: str) -> bool:
    """Whether the command line of a stage with these settings may give the one of this name.

    A class that shares its YAML files with others names in TAKES the few settings that its stage uses, a group with
    a dot at its end, and in FIXED_BY what decides on the rest.
    """
    return name.startswith(getattr(settings, "TAKES", ""))


def leaves(settings: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting of a dataclass."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(typing.cast(Any, settings)):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name]


def _refuse_unknown(given: Sequence[str], names: Mapping[str, Any], where: str) -> None:
    dictionaries = tuple(f"{n}." for n, kind in names.items() if typing.get_origin(kind) is dict)
    for name in given:
        if name in names or name.startswith(dictionaries or "\0"):
            continue
        if name == "config":
            raise SettingsError(f"config stands {where}: a file cannot name another; put all settings into one file")
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        last = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
        advice = f"did you mean {(near or last)[0]!r}?" if near or last else f"valid names: {', '.join(names)}"
        raise SettingsError(f"no setting is called {name!r} ({where}): {advice}")


def _refuse_secrets(arguments: Sequence[str], where: str = "") -> None:
    """Before anything else is said of a value: messages repeat it."""
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        credentials.refuse(f"{name}{where}", value)


def _refuse_untaken(given: Sequence[str], names: Mapping[str, Any], settings: type, stage: str) -> None:
    if untaken := [name for name in given if name in names and not is_taken(settings, name)]:
        raise SettingsError(
            f"{stage} does not take {', '.join(untaken)}: {settings.FIXED_BY} fixes what `{stage} --help` "  # type: ignore[attr-defined]
            "does not list"
        )


def _join_values(arguments: Sequence[str], names: Mapping[str, Any]) -> list[str]:
    """`--a -1e-3` as `--a=-1e-3`: argparse takes a value that begins with a dash for an option.

    An option without a value is true, where its type in `names` is a truth value.
    """
    joined: list[str] = []
    for argument in arguments:
        previous = joined[-1] if joined else ""
        if argument.startswith("--") and len(argument) > 2:
            joined.append(argument)
        elif previous.startswith("--") and "=" not in previous:
            joined[-1] = f"{previous}={argument}"
        else:
            raise SettingsError(f"{argument!r} is not a setting: write --NAME VALUE, for instance --data.root /data")
    return [f"{option}=true" if _is_truth_value(names.get(option[2:])) else option for option in joined]


def _is_truth_value(kind: Any) -> bool:
    return kind is bool or bool in typing.get_args(kind)


def _existing(file: str, folders: Sequence[Path]) -> Path:
    tried = [folder / Path(file).expanduser() for folder in folders]
    for path in tried:
        if path.is_file():
            return path
    raise SettingsError(f"no configuration file {file!r}; looked for {' and '.join(map(str, tried))}")


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice; PyYAML itself takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1} gives {key.value} a second time")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} must hold settings as 'name: value' lines")
    return tree


def _as_arguments(tree: Mapping[str, Any], names: Mapping[str, Any], where: Path | str) -> list[str]:
    flat = flatten(tree)
    _refuse_unknown([n for n, value in flat.items() if value != {}], names, f"in {where}")
    return [f"--{n}={_as_text(n, value, where)}" for n, value in flat.items() if value != {}]


def _as_text(name: str, value: Any, where: Path | str) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except TypeError as error:  # a date, a set, bytes
        raise SettingsError(f"{name} in {where} is {value}, which no setting can be: put a text in quotes") from error


def _one_line(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    text = re.sub(r'^Parser key "([^"]+)": ', r"\1: ", text)
    text = re.sub(r"Expected an? (.+)\. Got value: (.*)$", r"expected \1, got \2", text)
    text = re.sub(r"Does not validate .* Subtypes: \[(.+?)\] .* Given value: (.*)$", r"expected \1, got \2", text)
    text = text.replace(", NoneType, got", " or null, got")
    return text.replace("typing.", "").replace("<class '", "").replace("'>", "")
