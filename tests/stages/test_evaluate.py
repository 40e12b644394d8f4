"""How the stage `evaluate` measures: what is read, what is run, and how often."""

import numpy as np

import tiny
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.stages import evaluate


class CountingNetwork:
    """Stands in for a Segmenter: says where the lesion is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def probability(self, case):  # type: ignore[no-untyped-def]
        self.asked.append(case.name)
        return 0.6 * case.label.astype(np.float32)


def test_the_network_runs_once_a_case_whatever_the_number_of_variants() -> None:
    network, cases = CountingNetwork(), tiny.cases([1, 2])
    variants = {"network": Postprocessing(), "strict": Postprocessing(threshold=0.7), "low": Postprocessing(0.2)}
    gathered = evaluate._measure(network, cases, variants, "low")  # type: ignore[arg-type]
    assert network.asked == ["case-1", "case-2"]
    assert list(gathered.tables) == list(variants)
    assert gathered.tables["network"]["dice"].tolist() == [1.0, 1.0]
    assert gathered.tables["strict"]["dice"].tolist() == [0.0, 0.0]
    assert gathered.shown == ("low",) and set(gathered.pictures) == {"case-1", "case-2"}
