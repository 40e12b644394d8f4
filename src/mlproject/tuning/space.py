"""The search space of the outer search: which settings a trial varies, and between which values."""

import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from mlproject.errors import SettingsError

Values = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """One setting that a search varies: a range (low and high), or choices.

    Attributes:
        name: dotted name of the setting, such as training.learning_rate.
        low: smallest value; whole numbers are proposed where the setting is one.
        high: largest value.
        log: propose evenly on the logarithm of the value.
        step: distance of the values proposed, counted from low; any value if null.
        choices: the values to choose from, in place of a range; any value that the setting takes.
        complement: another setting, which gets 1 - the value: loss.dice and loss.cross_entropy share a weight of 1.
    """

    name: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] | None = None
    complement: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingsError("a dimension of the search space has no name: give the dotted name of a setting")
        where = f"search space, {self.name}"
        if self.choices is not None:
            if (
                len(self.choices) < 2
                or not all(value is None for value in (self.low, self.high, self.step))
                or self.log
            ):
                raise SettingsError(f"{where}: choices need two values or more, and no low, high, log or step")
            if self.complement:
                raise SettingsError(f"{where}: complement needs a range from low to high, not choices")
            return
        if self.low is None or self.high is None or not -math.inf < self.low < self.high < math.inf:
            raise SettingsError(f"{where}: low={self.low} and high={self.high}: give low below high, or choices")
        if self.log and (self.low <= 0 or self.step is not None):
            raise SettingsError(f"{where}: log=true needs low above 0 (it is {self.low}) and no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise SettingsError(f"{where}: step={self.step} must be above 0 and at most high - low")

    def ends(self, kinds: Mapping[str, Any]) -> Sequence[Any]:
        """The values that must be possible for the dimension to be: both ends, or every choice."""
        if self.choices is not None:
            return self.choices
        whole = _number(kinds[self.name]) is int
        return [int(end) if whole else end for end in (self.low, self.high) if end is not None]

    def suggest(self, trial: BaseTrial, whole: bool) -> Any:
        """The trial's value; `whole`: a whole number."""
        if self.choices is not None:
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(value) for value in self.choices]))
        assert self.low is not None and self.high is not None
        if whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def settings(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Names and values of the settings that `value` decides."""
        yield self.name, value
        if self.complement:
            yield self.complement, 1 - value


def check_space(space: Sequence[Dimension], kinds: Mapping[str, Any], fixed: Sequence[str]) -> None:
    """Refuse a search space that does not fit the settings.

    Args:
        space: what a trial varies.
        kinds: dotted name → type of every setting (`config.leaves`).
        fixed: settings whose names begin with one of these cannot be varied.

    Raises:
        SettingsError: a setting is unknown, fixed or varied twice, or a range is not of its type.
    """
    if not space:
        raise SettingsError(
            "the search space is empty: name at least one setting, for instance "
            "search.space=[{name: training.learning_rate, low: 1.0e-4, high: 1.0e-2, log: true}]"
        )
    names = [name for dimension in space for name in (dimension.name, dimension.complement) if name]
    for name in names:
        if name not in kinds:
            raise SettingsError(f"search space: no setting is called {name!r}; `search --help` lists them all")
        if name.startswith(tuple(fixed)):
            raise SettingsError(f"search space: {name} cannot be varied: trials would not be comparable, or not run")
        if names.count(name) > 1:
            raise SettingsError(f"search space: {name} is decided twice")
    for dimension in space:
        numbers = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
        kind = _number(kinds[dimension.name])
        if dimension.choices is None and kind is None:
            raise SettingsError(f"search space: {dimension.name} is not a number: give choices, not low and high")
        if kind is int and any(value != int(value) for value in numbers):
            raise SettingsError(f"search space: {dimension.name} is a whole number, got {numbers}")
        if dimension.complement and _number(kinds[dimension.complement]) is not float:
            raise SettingsError(f"search space: complement={dimension.complement} is not a real number")


def suggest(trial: BaseTrial, space: Sequence[Dimension], kinds: Mapping[str, Any]) -> Values:
    """The settings of one trial, a finished one too: dotted name → value."""
    values = [(dimension, dimension.suggest(trial, _number(kinds[dimension.name]) is int)) for dimension in space]
    return {name: setting for dimension, value in values for name, setting in dimension.settings(value)}


def put(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with the values put in under their dotted names."""
    changed: dict[str, Any] = json.loads(json.dumps(tree))
    for name, value in values.items():
        *groups, last = name.split(".")
        branch = changed
        for group in groups:
            branch = branch[group]
        branch[last] = value
    return changed


def _number(kind: Any) -> type | None:
    """The type of a number, int or float, where a setting has one (null allowed or not), else None."""
    options = set(typing.get_args(kind)) if isinstance(kind, types.UnionType) else {kind}
    found = options - {types.NoneType}
    return found.pop() if found in ({int}, {float}) else None
