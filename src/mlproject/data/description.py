"""What one case holds: grids, intensities, lesions, and whatever would keep it out of training."""

# mypy: allow-untyped-calls

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torchio as tio
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data import preprocessing
from mlproject.data.case import Case
from mlproject.data.geometry import GRID_TOLERANCE_MM, Affine, Shape, describe_grid, largest_shift_mm
from mlproject.data.image_files import read_image_file
from mlproject.data.preprocessing import PreparedCase, prepare, to_native
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import Volume, read_volume
from mlproject.errors import DataError

Millimetres = tuple[float, float, float]

MOST_CLASSES = 32
"""A label with more values than this is no segmentation but an image."""
NEIGHBOURS_26 = np.ones((3, 3, 3))
PERCENTILES = (1, 50, 99)
DATA_LOGGER = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class ChannelFacts:
    """One channel of a case.

    Attributes:
        grid: of its own file, where that is not the reference channel's; else "".
        percentiles: 1st, 50th and 99th of the raw intensities in the brain.
        zero_share: share of the voxels that are exactly 0, on the reference channel's grid.
        negative_voxels: how many are below 0, there.
        digest: SHA-256 of its voxels and grid.
    """

    grid: str
    percentiles: tuple[float, float, float]
    zero_share: float
    negative_voxels: int
    digest: str


@dataclass(frozen=True)
class CaseFacts:
    """One case. What could not be found out because of a fault is None or empty.

    Attributes:
        name, patient: the case's.
        faults: why training would refuse it, one line each.
        remarks: what training would accept, and people should look at.
        missing: channels that it lacks.
        orientation: of the reference channel's axes, as "LPS".
        shape: voxels of the reference channel, along its own axes.
        spacing_mm: left-right, back-front, down-up.
        brain_shape: voxels around the brain along left-right, back-front, down-up: what a network sees.
        brain_ml: volume of the brain mask that preprocessing finds.
        channels: by name.
        label_values: all values in the label file; empty without a label.
        lesions_ml: volume of each lesion (26-connected), largest first; None without a label.
        lesion_outside_brain: share of the lesion's voxels outside the brain mask.
    """

    name: str
    patient: str
    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    orientation: str = ""
    shape: Shape | None = None
    spacing_mm: Millimetres | None = None
    brain_shape: Shape | None = None
    brain_ml: float | None = None
    channels: dict[str, ChannelFacts] | None = None
    label_values: tuple[float, ...] = ()
    lesions_ml: tuple[float, ...] | None = None
    lesion_outside_brain: float = 0.0

    @property
    def lesion_ml(self) -> float | None:
        """Volume of all lesions together."""
        return None if self.lesions_ml is None else sum(self.lesions_ml)


def describe_case(case: Case) -> CaseFacts:
    """Read a case as training would, and say what is in it; nothing is raised for a faulty one.

    A label of several classes counts as lesion wherever it is not 0, unless the case has lesion_labels.
    """
    facts = CaseFacts(case.name, case.patient, missing=case.missing)
    with _warnings_as_remarks(case) as remarks:
        try:
            if case.label is not None:
                facts = replace(facts, label_values=label_values(case))
            case = replace(case, lesion_labels=case.lesion_labels or classes_in(facts.label_values))
            facts = _with_volume(facts, read_volume(case, labelled=case.label is not None), case)
        except DataError as error:
            facts = replace(facts, faults=tuple(case.said(str(error)).splitlines()))
            facts = _without_label(facts, case)
    return replace(facts, remarks=(*remarks, *facts.remarks))


def label_values(case: Case) -> tuple[float, ...]:
    """The values in a case's label file. Raises DataError where they are too many for a segmentation."""
    assert case.label is not None
    try:
        values = np.unique(read_image_file(case.label).voxels)
    except DataError as error:
        raise DataError(f"{case.name}: label {case.label}: {error}") from error
    if values.size > MOST_CLASSES:
        raise DataError(
            f"{case.name}: label {case.label}: holds {values.size} values from {values.min():g} to "
            f"{values.max():g}, is it an image or a probability map? Give whole numbers, 0 for background"
        )
    return tuple(round(float(value), 3) + 0.0 for value in values)


def classes_in(values: tuple[float, ...]) -> tuple[int, ...] | None:
    """The classes of a label that is not just 0 and 1 but whole numbers; else None."""
    if set(values) <= {0.0, 1.0} or any(value < 0 or value != int(value) for value in values):
        return None
    return tuple(int(value) for value in values if value > 0)


def _without_label(facts: CaseFacts, case: Case) -> CaseFacts:
    """The facts about a faulty case's images, if they can be read without the label."""
    try:
        return _with_volume(facts, read_volume(case, labelled=False), case)
    except DataError:
        return facts


def _with_volume(facts: CaseFacts, volume: Volume, case: Case) -> CaseFacts:
    """Add what is known once the volume has been read. Raises DataError where it cannot be prepared."""
    prepared = prepare(volume, PreprocessingSettings())
    brain = to_native(prepared.brain.astype(np.float32), prepared.geometry) >= 0.5
    values = dict(zip(case.channels, volume.image, strict=True))
    grids = {path: read_grid(path) for path in dict.fromkeys(case.images.values())}
    channels = {
        name: _channel_facts(name, values[name], brain, volume, grids[path]) for name, path in case.images.items()
    }
    facts = replace(
        facts,
        orientation="".join(nib.aff2axcodes(volume.affine)),
        shape=prepared.geometry.native_shape,
        spacing_mm=prepared.geometry.spacing_mm,
        brain_shape=prepared.geometry.shape,
        brain_ml=float(brain.sum()) * volume.voxel_ml,
        channels=channels,
    )
    return _with_lesions(facts, volume, prepared)


def _with_lesions(facts: CaseFacts, volume: Volume, prepared: PreparedCase) -> CaseFacts:
    if volume.label is None or prepared.label is None:
        return facts
    components, _ = ndimage.label(volume.label, NEIGHBOURS_26)
    voxels = np.sort(np.bincount(components.ravel())[1:])[::-1]
    total = int(voxels.sum())
    inside = int(np.count_nonzero(prepared.label & prepared.brain))
    return replace(
        facts,
        lesions_ml=tuple(float(count) * volume.voxel_ml for count in voxels),
        lesion_outside_brain=(total - inside) / total if total else 0.0,
    )


def _channel_facts(
    name: str, values: NDArray[np.float32], brain: NDArray[np.bool_], volume: Volume, own_grid: tuple[Shape, Affine]
) -> ChannelFacts:
    low, middle, high = np.percentile(values[brain], PERCENTILES).tolist()
    shape, affine = own_grid
    same = shape == volume.image.shape[1:] and largest_shift_mm(shape, affine, volume.affine) <= GRID_TOLERANCE_MM
    return ChannelFacts(
        grid="" if same else describe_grid(shape, affine),
        percentiles=(low, middle, high),
        zero_share=float(np.mean(values == 0)),
        negative_voxels=int(np.count_nonzero(values < 0)),
        digest=volume.channel_digests[name],
    )


def read_grid(path: Path) -> tuple[Shape, Affine]:
    """Shape and affine of an image file, from its header alone; raises almost anything for a file that is no image."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Error loading image with SimpleITK")
        image = tio.ScalarImage(path)
        return image.spatial_shape, np.asarray(image.affine, dtype=np.float64)


@contextmanager
def _warnings_as_remarks(case: Case) -> Iterator[list[str]]:
    """Within: what the package logs as a warning is collected, with file names in the place of paths."""
    remarks: list[str] = []
    paths = [*case.images.values(), *([case.label] if case.label else [])]

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            for path in paths:
                text = text.replace(str(path), Path(path).name)
            remarks.append(text)

    logger, collector = logging.getLogger(DATA_LOGGER), Collector(logging.WARNING)
    collector.addFilter(lambda record: record.name != preprocessing.__name__)  # lesion outside the brain: in CaseFacts
    logger.addHandler(collector)
    before, logger.propagate = logger.propagate, False
    try:
        yield remarks
    finally:
        logger.propagate = before
        logger.removeHandler(collector)
