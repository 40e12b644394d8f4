"""The facts of all cases as plain values: what `describe` returns, and what its tables show."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlproject.data.case import kinds_of_labels
from mlproject.data.description import CaseFacts
from mlproject.data.survey import Found, duplicates
from mlproject.evaluation.metrics import load_groups

BRAIN_ML = (500.0, 2500.0)
"""From a newborn's brain to the largest head cavity; what lies beyond is a mask of something else."""
AXES = ("left-right", "back-front", "down-up")
Row = dict[str, Any]


def summarise(found: Found, cases: Sequence[CaseFacts]) -> Row:
    """All that is known of a data set, as JSON values.

    Returns:
        "labels_called" says what the labels' files are called, where the layout finds them by name, and how many;
        "usable" counts the labelled cases without a fault; "grids", "channels", "brain", "lesions" sum up the cases
        that could be read; "faults" (a line each) keep cases out of training; "remarks" do not.
    """
    read = [case for case in cases if case.channels is not None]
    labelled = [case for case in read if case.lesions_ml is not None]
    return {
        "root": found.data.where,
        "layout": found.data.layout,
        "layouts_that_fit": list(found.layouts),
        "channels_used": list(found.data.channels),
        "channels_found": found.channels,
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "labels_called": kinds_of_labels(found.cases),
        "labelled": sum(bool(case.label_values) for case in cases),
        "usable": len(usable(cases)),
        "grids": _grids(read),
        "channels": {name: _channel(name, read) for name in found.data.channels},
        "brain": _brain(read),
        "lesions": _lesions(labelled),
        "label_values": sorted({value for case in cases for value in case.label_values}),
        "faults": [*found.faults, *(fault for case in cases for fault in case.faults)],
        "remarks": _remarks(found, cases, read, labelled),
        "per_case": [_row(case) for case in cases],
    }


def usable(cases: Sequence[CaseFacts]) -> list[CaseFacts]:
    """The cases that training can use: with a label, without a fault."""
    return [case for case in cases if not case.faults and case.lesions_ml is not None]


def _quantiles(values: Sequence[float]) -> Row:
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    points = np.quantile(np.array(values, dtype=float), (0, 0.25, 0.5, 0.75, 1)) if values else [None] * 5
    return {name: None if point is None else float(point) for name, point in zip(names, points, strict=True)}


def _counts(values: Sequence[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _grids(read: Sequence[CaseFacts]) -> Row:
    spacings = np.array([case.spacing_mm for case in read])
    return {
        "shapes": _counts(["x".join(map(str, case.shape or ())) for case in read]),
        "orientations": _counts([case.orientation for case in read]),
        "spacing_mm": {
            axis: {**_quantiles(values.tolist()), "distinct": len(np.unique(values.round(3)))}
            for axis, values in zip(AXES, spacings.T, strict=True)
        }
        if read
        else {},
        "brain_shape": {
            axis: _quantiles(values.tolist())
            for axis, values in zip(AXES, np.array([case.brain_shape for case in read]).T, strict=True)
        }
        if read
        else {},
    }


def _channel(name: str, read: Sequence[CaseFacts]) -> Row:
    having = [case for case in read if name in (case.channels or {})]
    channels = [(case.channels or {})[name] for case in having]
    low, middle, high = (
        [float(np.median(values)) for values in zip(*(channel.percentiles for channel in channels), strict=True)]
        if channels
        else [None] * 3
    )
    return {
        "cases": len(having),
        "missing_in": [case.name for case in read if name in case.missing],
        "percentile_1": low,
        "median": middle,
        "percentile_99": high,
        "zero_share": float(np.median([channel.zero_share for channel in channels])) if channels else None,
        "negative_in": [c.name for c, channel in zip(having, channels, strict=True) if channel.negative_voxels],
        "other_grids": _counts([channel.grid for channel in channels if channel.grid]),
    }


def _brain(read: Sequence[CaseFacts]) -> Row:
    volumes = {case.name: case.brain_ml or 0.0 for case in read}
    implausible = {name: ml for name, ml in volumes.items() if not BRAIN_ML[0] <= ml <= BRAIN_ML[1]}
    return {"volume_ml": _quantiles(list(volumes.values())), "implausible_ml": implausible}


def _lesions(labelled: Sequence[CaseFacts]) -> Row:
    loads = np.array([case.lesion_ml or 0.0 for case in labelled])
    lesions = [ml for case in labelled for ml in case.lesions_ml or ()]
    return {
        "load_ml": _quantiles([load for load in loads.tolist() if load > 0]),
        "load_groups": {name: int(inside.sum()) for name, inside in load_groups(loads).items()},
        "lesion_free": [case.name for case in labelled if not case.lesions_ml],
        "count_per_case": _quantiles([len(case.lesions_ml) for case in labelled if case.lesions_ml]),
        "lesion_ml": _quantiles(lesions),
        "outside_brain": {c.name: c.lesion_outside_brain for c in labelled if c.lesion_outside_brain > 0},
    }


def _remarks(
    found: Found, cases: Sequence[CaseFacts], read: Sequence[CaseFacts], labelled: Sequence[CaseFacts]
) -> list[Row]:
    """What training accepts and people should look at: a text, and the cases that it is about."""
    remarks: list[Row] = []

    def add(text: str, of: Sequence[str]) -> None:
        if of:
            remarks.append({"text": text, "cases": list(of)})

    usual, *others = kinds_of_labels(found.cases) or [""]
    add(
        f"the label is not called {usual}, as most are; does it show the same?",
        [f"{case.name} ({case.label_kind})" for case in found.cases if case.label_kind in others],
    )
    pairs = duplicates(cases)
    add(
        "the same voxels under two names (in training and in test, they make the test worthless)",
        [f"{first} = {second}" for first, second in pairs],
    )
    implausible = _brain(read)["implausible_ml"]
    add(
        f"the brain mask has an implausible volume (usual: {BRAIN_ML[0]:g} to {BRAIN_ML[1]:g} ml); where the skull was "
        "not stripped it is that of the whole head, which works; see preprocessing.brain_mask",
        [f"{name} ({ml:.0f} ml)" for name, ml in implausible.items()],
    )
    outside = {case.name: case.lesion_outside_brain for case in labelled if case.lesion_outside_brain > 0}
    add(
        "lesion voxels outside the brain mask, which cannot be found there",
        [f"{name} ({share:.1%})" for name, share in outside.items()],
    )
    for text in dict.fromkeys(remark for case in cases for remark in case.remarks):
        add(text, [case.name for case in cases if text in case.remarks])
    return remarks


def _row(case: CaseFacts) -> Row:
    """One case in the list of all."""
    return {
        "case": case.name,
        "patient": case.patient,
        "usable": not case.faults and case.lesions_ml is not None,
        "missing": list(case.missing),
        "shape": case.shape,
        "spacing_mm": case.spacing_mm,
        "orientation": case.orientation,
        "brain_ml": case.brain_ml,
        "lesion_ml": case.lesion_ml,
        "lesions": None if case.lesions_ml is None else len(case.lesions_ml),
        "label_values": list(case.label_values),
        "faults": list(case.faults),
    }
