"""What an evaluation of three tiny cases gathers, for tests of the report and of the comparison."""

from collections.abc import Collection, Mapping

import numpy as np

import tiny
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.evaluation.gathering import Answer, Gathered, Gatherer

EVIL = "<script>alert('&')</script>"
NAMES = ("good", EVIL, "free")


def gather(
    variants: tuple[str, ...], shown: tuple[str, ...], missing: Mapping[tuple[str, str], Collection[str]] = {}
) -> Gathered:
    """Three cases: one found well, one half, one without a lesion and with a false alarm. Later variants are better.

    Args:
        variants: their names.
        shown: those in the pictures.
        missing: (case, variant) → the channels that the case lacks there.
    """
    gatherer = Gatherer(len(NAMES), shown)
    for number, name in enumerate(NAMES):
        case = prepare(tiny.volume(name, seed=number + 1, lesion=name != "free"), PreprocessingSettings())
        label = case.native_label
        assert label is not None
        answers = []
        for better, variant in enumerate(variants):
            probability = 0.1 + 0.8 * label.astype(np.float32)
            lesion = np.argwhere(label)
            missed = {"good": 5, EVIL: 70, "free": 0}[name] // (better + 1)
            probability[tuple(lesion[:missed].T)] = 0.2
            if name == "free":
                probability[4:6, 4, 4] = 0.7
            lacking = missing.get((name, variant), ())
            answers.append(Answer(variant, (probability >= 0.5).astype(np.uint8), probability, lacking))
        gatherer.add(case, iter(answers))
    return gatherer.result()
