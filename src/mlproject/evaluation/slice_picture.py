"""A small picture of one slice with the outlines of reference and prediction, drawn in milliseconds."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mlproject.evaluation.palette import BLUE, ORANGE, SKY_BLUE, VERMILLION

PIXELS = 400
"""Of the longer side of the slice."""
CAPTION_PIXELS, FONT_PIXELS = 26, 17

Picture = NDArray[np.uint8]


def slice_picture(
    image: NDArray[Any],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    caption: str,
) -> Picture:
    """The slice with most lesion, of the reference alone: so it is the same slice whatever the prediction is.

    Shown with the patient's right on the left and the front above, in true proportions.

    Args:
        image: (I, J, K) one channel, 0 outside the brain; axes towards the patient's right, front and top.
        reference: (I, J, K) expert mask {0, 1}.
        prediction: (I, J, K) predicted mask {0, 1}.
        spacing_mm: voxel size along I, J and K.
        caption: a few words below, in Latin letters.

    Returns:
        (rows, columns, 3), red, green and blue from 0 to 255.
    """
    k = int(np.count_nonzero(reference, axis=(0, 1)).argmax())
    size_mm = np.array(image.shape[:2]) * spacing_mm[:2]
    columns, rows = np.round(size_mm / size_mm.max() * PIXELS).astype(int)

    def shown(volume: NDArray[Any]) -> NDArray[Any]:
        i = np.arange(columns) * image.shape[0] // columns
        j = np.arange(rows) * image.shape[1] // rows
        return np.asarray(volume[:, :, k][i[::-1]][:, j[::-1]].T)

    brain = image[image != 0]
    low, high = np.percentile(brain, (0.5, 99.7)) if brain.size else (0.0, 1.0)
    values = np.where(shown(image) == 0, low, shown(image))
    grey = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    outlined = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
    for mask, colour, width in ((reference, SKY_BLUE, 4), (prediction, ORANGE, 2)):
        inside = shown(mask).astype(bool)
        outlined[inside & ~ndimage.binary_erosion(inside, iterations=width)] = 255 * np.array(to_rgb(colour))
    return _with_caption(outlined, caption)


def _with_caption(picture: Picture, caption: str) -> Picture:
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION_PIXELS), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.font = ImageFont.load_default(FONT_PIXELS)
    x, y = 4.0, picture.shape[0] + 3
    words = ((f"{caption}  ", "black"), ("expert", BLUE), (", ", "black"), ("model", VERMILLION))
    for text, colour in words:
        pen.text((x, y), text, fill=colour)
        x += pen.textlength(text)
    return np.asarray(canvas)
