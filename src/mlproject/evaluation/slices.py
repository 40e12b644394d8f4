"""Small pictures of a case: the slices with most lesion, with the outlines of its masks."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from mlproject.data.geometry import spacing_of
from mlproject.evaluation.sampling import CutCase

Rgb = npt.NDArray[np.uint8]
PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
PLANE_PX, THUMBNAIL_PX = 260, 96
LETTERS = {2: "RL", 1: "RL", 0: "AP"}
"""What the left and the right edge of each plane (by the axis across it) look to."""


def planes(case: CutCase, colours: Sequence[str]) -> Image.Image:
    """Axial, coronal and sagittal slice side by side, in the radiological convention (the patient's right is left).

    Each is the slice with most lesion of the first mask that has any, else through the middle.

    Args:
        case: with its masks.
        colours: "#rrggbb" of each mask's outline; earlier ones are drawn first and wider, so that all show.
    """
    drawn = [plane(case, axis, colours, PLANE_PX) for _, axis in PLANES]
    sheet = Image.new("RGB", (sum(picture.width for picture in drawn) + 8 * (len(drawn) - 1), PLANE_PX))
    left = 0
    for picture, (_, axis) in zip(drawn, PLANES, strict=True):
        pen = ImageDraw.Draw(picture)
        pen.text((4, PLANE_PX // 2), LETTERS[axis][0], fill="white", font_size=16)
        pen.text((picture.width - 14, PLANE_PX // 2), LETTERS[axis][1], fill="white", font_size=16)
        sheet.paste(picture, (left, 0))
        left += picture.width + 8
    return sheet


def plane(case: CutCase, axis: int, colours: Sequence[str], height_px: int) -> Image.Image:
    """One of the three of `planes`: the slice across `axis`, in true proportions and without letters."""
    number = slice_with_most(case, axis)
    grey, bits = (np.take(values, number, axis) for values in (case.grey, case.masks))
    across, up = (size for n, size in enumerate(spacing_of(case.affine)) if n != axis)
    size = (max(1, round(height_px * grey.shape[0] * across / (grey.shape[1] * up))), height_px)
    shades = Image.fromarray((_upright(grey) * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    rgb = np.repeat(np.asarray(shades)[:, :, None], 3, axis=2)
    for n, colour in enumerate(colours):
        mask = Image.fromarray(_upright((bits >> n) & 1)).resize(size, Image.Resampling.NEAREST)
        inside = np.asarray(mask) == 1
        wide = ndimage.binary_dilation(inside, iterations=len(colours) - 1 - n) if n + 1 < len(colours) else inside
        rgb[wide & ~ndimage.binary_erosion(inside)] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return Image.fromarray(rgb)


def thumbnail(case: CutCase, colours: Sequence[str]) -> Image.Image:
    """The axial slice of `planes` alone, small and without letters."""
    return plane(case, 2, colours, THUMBNAIL_PX)


def encoded(picture: Image.Image, kind: str) -> bytes:
    """The picture as the bytes of a file: PNG, or WEBP (a tenth of the size)."""
    buffer = BytesIO()
    picture.save(buffer, format=kind, quality=80)
    return buffer.getvalue()


def slice_with_most(case: CutCase, axis: int) -> int:
    """The slice across `axis` with most voxels of the first mask that has any; else of the brain."""
    others = tuple(n for n in range(3) if n != axis)
    for bit in range(8):
        areas = np.count_nonzero((case.masks >> bit) & 1, axis=others)
        if areas.any():
            return int(areas.argmax())
    return int(np.count_nonzero(case.grey, axis=others).argmax())


def _upright(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A slice of a RAS volume as the rows of a picture: up is up (or front), the patient's right (or front) is left."""
    return np.ascontiguousarray(plane[::-1, ::-1].T)
