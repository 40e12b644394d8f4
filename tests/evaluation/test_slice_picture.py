import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mlproject.evaluation.palette import ORANGE, SKY_BLUE
from mlproject.evaluation.slice_picture import CAPTION_PX, HEIGHT_PX, OUTLINE_PX, SHOWN_MM, slice_picture

SHAPE = (20, 30, 8)


def volumes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).normal(size=SHAPE)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[3:8, 20:26, 5] = 1  # left, as i grows to the right; in front
    prediction[3:8, 20:26, 5] = 1
    prediction[12:19, 2:9, 2] = 1  # more, but on another slice
    return image, reference, prediction


def places(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns of a slice's pixels that have a colour."""
    return np.argwhere((pixels == (255 * np.array(to_rgb(colour))).astype(np.uint8)).all(axis=-1))


def drawn(*volumes: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The picture without its caption."""
    return slice_picture(*volumes, spacing_mm, "Dice 1")[:-CAPTION_PX]


def test_true_proportions_and_radiological_convention() -> None:
    picture = drawn(*volumes(), spacing_mm=(2.0, 1.0, 5.0))  # 40 mm wide, 30 mm high
    assert picture.dtype == np.uint8
    assert picture.shape[0] == HEIGHT_PX and abs(picture.shape[1] - HEIGHT_PX * 40 / 30) < OUTLINE_PX
    rows, columns = places(picture, SKY_BLUE).mean(axis=0)
    assert columns > picture.shape[1] / 2  # the patient's left is on the right
    assert rows < HEIGHT_PX / 2  # the front is above


def test_the_slice_is_that_of_the_reference() -> None:
    image, reference, prediction = volumes()
    picture = drawn(image, reference, prediction)
    orange, blue = places(picture, ORANGE), places(picture, SKY_BLUE)
    assert len(orange) and len(blue)
    assert np.linalg.norm(orange.mean(axis=0) - blue.mean(axis=0)) < 9  # the one at the same place, on slice 5
    nothing = drawn(image, reference, np.zeros_like(prediction))
    assert not len(places(nothing, ORANGE)) and len(places(nothing, SKY_BLUE))


def small_lesion(at: int) -> tuple[np.ndarray, np.ndarray]:
    """A head of 180 x 200 x 4 voxels, and a lesion of 10 x 10 of them."""
    image = np.random.default_rng(0).normal(size=(180, 200, 4))
    reference = np.zeros(image.shape, np.uint8)
    reference[at : at + 10, at : at + 10, 1] = 1
    return image, reference


@pytest.mark.parametrize("at", [0, 80, 170])
def test_a_small_lesion_is_seen_from_near(at: int) -> None:
    image, reference = small_lesion(at)
    picture = drawn(image, reference, np.zeros_like(reference))
    assert picture.shape == (HEIGHT_PX, HEIGHT_PX, 3)
    blue = places(picture, SKY_BLUE)
    size = np.ptp(blue, axis=0) + 1
    assert (size > HEIGHT_PX * 10 / SHOWN_MM).all() and (size < HEIGHT_PX * 12 / SHOWN_MM).all()


def test_outlines_are_wide_enough_to_be_seen_at_half_the_size() -> None:
    image, reference = small_lesion(80)
    picture = drawn(image, reference, np.roll(reference, 15, axis=0))
    for colour, width in ((SKY_BLUE, 6), (ORANGE, 3)):
        outline = places(picture, colour)
        column = outline[:, 1] == (outline[:, 1].min() + outline[:, 1].max()) // 2
        assert np.count_nonzero(column) == 2 * width  # above and below


def test_a_case_that_lost_its_lesion_is_drawn() -> None:
    image, reference = small_lesion(80)
    assert drawn(image, np.zeros_like(reference), reference).shape[0] == HEIGHT_PX


def test_a_large_lesion_is_seen_whole() -> None:
    image, reference = small_lesion(80)
    reference[40:130, 100:160, 1] = 1
    blue = places(drawn(image, reference, np.zeros_like(reference)), SKY_BLUE)
    assert (np.ptp(blue, axis=0) < HEIGHT_PX * 0.6).all()


def test_the_place_does_not_depend_on_the_prediction() -> None:
    image, reference = small_lesion(80)
    far = np.zeros_like(reference)
    far[:20, :20] = 1
    nothing, elsewhere = drawn(image, reference, np.zeros_like(reference)), drawn(image, reference, far)
    np.testing.assert_array_equal(nothing, elsewhere)


def test_the_captions_words_have_the_colours_of_the_outlines() -> None:
    caption = slice_picture(*volumes(), (1.0, 1.0, 1.0), "Dice 1")[-CAPTION_PX:]
    assert len(places(caption, SKY_BLUE)) and len(places(caption, ORANGE))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_flat_image_is_drawn(value: float) -> None:
    _, reference, prediction = volumes()
    slice_picture(np.full(SHAPE, value), reference, prediction, (1.0, 1.0, 1.0), "")
