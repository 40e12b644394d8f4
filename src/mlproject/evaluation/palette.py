"""The colours of Okabe and Ito (2008), which colour-blind people tell apart, and what they mean in the pictures."""

from collections.abc import Sequence
from itertools import cycle

BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW = "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"


def mask_colours(predictions: int) -> list[str]:
    """Outlines of the reference, and of one or two predictions."""
    return [SKY_BLUE, ORANGE, PURPLE][: 1 + predictions]


def variant_colours(variants: Sequence[str], shown: Sequence[str]) -> dict[str, str]:
    """The colour of each variant in the figures: that of its outline, and for those not `shown` one of the others."""
    outlined = dict(zip(shown, mask_colours(len(shown))[1:], strict=True))
    others = cycle((GREY, BLUE, GREEN))
    return {variant: outlined.get(variant) or next(others) for variant in variants}


Region = dict[str, str | int]


def legends(predictions: Sequence[str]) -> list[list[Region]]:
    """What the colours in the viewer mean, for every choice of the masks that are shown.

    What is found, missed or false can be said where all masks are shown; a hidden mask would turn a found lesion into
    a missed one. So else it is only said which masks hold the voxels.

    Args:
        predictions: names of one or two masks beside the reference.

    Returns:
        At place n the regions while the masks with the bits of n are shown (1 the reference, 2 the first prediction,
        4 the second); each with the bits of the masks that hold it, name and colour.
    """
    names = ["reference", *predictions]
    full = _regions(predictions)
    some = []
    for shown in range(2 ** len(names) - 1):
        inside = [region for region in full if int(region["bits"]) & shown == region["bits"]]
        some.append([region | {"name": _holders(names, int(region["bits"]), shown)} for region in inside])
    return [*some, full]


def _holders(names: Sequence[str], bits: int, shown: int) -> str:
    """Such as "A", "reference and A" or "A, not reference"."""
    holding = " and ".join(name for n, name in enumerate(names) if bits >> n & 1)
    others = " or ".join(name for n, name in enumerate(names) if (shown & ~bits) >> n & 1)
    return f"{holding}, not {others}" if others else holding


def _regions(predictions: Sequence[str]) -> list[Region]:
    if len(predictions) == 1:
        return [
            {"bits": 3, "name": "found: in both", "colour": GREEN},
            {"bits": 1, "name": "missed: reference alone", "colour": SKY_BLUE},
            {"bits": 2, "name": f"false: {predictions[0]} alone", "colour": ORANGE},
        ]
    first, second = predictions
    return [
        {"bits": 7, "name": "found by both", "colour": GREEN},
        {"bits": 3, "name": f"found by {first} alone", "colour": YELLOW},
        {"bits": 5, "name": f"found by {second} alone", "colour": BLUE},
        {"bits": 1, "name": "missed by both", "colour": SKY_BLUE},
        {"bits": 2, "name": f"false: {first} alone", "colour": ORANGE},
        {"bits": 4, "name": f"false: {second} alone", "colour": PURPLE},
        {"bits": 6, "name": "false: both", "colour": VERMILLION},
    ]
