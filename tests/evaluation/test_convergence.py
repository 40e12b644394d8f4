import numpy as np
import pandas as pd
import pytest

from mlproject.evaluation.convergence import area, figure, steps_to, summary

STEPS = np.array([100.0, 200.0, 400.0])


def test_area_counted_by_hand() -> None:
    # 0 to 0.2 over 100 steps: 10; 0.2 to 0.6 over 100: 40; 0.6 to 0.6 over 200: 120; 170 of 400.
    assert area(STEPS, np.array([0.2, 0.6, 0.6])) == pytest.approx(170 / 400)
    assert area(STEPS, np.zeros(3)) == 0


@pytest.mark.parametrize(
    ("dice", "level", "expected"),
    [
        ([0.2, 0.6, 0.8], 0.4, 150),  # half way between two validations
        ([0.2, 0.6, 0.8], 0.1, 50),  # before the first one
        ([0.2, 0.6, 0.8], 0.8, 400),
        ([0.2, 0.6, 0.2], 0.6, 200),  # the first time, though it falls again
        ([0.2, 0.3, 0.4], 0.5, float("nan")),
        ([0.0, 0.0, 0.0], 0.5, float("nan")),
        ([0.0, 0.0, 0.0], 0.0, float("nan")),  # 80 % of nothing
    ],
)
def test_steps_to_a_level(dice: list[float], level: float, expected: float) -> None:
    assert steps_to(STEPS, np.array(dice), level) == pytest.approx(expected, nan_ok=True)


def curves() -> pd.DataFrame:
    dice = {("fast", 0): (0.5, 0.9), ("fast", 1): (0.6, 1.0), ("slow", 0): (0.1, 0.2), ("slow", 1): (0.4, 0.8)}
    rows = [
        (*key, step, value)
        for key, values in dice.items()
        for step, value in zip((200, 100), values[::-1], strict=True)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "step", "dice"])


def test_one_level_for_all_trainings() -> None:
    found = summary(curves()).set_index(["variant", "seed"])
    assert (found["level"] == 0.8).all()  # of the 1.0 that the best of all reached
    assert found.loc[("fast", 0), "steps_to_level"] == pytest.approx(175)
    assert found.loc[("slow", 1), "steps_to_level"] == pytest.approx(200)
    assert np.isnan(found.loc[("slow", 0), "steps_to_level"])
    assert found.loc[("slow", 0), "best_dice"] == 0.2


def test_the_figure_shows_mean_and_band_of_each_variant() -> None:
    drawn = figure({"same learning rate": curves(), "tuned": curves()})
    assert [axes.get_title() for axes in drawn.axes] == ["same learning rate", "tuned"]
    line = next(line for line in drawn.axes[0].lines if line.get_label() == "fast")
    np.testing.assert_allclose(line.get_xdata(), [0, 100, 200])
    np.testing.assert_allclose(line.get_ydata(), [0, 0.55, 0.95])  # from where the area is counted
    band = drawn.axes[0].collections[0].get_paths()[0].vertices
    assert band[band[:, 0] > 0, 1].min() == pytest.approx(0.5) and band[:, 1].max() == pytest.approx(1.0)
