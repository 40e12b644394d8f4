from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib import image as mpl_image
from matplotlib import pyplot
from matplotlib.figure import Figure

from mlproject.evaluation import figures


def pixels(figure: Figure) -> np.ndarray:
    return mpl_image.imread(BytesIO(figures.to_png(figure)))[..., :3]


def history(validation_dice):
    epochs = np.arange(1, len(validation_dice) + 1)
    falling = 1 / epochs
    return pd.DataFrame(
        {
            "epoch": epochs,
            "step": epochs * 50,
            "train_loss": 2 * falling,
            "train_cross_entropy": falling,
            "train_dice_loss": falling,
            "validation_dice": validation_dice,
            "learning_rate": falling * 1e-3,
        }
    )


def test_loss_curves_show_validation_where_there_was_one():
    figure = figures.loss_curves(history([np.nan, 0.4, np.nan, 0.7, np.nan, 0.6]))
    losses, dice, rate = figure.axes
    assert [len(line.get_xdata()) for line in losses.lines] == [6, 6, 6]
    assert dice.lines[0].get_xdata().tolist() == [100, 200, 300]
    assert "best 0.700 at step 200" in dice.get_title(loc="left")
    assert rate.get_ylabel() == "learning rate"
    assert pixels(figure).std() > 0


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_loss_curves_without_validation(epochs):
    assert pixels(figures.loss_curves(history([np.nan] * epochs))).std() > 0


def dice_table(**dice):
    return pd.DataFrame({"case": list(dice), "dice": list(dice.values())})


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({}, []),
        ({"a": 0.5}, [("only case", "a")]),
        ({"a": 0.9, "b": 0.5}, [("worst", "b"), ("best", "a")]),
        ({"a": 0.9, "b": 0.5, "c": 0.7}, [("worst", "b"), ("middle", "c"), ("best", "a")]),
        ({"c": 0.5, "a": 0.5, "b": 0.5}, [("worst", "a"), ("middle", "b"), ("best", "c")]),
        ({"a": 0.9, "b": np.nan, "c": 0.7}, [("worst", "c"), ("best", "a")]),
    ],
)
def test_worst_middle_best(dice, expected):
    assert figures.worst_middle_best(dice_table(**dice)) == expected


def test_worst_of_a_distance_is_the_largest():
    table = pd.DataFrame({"case": ["a", "b", "c"], "hd95_mm": [1.0, 9.0, 4.0]})
    expected = [("worst", "b"), ("middle", "c"), ("best", "a")]
    assert figures.worst_middle_best(table, "hd95_mm") == expected


def test_paired_dots_join_the_same_case_whatever_the_order_of_rows():
    tables = {"network": dice_table(a=0.5, b=0.6, c=0.7), "crf": dice_table(c=0.7, b=0.5, a=0.9)}
    figure = figures.paired_dots(tables)
    *cases, mean = figure.axes[0].lines
    drawn = {tuple(line.get_ydata()): line.get_color() for line in cases}
    assert drawn == {
        (0.5, 0.9): figures.BLUE,
        (0.6, 0.5): figures.VERMILLION,
        (0.7, 0.7): figures.GREY,
    }
    assert list(mean.get_ydata()) == pytest.approx([0.6, 0.7])
    with pytest.raises(ValueError, match="same cases"):
        figures.paired_dots(tables | {"other": dice_table(a=0.5, b=0.6)})


@pytest.mark.parametrize("volumes", [[0.0, 0.0, 1.0, 30.0], [0.5, 20.0], [0.0], []])
def test_every_case_is_in_the_picture_of_dice_and_volume(volumes):
    table = pd.DataFrame({"reference_ml": np.array(volumes), "dice": np.linspace(0, 1, len(volumes))})
    figure = figures.dice_against_volume(table)
    free, lesion = (axes.lines[0].get_xydata() for axes in figure.axes)
    assert (len(free), len(lesion)) == (volumes.count(0.0), len(volumes) - volumes.count(0.0))
    assert len(np.unique(free[:, 0])) == len(free)  # none hides another
    assert pixels(figure).std() > 0


@pytest.mark.parametrize("volumes", [[5.8, 7.6], [1.0, 1.0], [0.02, 180.0]])
def test_the_axis_of_lesion_volumes_has_numbers_and_holds_every_case(volumes):
    axes = figures.dice_against_volume(pd.DataFrame({"reference_ml": volumes, "dice": 0.5})).axes[1]
    low, high = axes.get_xlim()
    assert low < min(volumes) and max(volumes) < high
    assert any(low <= tick <= high for tick in axes.get_xticks())


def test_no_figure_is_left_open_in_pyplot():
    before = pyplot.get_fignums()
    figures.loss_curves(history([0.5]))
    figures.paired_dots({"network": dice_table(a=0.5)})
    assert pyplot.get_fignums() == before
