"""How `evaluate --compare` measures: each model on the case as that model sees it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Literal

import numpy as np

import tiny
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.stages import compare
from mlproject.stages.settings import EvaluateSettings


class Network:
    """Stands in for a Segmenter: sees the lesion where its case has all channels."""

    def __init__(self, seen: tuple[str, ...] = ()) -> None:
        self.description = SimpleNamespace(postprocessing=Postprocessing(), seen=seen)

    def probability(self, case):  # type: ignore[no-untyped-def]
        return (0.2 if case.missing else 0.8) * case.label.astype(np.float32)


def contestant(cases, seen=()):  # type: ignore[no-untyped-def]
    by_name = {case.name: case for case in cases}
    return compare.Contestant("uri", Network(seen), by_name, dict.fromkeys(by_name, "p"), ())  # type: ignore[arg-type]


def test_what_a_case_lacks_is_told_of_the_model_that_takes_it() -> None:
    one, other = tiny.cases([1, 2])
    a, b = contestant([one, other]), contestant([replace(one, missing={"adc": 1}), other])
    tables = compare._measure(a, b, [one.name, other.name]).tables
    assert tables["A"][["case", "dice", "missing"]].to_numpy().tolist() == [["case-1", 1, ""], ["case-2", 1, ""]]
    assert tables["B"][["case", "dice", "missing"]].to_numpy().tolist() == [["case-1", 0, "adc"], ["case-2", 1, ""]]


def test_what_either_has_seen_is_left_out_or_said() -> None:
    cases = tiny.cases([1, 2, 3])
    a, b = contestant(cases, ["1d", "2a"]), contestant(cases, ["2a"])
    names = [case.name for case in cases]

    def measured(kept: Literal["unseen", "all"]) -> tuple[list[str], list[str]]:
        return compare._names_to_measure(a, b, EvaluateSettings(model="a", compare="b", cases=kept))

    assert measured("unseen") == (names[2:], ["2 of 3 cases left out: A or B was trained or tuned on them."])
    kept, (note, of_one_patient) = measured("all")
    assert kept == names and of_one_patient.startswith("The 3 cases are of 1 patient: ")
    assert note.startswith(
        "Not an estimate for new patients: A was trained or tuned on 2 and B was trained or tuned on 1"
    )
