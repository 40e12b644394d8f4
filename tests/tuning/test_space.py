"""The search space: what fits the settings, what a trial gets, and what is refused before the first trial."""

from typing import Any

import optuna
import pytest

from mlproject import config
from mlproject.errors import SettingsError
from mlproject.stages.search_trial import FIXED, KINDS, experiment_of, refuse_space
from mlproject.stages.settings import SearchSettings
from mlproject.tuning.space import Dimension, check_space, put, suggest

SPACE = (
    Dimension("loss.dice", 0.05, 0.95, complement="loss.cross_entropy"),
    Dimension("loss.batch_dice", choices=(False, True)),
    Dimension("training.learning_rate", 1e-4, 1e-2, log=True),
    Dimension("patches.per_case", 2, 8, step=2),
    Dimension("network.dynunet.channels", choices=([8, 16, 32], [16, 32, 64])),
)


def settings(*space: dict[str, Any]) -> SearchSettings:
    return config.from_tree(SearchSettings, {"search": {"space": list(space)}}, "a test")


def test_every_trial_lies_in_the_space_and_makes_an_experiment() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        values = suggest(trial, SPACE, KINDS)
        study.tell(trial, 0)
        experiment = experiment_of(settings(), values, "trial")
        assert 0.05 <= experiment.loss.dice <= 0.95
        assert experiment.loss.dice + experiment.loss.cross_entropy == pytest.approx(1)
        assert 1e-4 <= experiment.training.learning_rate <= 1e-2
        assert experiment.patches.per_case in (2, 4, 6, 8)
        assert experiment.network.dynunet.channels in ((8, 16, 32), (16, 32, 64))
        seen.add((experiment.loss.batch_dice, experiment.patches.per_case, experiment.network.dynunet.channels))
    assert len(seen) > 10


def test_a_log_range_is_proposed_evenly_on_the_logarithm() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = (Dimension("training.learning_rate", 1e-6, 1.0, log=True),)
    rates = [suggest(study.ask(), space, KINDS)["training.learning_rate"] for _ in range(200)]
    assert 0.35 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.65


@pytest.mark.parametrize(
    ("dimension", "said"),
    [
        ({"low": 0, "high": 1}, "no name"),
        ({"name": "loss.dice"}, "low below high, or choices"),
        ({"name": "loss.dice", "low": 1, "high": 1}, "low below high"),
        ({"name": "loss.dice", "low": 0, "high": 1, "log": True}, "above 0"),
        ({"name": "loss.dice", "low": 0, "high": 1, "step": 2}, "step"),
        ({"name": "loss.dice", "choices": [0.5]}, "two values"),
        ({"name": "loss.dice", "choices": [0.5, 1], "low": 0.1}, "no low"),
        ({"name": "loss.dise", "low": 0, "high": 1}, "no setting is called 'loss.dise'"),
        ({"name": "loss", "low": 0, "high": 1}, "no setting is called 'loss'"),
        ({"name": "data.split_seed", "low": 0, "high": 9}, "cannot be varied"),
        ({"name": "loss.batch_dice", "low": 0, "high": 1}, "not a number"),
        ({"name": "patches.per_case", "low": 1.5, "high": 4}, "whole number"),
        ({"name": "loss.dice", "low": 0, "high": 1, "complement": "patches.per_case"}, "not a real number"),
        ({"name": "loss.dice", "low": -1, "high": 1}, "loss.dice=-1"),
        ({"name": "loss.batch_dice", "choices": [True, "perhaps"]}, "perhaps"),
        ({"name": "training.precision", "choices": ["32-true", "64-true"]}, "64-true"),
        ({"name": "network.dynunet.channels", "choices": [[8, 16, 32], [8, 16, 32, 64, 128, 256, 512]]}, "64"),
        ({"name": "training.learning_rate", "low": 0.001, "high": 0.01, "logg": True}, "logg"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(dimension: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        refuse_space(settings(dimension))


def test_an_empty_space_and_a_setting_decided_twice_are_refused() -> None:
    with pytest.raises(SettingsError, match="empty"):
        check_space((), KINDS, FIXED)
    twice = (SPACE[0], Dimension("loss.cross_entropy", 0, 1))
    with pytest.raises(SettingsError, match=r"loss.cross_entropy is decided twice"):
        check_space(twice, KINDS, FIXED)


def test_putting_values_in_changes_nothing_else() -> None:
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": 2}
    assert put(tree, {"a.b": 5}) == {"a": {"b": 5, "c": [1, 2]}, "d": 2}
    assert tree["a"] == {"b": 1, "c": [1, 2]}
