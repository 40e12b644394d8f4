"""What all trials of a shared study have in common: stored with it, and compared by whoever joins."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from mlproject.errors import SettingsError

_ABSENT = "absent"


def create_or_join(study: optuna.Study, identity: Mapping[str, Any], new_run: Callable[[], str]) -> bool:
    """Whether the study is new; then its `parent` (from `new_run`) and identity are stored. One process at a time.

    Args:
        study: Optuna's, just created or loaded.
        identity: Nested plain values of all that a trial's value depends on.
        new_run: Called where the study is new; gives its parent's run id.

    Raises:
        SettingsError: The study has another identity, or is not of this program's making.
    """
    now = _flat(identity)
    if "identity" in study.user_attrs:
        _refuse_other(study.study_name, study.user_attrs["identity"], now)
        return False
    if study.get_trials(deepcopy=False):
        raise SettingsError(
            f"the study {study.study_name!r} in this database was not made by this program: give search.study "
            "another name"
        )
    study.set_user_attr("parent", new_run())
    study.set_user_attr("identity", now)  # last: without it, the next process creates the study anew
    return True


def _refuse_other(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"{key} (then {json.dumps(then.get(key, _ABSENT))}, now {json.dumps(now.get(key, _ABSENT))})"
        for key in sorted({*then, *now})
        if then.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]
    if differences:
        raise SettingsError(
            f"the study {name!r} was begun with other settings or data, and its trials cannot be compared with these: "
            f"{'; '.join(differences)}. Go back to what it was, or begin another study: give search.study another name"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted names, with the values that JSON gives back."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: json.loads(json.dumps(value))}
    return flat
