"""One slice of the validation case that a training shows again and again, with its Dice below."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mlproject.evaluation.palette import BLUE, VERMILLION, mask_colours
from mlproject.evaluation.sampling import cut
from mlproject.evaluation.slices import plane

HEIGHT_PX, CAPTION_PX, FONT_PX = 400, 26, 17

Picture = NDArray[np.uint8]


def slice_picture(
    image: NDArray[Any],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    caption: str,
) -> Picture:
    """The axial slice with most lesion of the reference, so the same slice whatever the prediction is.

    Shown with the patient's right on the left and the front above, in true proportions.

    Args:
        image: (I, J, K) one channel, 0 outside the brain; axes towards the patient's right, front and top.
        reference: (I, J, K) expert mask {0, 1}, with a lesion.
        prediction: (I, J, K) predicted mask {0, 1}.
        spacing_mm: voxel size along I, J and K.
        caption: a few words below, in Latin letters.

    Returns:
        (rows, columns, 3), red, green and blue from 0 to 255.
    """
    case = cut(image, [reference, prediction], np.diag([*spacing_mm, 1.0]))
    picture = plane(case, 2, mask_colours(1), HEIGHT_PX)
    sheet = Image.new("RGB", (picture.width, HEIGHT_PX + CAPTION_PX), "white")
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(FONT_PX)
    x = 4.0
    for text, colour in ((f"{caption}  ", "black"), ("expert", BLUE), (", ", "black"), ("model", VERMILLION)):
        pen.text((x, HEIGHT_PX + 3), text, fill=colour)
        x += pen.textlength(text)
    return np.asarray(sheet)
