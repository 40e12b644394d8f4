import pytest

from mlproject.errors import SettingsError
from mlproject.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 3}, "exactly one of .* got training.steps=2500, training.epochs=3"),
        ({"steps": None}, "got none"),
        ({"steps": 0}, "training.steps must be positive, got 0"),
        ({"batch_size": 3, "devices": 2}, "multiple of their number 2 .* got 3"),
        ({"average": 1.0}, "below 1, got 1.0"),
        ({"nodes": 2}, "needs training.main_address"),
        ({"nodes": 2, "main_address": "a:1", "node_rank": 2}, "below training.nodes=2, got 2"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"decay_rate": 1.5}, "decay_rate must be at most 1, got 1.5"),
        ({"decay_steps": 0}, "decay_steps must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ],
)
def test_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainingSettings(**given)  # type: ignore[arg-type]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    settings = TrainingSettings(steps=100, warmup_steps=10)
    factors = [settings.learning_rate_factor(step, step / 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11)
    assert max(factors) == factors[10] == pytest.approx(0.5 * (1 + 0.9510565))  # cos(pi / 10)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0)
    assert TrainingSettings(decay="none", warmup_steps=0).learning_rate_factor(0, 0.9) == 1
    step = TrainingSettings(decay="step", warmup_steps=0)  # the paper's: times 0.95 every 200 steps
    assert [step.learning_rate_factor(n, 0.5) for n in (0, 199, 200, 1400)] == pytest.approx([1, 1, 0.95, 0.95**7])
    assert TrainingSettings(decay="linear", warmup_steps=0).learning_rate_factor(5, 0.25) == 0.75
