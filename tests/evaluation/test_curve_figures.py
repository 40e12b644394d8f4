import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from mlproject.evaluation import curve_figures
from mlproject.evaluation.figures import to_png
from mlproject.evaluation.lesions import size_names
from mlproject.evaluation.palette import BLACK, GREY, ORANGE, PURPLE


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def volumes(reference, prediction):
    return pd.DataFrame({"reference_ml": reference, "prediction_ml": prediction, "dice": 0.5})


def test_bland_altman_by_hand():
    # Differences +1, -1 and +3: their mean is 1, their standard deviation 2.
    figure = curve_figures.bland_altman(volumes([1.0, 10.0, 0.0], [2.0, 9.0, 3.0]))
    points = figure.axes[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[1.5, 1], [9.5, -1], [1.5, 3]])
    assert legend(figure) == ["bias +1.00 ml", "limits of agreement -2.92 and +4.92 ml"]
    assert to_png(figure)


def test_bland_altman_cuts_no_case_at_the_edge():
    figure = curve_figures.bland_altman(volumes([5.7, 7.6], [4.2, 5.3]))
    assert figure.axes[0].get_xlim()[1] > 1.1 * (7.6 + 5.3) / 2


@pytest.mark.parametrize("count", [0, 1])
def test_bland_altman_of_too_few_cases_has_no_limits(count):
    figure = curve_figures.bland_altman(volumes([1.0][:count], [2.0][:count]))
    assert len(legend(figure)) == 1
    assert to_png(figure)


def test_the_chosen_threshold_is_marked_where_it_is():
    curve = pd.DataFrame({"threshold": [0.2, 0.5, 0.8], "dice": [0.3, 0.6, 0.4], "low": 0.2, "high": 0.7})
    figure = curve_figures.threshold_curves({"all cases": curve, "few": curve}, [("all cases", 0.5, 0.62)], "the mark")
    marks = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert marks == [[[0.5, 0.62]]]
    assert legend(figure) == ["all cases", "few", "the mark"]
    assert to_png(figure)


def test_above_the_diagonal_is_a():
    a, b = volumes([1.0, 2.0], 1.0), volumes([2.0, 1.0], 1.0)
    a["case"], b["case"] = ["x", "y"], ["y", "x"]
    a["dice"], b["dice"] = [0.9, 0.4], [0.3, 0.8]
    figure = curve_figures.one_against_other(b, a)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), [[0.8, 0.9], [0.3, 0.4]])


def test_a_bin_without_an_interval_has_no_bar():
    curve = pd.DataFrame(
        {
            "voxels": [5, 0, 9],
            "mean_probability": [0.2, np.nan, 0.8],
            "lesion_share": [0.3, np.nan, 0.6],
            "low": [0.1, np.nan, np.nan],
            "high": [0.4, np.nan, np.nan],
        }
    )
    figure = curve_figures.reliability({"network": curve}, {"network": GREY})
    (drawn,) = figure.axes[0].containers
    line, (lower, upper), (bars,) = drawn.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.2, 0.3], [0.8, 0.6]])
    np.testing.assert_allclose(lower.get_ydata(), [0.1, np.nan])
    np.testing.assert_allclose(upper.get_ydata(), [0.4, np.nan])
    np.testing.assert_allclose(bars.get_segments()[0], [[0.2, 0.1], [0.2, 0.4]])
    assert to_png(figure)


def test_a_variant_has_its_colour_in_every_figure():
    row = {"size": "below 0.1 ml", "lesions": 1, "share": 0.5, "low": 0.1, "high": 0.9, "false_alarms_per_case": 1.0}
    sizes = pd.DataFrame([{"variant": variant} | row for variant in "AB" for _ in size_names()])
    curve = pd.DataFrame({"voxels": [5], "mean_probability": 0.2, "lesion_share": 0.3, "low": 0.1, "high": 0.4})
    colours = {"A": ORANGE, "B": PURPLE}
    above, below = curve_figures.detection(sizes, colours).axes
    (calibration,) = curve_figures.reliability({"A": curve, "B": curve, "A, B": curve}, colours).axes
    assert [drawn.lines[0].get_color() for drawn in above.containers] == [ORANGE, PURPLE]
    assert [to_hex(bar.patches[0].get_facecolor()).upper() for bar in below.containers] == [ORANGE, PURPLE]
    assert [drawn.lines[0].get_color() for drawn in calibration.containers] == [ORANGE, PURPLE, BLACK]
