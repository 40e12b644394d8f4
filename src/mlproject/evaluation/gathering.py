"""What an evaluation keeps of each case while the cases stream by: rows, counts and small pictures, never volumes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from mlproject.data.preprocessing import PreparedCase, to_native
from mlproject.evaluation.curves import ProbabilityCounts, count_probabilities
from mlproject.evaluation.lesions import COLUMNS, lesion_rows
from mlproject.evaluation.metrics import case_metrics
from mlproject.evaluation.palette import mask_colours
from mlproject.evaluation.sampling import ViewerData, cut, for_viewer
from mlproject.evaluation.slices import planes, thumbnail

VIEWER_BYTES, VIEWER_BYTES_A_CASE = 30_000_000, 800_000
"""What the viewer's data of all cases, and of one case, take at most: a page of 40 cases stays under 40 MB."""


class Answer(NamedTuple):
    """What one variant says of a case, on the case's own grid.

    Attributes:
        variant: its name.
        mask: (I, J, K) uint8, {0, 1}.
        probability: (I, J, K) float32 in [0, 1], from which the mask was cut.
        missing: channels that the variant takes and the case lacks.
    """

    variant: str
    mask: npt.NDArray[np.uint8]
    probability: npt.NDArray[np.float32]
    missing: Collection[str]


@dataclass(frozen=True, eq=False)
class CasePictures:
    """What the report shows of a case.

    Attributes:
        planes: the three slices with most lesion, and the outlines.
        thumbnail: the axial one, small.
        data: for the viewer: the first channel, and the masks of the reference and of the variants shown.
    """

    planes: Image.Image
    thumbnail: Image.Image
    data: ViewerData


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that was kept of the cases.

    Attributes:
        tables: variant → per-case table: case, all that `case_metrics` returns, and missing (channels that the variant
            takes and the case lacks) where any case lacks one.
        lesions: a row a component, with the columns of lesions.COLUMNS.
        counts: variant → one histogram a case.
        pictures: case → its pictures.
        shown: the variants in the pictures, after the reference.
    """

    tables: dict[str, pd.DataFrame]
    lesions: pd.DataFrame
    counts: dict[str, list[ProbabilityCounts]]
    pictures: dict[str, CasePictures]
    shown: tuple[str, ...]


class Gatherer:
    """Takes the cases one by one.

    Args:
        cases: how many will come; the more, the smaller the viewer's data of each.
        shown: the variants whose masks the pictures show, beside the reference.
    """

    def __init__(self, cases: int, shown: Sequence[str]) -> None:
        self.budget = min(VIEWER_BYTES_A_CASE, VIEWER_BYTES // max(cases, 1))
        self.shown = tuple(shown)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.lesions: list[dict[str, Any]] = []
        self.counts: dict[str, list[ProbabilityCounts]] = {}
        self.pictures: dict[str, CasePictures] = {}

    def add(self, case: PreparedCase, answers: Iterable[Answer]) -> None:
        """Keep what there is to keep of a labelled case; each answer may be made when it is asked for."""
        reference, geometry = case.native_label, case.geometry
        assert reference is not None
        brain = to_native(case.brain.astype(np.float32), geometry) >= 0.5
        masks = {}
        for variant, mask, probability, missing in answers:
            metrics = case_metrics(reference, mask, geometry.native_spacing_mm)
            row = {"case": case.name, **metrics, "missing": ", ".join(missing)}
            self.rows.setdefault(variant, []).append(row)
            known = {"variant": variant, "case": case.name}
            self.lesions += [known | found for found in lesion_rows(reference, mask, geometry.native_voxel_ml)]
            self.counts.setdefault(variant, []).append(count_probabilities(probability, reference, brain))
            if variant in self.shown:
                masks[variant] = mask
        volumes = [reference, *(masks[variant] for variant in self.shown)]
        seen = cut(to_native(case.image[0], geometry), volumes, np.array(geometry.native_affine))
        colours = mask_colours(len(self.shown))
        self.pictures[case.name] = CasePictures(
            planes(seen, colours), thumbnail(seen, colours), for_viewer(seen, self.budget)
        )

    def result(self) -> Gathered:
        """What was kept of all cases together."""
        tables = {variant: pd.DataFrame(rows) for variant, rows in self.rows.items()}
        if not any((table["missing"] != "").any() for table in tables.values()):
            tables = {variant: table.drop(columns="missing") for variant, table in tables.items()}
        return Gathered(tables, pd.DataFrame(self.lesions, columns=COLUMNS), self.counts, self.pictures, self.shown)
