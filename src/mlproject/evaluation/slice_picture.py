"""One lesion of the validation case that a training shows again and again, with its Dice below."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mlproject.evaluation.palette import mask_colours
from mlproject.evaluation.sampling import cut
from mlproject.evaluation.slices import plane

HEIGHT_PX, CAPTION_PX, FONT_PX = 402, 26, 17
OUTLINE_PX = 3
"""Width of the thinner outline: the MLflow UI shows several of these pictures at once, each at half its size."""
SHOWN_MM = 80
"""Edge length of what is shown, at least: a small lesion in a whole slice would be a few pixels."""

Picture = NDArray[np.uint8]


def slice_picture(
    image: NDArray[Any],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    caption: str,
) -> Picture:
    """The lesion on the axial slice with most of it in the reference: the same place whatever the prediction is.

    Shown with the patient's right on the left and the front above, in true proportions; SHOWN_MM wide and high, or
    twice the lesion's size, where the brain is not smaller.

    Args:
        image: (I, J, K) one channel, 0 outside the brain; axes towards the patient's right, front and top.
        reference: (I, J, K) expert mask {0, 1}; where it is empty the whole slice is shown.
        prediction: (I, J, K) predicted mask {0, 1}.
        spacing_mm: voxel size along I, J and K.
        caption: a few words below, in Latin letters.

    Returns:
        (rows, columns, 3), red, green and blue from 0 to 255.
    """
    shown = _around_lesion(reference, spacing_mm)
    case = cut(image[shown], [reference[shown], prediction[shown]], np.diag([*spacing_mm, 1.0]))
    colours = mask_colours(1)
    picture = plane(case, 2, colours, HEIGHT_PX // OUTLINE_PX)
    picture = picture.resize((OUTLINE_PX * picture.width, HEIGHT_PX), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (picture.width, HEIGHT_PX + CAPTION_PX), "black")
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(FONT_PX)
    x = 4.0
    words = ((f"{caption}  ", "white"), ("expert", colours[0]), (", ", "white"), ("model", colours[1]))
    for text, colour in words:
        pen.text((x, HEIGHT_PX + 3), text, fill=colour)
        x += pen.textlength(text)
    return np.asarray(sheet)


def _around_lesion(reference: NDArray[Any], spacing_mm: tuple[float, float, float]) -> tuple[slice, slice]:
    """What is shown of I and J: a square around the lesion on the slice with most of it, within the volume."""
    lesion = reference[:, :, np.count_nonzero(reference, axis=(0, 1)).argmax()]
    places, spacing = np.argwhere(lesion), np.array(spacing_mm[:2])
    if not len(places):  # on a grid of larger voxels than its own, the case may have lost a small lesion
        return slice(None), slice(None)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    edge_mm = max(SHOWN_MM, 2 * ((high - low) * spacing).max())
    whole = np.array(lesion.shape)
    size = np.minimum(whole, np.ceil(edge_mm / spacing).astype(int))
    i, j = np.clip((low + high - size) // 2, 0, whole - size)
    return slice(i, i + size[0]), slice(j, j + size[1])
