"""The colours of Okabe and Ito (2008), which colour-blind people tell apart, and what they mean in the pictures."""

from collections.abc import Sequence

BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW = "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"


def mask_colours(predictions: int) -> list[str]:
    """Outlines of the reference, and of one or two predictions."""
    return [SKY_BLUE, ORANGE, PURPLE][: 1 + predictions]


def regions(predictions: Sequence[str]) -> list[dict[str, str | int]]:
    """What each combination of masks is called and coloured in the viewer.

    Args:
        predictions: names of one or two masks beside the reference.

    Returns:
        For each: bits (1 the reference, 2 the first prediction, 4 the second), name and colour.
    """
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
