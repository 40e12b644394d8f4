"""From a volume to what a network sees: brain mask, z-scores, and the prepared grid."""

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data.brain import brain_mask
from mlproject.data.prepared_grid import Geometry, choose_geometry, to_native, to_prepared
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import Volume
from mlproject.errors import DataError

__all__ = ["Geometry", "PreparedCase", "PreprocessingSettings", "prepare", "to_native"]

logger = logging.getLogger(__name__)


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


def prepare(volume: Volume, settings: PreprocessingSettings) -> PreparedCase:
    """Find the brain, normalise each channel in it, and bring everything onto the prepared grid.

    Intensities are normalised before they are interpolated, so they do not depend on the target spacing.
    Images are interpolated linearly; so are brain and label, which then keep what is at least one half. A channel
    that the case lacks is 0, the mean.

    Raises:
        DataError: no brain is found, or a channel is constant in it.
    """
    brain = brain_mask(volume.image[0], settings.brain_mask, volume.case)
    if not brain.any():
        raise DataError(f"{volume.case}: no brain found; try another preprocessing.brain_mask")
    if volume.label is not None and (hidden := int(np.count_nonzero(volume.label[~brain]))):
        total = int(volume.label.sum())
        logger.warning("%s: %d of %d lesion voxels lie outside the brain mask", volume.case, hidden, total)
    names = iter(volume.channel_digests)
    channels = [
        channel
        if number in volume.missing.values()
        else z_scores(channel, brain, settings.clip_sd, f"{volume.case}: {next(names)}")
        for number, channel in enumerate(volume.image)
    ]
    geometry = choose_geometry(brain, volume.affine, settings.crop_margin_mm, settings.spacing_mm)
    prepared_brain = to_prepared(brain.astype(np.float32), geometry) >= 0.5
    image = np.stack([to_prepared(channel, geometry) for channel in channels])
    label = None
    if volume.label is not None:
        label = (to_prepared(volume.label.astype(np.float32), geometry) >= 0.5).astype(np.uint8)
    return PreparedCase(
        name=volume.case,
        image=np.where(prepared_brain, image, np.float32(0)),
        brain=prepared_brain,
        label=label,
        native_label=volume.label,
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
    measured = brain & ndimage.binary_fill_holes(channel != 0)
    values = channel[measured].astype(np.float64)
    if values.size == 0 or np.ptp(values) == 0:
        raise DataError(f"{what}: constant or missing in the whole brain; is it the right file?")
    scores = np.zeros(channel.shape, dtype=np.float32)
    scores[measured] = (values - values.mean()) / values.std()
    return scores if clip_sd is None else np.clip(scores, -clip_sd, clip_sd)
