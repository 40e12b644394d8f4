"""How `evaluate --compare` measures: each model on the case as that model sees it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

import tiny
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.stages import compare


class Network:
    """Stands in for a Segmenter: sees the lesion where its case has all channels."""

    description = SimpleNamespace(postprocessing=Postprocessing())

    def probability(self, case):  # type: ignore[no-untyped-def]
        return (0.2 if case.missing else 0.8) * case.label.astype(np.float32)


def contestant(cases):  # type: ignore[no-untyped-def]
    return compare.Contestant("uri", Network(), {case.name: case for case in cases}, ())  # type: ignore[arg-type]


def test_what_a_case_lacks_is_told_of_the_model_that_takes_it() -> None:
    one, other = tiny.cases([1, 2])
    a, b = contestant([one, other]), contestant([replace(one, missing={"adc": 1}), other])
    tables = compare._measure(a, b, [one.name, other.name]).tables
    assert tables["A"][["case", "dice", "missing"]].to_numpy().tolist() == [["case-1", 1, ""], ["case-2", 1, ""]]
    assert tables["B"][["case", "dice", "missing"]].to_numpy().tolist() == [["case-1", 0, "adc"], ["case-2", 1, ""]]
