"""What an evaluation of three tiny cases gathers, for tests of the report and of the comparison."""

import numpy as np

import tiny
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.evaluation.gathering import Answer, Gathered, Gatherer

EVIL = "<script>alert('&')</script>"
NAMES = ("good", EVIL, "free")


def gather(variants: tuple[str, ...], shown: tuple[str, ...]) -> Gathered:
    """Three cases: one found well, one half, one without a lesion and with a false alarm. Later variants are better."""
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
            answers.append(Answer(variant, (probability >= 0.5).astype(np.uint8), probability))
        gatherer.add(case, iter(answers))
    return gatherer.result()
