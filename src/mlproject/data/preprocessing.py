"""From a volume to what a network sees: brain mask, z-scores, and the prepared grid."""

import logging
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlproject.data.brain import brain_mask, fill_holes
from mlproject.data.image_files import MAX_VOXELS
from mlproject.data.prepared_grid import Geometry, choose_geometry, mask_to_prepared, to_native, to_prepared
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import Volume
from mlproject.errors import DataError

__all__ = ["Geometry", "PreparedCase", "PreprocessingSettings", "prepare", "to_native"]

logger = logging.getLogger(__name__)

BLOCK = 2**20  # voxels


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case as the network sees it.

    Attributes:
        name: the case's name.
        image: float32 (C, I, J, K) on the prepared grid; z-scores in the brain, 0 outside.
        brain: bool (I, J, K) on the prepared grid.
        label: uint8 (I, J, K) of 0 and 1 on the prepared grid, or None.
        native_label: uint8 (I, J, K) of 0 and 1 on the case's own grid, or None; evaluation compares with it.
        geometry: the two grids.
        channel_digests: SHA-256 (hex) of each channel's decoded voxels and grid; without those that are missing.
        missing: channels that the case lacks, and where in `image` they would be; 0 stands there.
    """

    name: str
    image: NDArray[np.float32]
    brain: NDArray[np.bool_]
    label: NDArray[np.uint8] | None
    native_label: NDArray[np.uint8] | None
    geometry: Geometry
    channel_digests: dict[str, str]
    missing: dict[str, int] = field(default_factory=dict)


def prepare(volume: Volume, settings: PreprocessingSettings, most_voxels: int = MAX_VOXELS) -> PreparedCase:
    """Find the brain, normalise each channel in it, and bring everything onto the prepared grid.

    Intensities are normalised before they are interpolated, so they do not depend on the target spacing.
    Images are interpolated linearly; so are brain and label, which then keep what is at least one half. A channel
    that the case lacks is 0, the mean.

    Raises:
        DataError: no brain is found, a channel is constant in it, or the prepared grid would have more than
            `most_voxels`.
    """
    brain = brain_mask(volume.image[0], settings.brain_mask, volume.case)
    if not brain.any():
        raise DataError(f"{volume.case}: no brain found; try another preprocessing.brain_mask")
    if volume.label is not None and (hidden := int(np.count_nonzero(volume.label[~brain]))):
        total = int(volume.label.sum())
        logger.warning("%s: %d of %d lesion voxels lie outside the brain mask", volume.case, hidden, total)
    geometry = choose_geometry(brain, volume.affine, settings.crop_margin_mm, settings.spacing_mm)
    if math.prod(geometry.shape) > most_voxels:
        raise DataError(
            f"{volume.case}: {' x '.join(map(str, geometry.shape))} voxels of "
            f"{' x '.join(f'{side:g}' for side in geometry.spacing_mm)} mm would show it, and {most_voxels} are "
            "the most: is the voxel size in its header right?"
        )
    image = np.zeros((len(volume.image), *geometry.shape), dtype=np.float32)
    names = iter(volume.channel_digests)
    for number, channel in enumerate(volume.image):
        if number not in volume.missing.values():
            scores = z_scores(channel, brain, settings.clip_sd, f"{volume.case}: {next(names)}")
            image[number] = to_prepared(scores, geometry)
    prepared_brain = mask_to_prepared(brain, geometry)
    np.copyto(image, 0, where=~prepared_brain)
    label = volume.label
    return PreparedCase(
        name=volume.case,
        image=image,
        brain=prepared_brain,
        label=None if label is None else mask_to_prepared(label > 0, geometry).astype(np.uint8),
        native_label=label,
        geometry=geometry,
        channel_digests=volume.channel_digests,
        missing=volume.missing,
    )


def z_scores(
    channel: NDArray[np.float32], brain: NDArray[np.bool_], clip_sd: float | None, what: str
) -> NDArray[np.float32]:
    """(x - mean) / standard deviation over the brain's voxels that the channel measured; 0 elsewhere.

    Zeros that reach the outside of the brain are not tissue but the end of the channel's field of view or of
    its skull stripping. They take no part in mean and deviation, and become 0, the mean, rather than very
    dark tissue. Zeros enclosed by tissue (suppressed fluid) are measured.

    Args:
        channel: (I, J, K) raw intensities.
        brain: (I, J, K).
        clip_sd: largest magnitude of a z-score; None keeps them all.
        what: names case and channel in the error.

    Raises:
        DataError: the channel is constant, or has no voxel, in the brain.
    """
    measured, values = brain, channel[brain]
    if not values.all():
        measured = brain & fill_holes(channel != 0)
        values = channel[measured]
    if values.size == 0 or values.min() == values.max():
        raise DataError(f"{what}: constant or missing in the whole brain; is it the right file?")
    mean = values.mean(dtype=np.float64)
    blocks = np.array_split(values, math.ceil(values.size / BLOCK))  # in float64, but never all of them at once
    deviation = math.sqrt(sum(float(np.square(block - mean).sum()) for block in blocks) / values.size)
    for block in blocks:
        block[:] = (block - mean) / deviation
    if clip_sd is not None:
        values.clip(-clip_sd, clip_sd, out=values)
    scores = np.zeros(channel.shape, dtype=np.float32)
    scores[measured] = values
    return scores
