import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mlproject.evaluation.palette import ORANGE, SKY_BLUE
from mlproject.evaluation.slice_picture import CAPTION_PX, HEIGHT_PX, slice_picture

SHAPE = (20, 30, 8)


def volumes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(size=SHAPE)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[3:8, 20:26, 5] = 1  # left, as i grows to the right; in front
    prediction[3:8, 20:26, 5] = 1
    prediction[12:19, 2:9, 2] = 1  # more, but on another slice
    return image, reference, prediction


def places(picture: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns of the slice that have a colour."""
    return np.argwhere((picture[:-CAPTION_PX] == (255 * np.array(to_rgb(colour))).astype(np.uint8)).all(axis=-1))


def test_true_proportions_and_radiological_convention() -> None:
    picture = slice_picture(*volumes(), (2.0, 1.0, 5.0), "Dice 1")  # 40 mm wide, 30 mm high
    assert picture.dtype == np.uint8
    assert picture.shape == (HEIGHT_PX + CAPTION_PX, round(HEIGHT_PX * 40 / 30), 3)
    rows, columns = places(picture, SKY_BLUE).mean(axis=0)
    assert columns > picture.shape[1] / 2  # the patient's left is on the right
    assert rows < HEIGHT_PX / 2  # the front is above


def test_the_slice_is_that_of_the_reference() -> None:
    image, reference, prediction = volumes()
    picture = slice_picture(image, reference, prediction, (1.0, 1.0, 1.0), "")
    orange, blue = places(picture, ORANGE), places(picture, SKY_BLUE)
    assert len(orange) and len(blue)
    assert np.linalg.norm(orange.mean(axis=0) - blue.mean(axis=0)) < 9  # the one at the same place, on slice 5
    nothing = slice_picture(image, reference, np.zeros_like(prediction), (1.0, 1.0, 1.0), "")
    assert not len(places(nothing, ORANGE)) and len(places(nothing, SKY_BLUE))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_flat_image_is_drawn(value: float) -> None:
    _, reference, prediction = volumes()
    slice_picture(np.full(SHAPE, value), reference, prediction, (1.0, 1.0, 1.0), "")
