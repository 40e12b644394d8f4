from io import BytesIO

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib import image as mpl_image
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from mlproject.evaluation import figures


def pixels(figure: Figure) -> np.ndarray:
    return mpl_image.imread(BytesIO(figures.to_png(figure)))[..., :3]


def has_colour(figure: Figure, colour: str) -> bool:
    return bool((np.abs(pixels(figure) - to_rgb(colour)).max(axis=-1) < 0.05).any())


def texts(figure: Figure) -> str:
    legends = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts]
    titles = [axes.get_title() for axes in figure.axes]
    return " | ".join([figure.get_suptitle(), *titles, *legends])


def contours(figure: Figure) -> int:
    return sum(isinstance(child, QuadContourSet) for axes in figure.axes for child in axes.get_children())


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


def las_case():
    """10 x 12 x 8 voxels, LAS: a brain, brightest on the patient's right at the front; a lesion in slice 5."""
    image = np.zeros((10, 12, 8), np.float32)
    image[2:8, 2:10, 1:7] = np.linspace(-1, 1, 6)[:, None, None]
    image[2, 9, :] = 5  # the patient's right, front
    reference = np.zeros(image.shape, np.uint8)
    reference[3:6, 4:7, 5] = 1
    reference[3, 4, 2] = 1
    return image, reference, np.roll(reference, 1, axis=0), np.diag([-2.0, 3.0, 5.0, 1.0])


def reoriented(arrays, affine, codes):
    """The same case with its voxels in another order."""
    target = nib.orientations.axcodes2ornt(tuple(codes))
    transform = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target)
    moved = [nib.orientations.apply_orientation(array, transform) for array in arrays]
    return *moved, affine @ nib.orientations.inv_ornt_aff(transform, arrays[0].shape)


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPS", "RPI", "PIR", "SRA", "ILP"])
def test_overlay_is_the_same_radiological_picture_for_every_voxel_order(codes):
    *arrays, affine = las_case()
    image, reference, prediction, affine = reoriented(arrays, affine, codes)
    figure = figures.overlay(image, reference, prediction, affine, "a case")
    left = figure.axes[0]
    shown = left.get_images()[0].get_array()
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row, column) == (9, 2)  # the front is up (origin below), the patient's right on the left
    assert left.get_images()[0].origin == "lower"
    assert left.get_aspect() == pytest.approx(3 / 2)
    assert left.get_xlim()[0] < 2 < left.get_xlim()[1]
    assert left.get_ylim()[0] < 9 < left.get_ylim()[1]
    assert "slice 6 of 8, radiological convention" in texts(figure)
    sides = {text.get_text(): text.get_position()[0] for text in left.texts}
    assert sides["R"] < 0.5 < sides["L"]
    assert contours(figure) == 2


def test_overlay_of_an_oblique_grid():
    image, reference, prediction, affine = las_case()
    turn = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    figure = figures.overlay(image, reference, prediction, rotation @ affine, "a case")
    assert figure.axes[0].get_aspect() == pytest.approx(3 / 2)


@pytest.mark.parametrize(
    ("with_reference", "with_prediction", "slice_number", "legend"),
    [
        ("lesion", 3, 6, "reference | prediction: not in this slice"),
        ("empty", 3, 4, "reference: empty | prediction"),
        ("empty", None, 5, "reference: empty | prediction: empty"),
        ("missing", 3, 4, "prediction"),
        ("missing", None, 5, "prediction: empty"),
    ],
)
def test_overlay_shows_the_slice_with_most_lesion(with_reference, with_prediction, slice_number, legend):
    image, lesion, _, affine = las_case()
    image[4, 1, 4] = 1  # makes slice 5 the largest of the brain
    reference = {"lesion": lesion, "empty": lesion * 0, "missing": None}[with_reference]
    prediction = np.zeros_like(lesion)
    if with_prediction is not None:
        prediction[5, 5, with_prediction] = 1
    figure = figures.overlay(image, reference, prediction, affine, "a case")
    assert f"slice {slice_number} of 8" in texts(figure)
    assert texts(figure).endswith("| " + legend)


def test_overlay_of_one_voxel_shows_its_outlines():
    image, lesion, _, affine = las_case()
    reference, prediction = np.zeros_like(lesion), np.zeros_like(lesion)
    reference[4, 5, 3], prediction[6, 8, 3] = 1, 1
    figure = figures.overlay(image, reference, prediction, affine, "a case")
    figure.axes[1].get_legend().remove()
    assert has_colour(figure, figures.SKY_BLUE)
    assert has_colour(figure, figures.ORANGE)
    nothing = figures.overlay(image, reference * 0, prediction * 0, affine, "a case")
    nothing.axes[1].get_legend().remove()
    assert not has_colour(nothing, figures.ORANGE)


def test_overlay_keeps_a_mask_far_outside_the_brain_in_view():
    image, _, _, affine = las_case()
    image = np.pad(image, ((0, 20), (0, 20), (0, 0)))
    prediction = np.zeros(image.shape, np.uint8)
    prediction[25, 28, 3] = 1
    right = figures.overlay(image, None, prediction, affine, "a case").axes[1]
    assert right.get_xlim()[1] > 25
    assert right.get_ylim()[1] > 28


@pytest.mark.parametrize("name", ["$\\nonsense{$", "a_b^c", "<b>"])
def test_overlay_title_is_the_name_as_it_is_and_dice(name):
    image, reference, prediction, affine = las_case()
    figure = figures.overlay(image, reference, prediction, affine, name, dice=0.5)
    assert figure.get_suptitle() == f"{name}: Dice 0.500"
    assert pixels(figure).std() > 0


def test_overlay_of_an_empty_image():
    nothing = np.zeros((4, 4, 4), np.float32)
    figure = figures.overlay(nothing, None, nothing, np.eye(4), "nothing")
    assert "slice 3 of 4" in texts(figure)
    assert pixels(figure).std() > 0


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


def test_no_figure_is_left_open_in_pyplot():
    before = pyplot.get_fignums()
    figures.loss_curves(history([0.5]))
    figures.overlay(*las_case(), "a case")
    figures.paired_dots({"network": dice_table(a=0.5)})
    assert pyplot.get_fignums() == before
