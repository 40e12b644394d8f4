"""A study as people read it: the words for its states and values, and a copy of it that Optuna's plots show well."""

import json
import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mlproject.tuning.study_trials import STATES


def name_of_value(study: optuna.Study) -> str:
    """What the study's value is called: its metric name, if it has one."""
    return study.metric_names[0] if study.metric_names else "value"


class _Unquoted(str):
    """A text that Optuna's slice plot, which shows the repr of a choice, shows without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def readable(value: Any) -> str:
    """A parameter's value as in YAML, a number with four digits. A text may be JSON, as the choices of a space are."""
    if isinstance(value, str):
        return value.strip('"')
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def readable_copy(study: optuna.Study, spell: Callable[[str], str]) -> optuna.Study:
    """The study in memory, with `spell` applied to the names and choices of parameters.

    Optuna's plot of intermediate values leaves failed trials out: so here they are pruned, which no other
    plot shows, and each trial's own state is in its user attribute `state`.
    """

    def choice(value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else _Unquoted(spell(readable(value)))

    def distribution(original: BaseDistribution) -> BaseDistribution:
        if isinstance(original, CategoricalDistribution):
            return CategoricalDistribution([choice(value) for value in original.choices])
        return original

    copy = optuna.create_study(direction=study.direction)
    for trial in study.get_trials(deepcopy=False):
        distributions = {name: distribution(original) for name, original in trial.distributions.items()}
        params = {
            name: choice(value) if isinstance(distributions[name], CategoricalDistribution) else value
            for name, value in trial.params.items()
        }
        copy.add_trial(
            create_trial(
                state=TrialState.PRUNED if trial.state == TrialState.FAIL else trial.state,
                value=trial.value if trial.state == TrialState.COMPLETE else None,
                params={spell(name): value for name, value in params.items()},
                distributions={spell(name): value for name, value in distributions.items()},
                user_attrs={"state": STATES[trial.state]},
                intermediate_values=trial.intermediate_values,
            )
        )
    return copy


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that Optuna's plots of values show."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]


def parameters(study: optuna.Study) -> list[str]:
    """The names of the finished trials' parameters, in the order of Optuna's plots."""
    return sorted({name for trial in finished_trials(study) for name in trial.params})


def reporting_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials in Optuna's plot of intermediate values, in its order."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.intermediate_values and trial.state != TrialState.WAITING]
