"""How `reproduce` judges: the words follow from the numbers."""

import numpy as np
import pandas as pd
import pytest

import tiny
from mlproject.errors import SettingsError
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper import crf, loss, workers
from mlproject.stages.paper.finding import Finding, page
from mlproject.stages.paper.settings import PaperSettings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"study": "a'b"}, "study"),
        ({"study": ""}, "study"),
        ({"parts": ()}, "parts"),
        ({"parts": ("loss", "loss")}, "parts"),
        ({"seeds": (1,)}, "two or more"),
        ({"seeds": (1, 1)}, "different"),
        ({"seeds": (0, -1)}, "below 0"),
        ({"rates": ()}, "rates"),
        ({"rates": (0.0, 1e-3)}, "above 0"),
        ({"processes": 1}, "2 or more"),
        ({"loss_steps": 4, "validations": 8}, "fewer"),
    ],
)
def test_settings_that_test_nothing_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PaperSettings(**given)  # type: ignore[arg-type]


def test_the_largest_component_alone_is_kept() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[0, 0, :2], mask[4:6, 4, 4], mask[6, 5, 5] = True, True, True  # the last two touch at a corner
    kept = crf._largest(mask)
    assert kept.sum() == 3 and kept[6, 5, 5] and not kept[0].any()
    assert crf._largest(np.zeros((2, 2, 2), dtype=bool)).sum() == 0


def test_the_papers_crf_has_the_published_numbers() -> None:
    (case,) = tiny.cases([1])  # of 2 mm voxels
    chosen = crf.as_published([CaseProbability(case, np.zeros(case.brain.shape, np.float32))])
    assert chosen.threshold == 0.5 and chosen.crf is not None
    assert (chosen.crf.theta_gamma_mm, chosen.crf.weight_gaussian, chosen.crf.iterations) == (4.0, 2.0, 5)
    assert chosen.crf.weight_bilateral == 0


def summary(both: list[float], alone: list[float]) -> pd.DataFrame:
    areas = {loss.BOTH: both, "cross-entropy": alone, "soft Dice": alone}
    rows = [(variant, seed, area) for variant, values in areas.items() for seed, area in enumerate(values)]
    return pd.DataFrame(rows, columns=["variant", "seed", "area"])


@pytest.mark.parametrize(
    ("both", "alone", "word"),
    [
        ([0.60, 0.61, 0.59], [0.300, 0.311, 0.291], "Supported"),
        ([0.60, 0.20, 0.59], [0.30, 0.31, 0.29], "Not settled"),  # one seed says otherwise
        ([0.30, 0.31, 0.29], [0.600, 0.611, 0.591], "Contradicted"),
        ([0.60, 0.61, 0.59], [0.60, 0.61, 0.59], "Not settled"),
    ],
)
def test_the_loss_is_judged_by_all_its_comparisons(both: list[float], alone: list[float], word: str) -> None:
    summaries = {panel: summary(both, alone) for panel in (loss.SAME, loss.TUNED)}
    tests = loss._tests(summaries)
    assert len(tests) == 4 and loss._verdict(tests).startswith(f"{word}:")


@pytest.mark.parametrize(
    ("minutes", "dice", "word"),
    [
        ([2.0, 2.1], [0.600, 0.610], "Supported"),
        ([2.0, 2.1], [0.500, 0.620], "Faster, but equal quality is not shown"),
        ([4.5, 2.1], [0.600, 0.610], "Not supported"),  # with one seed it was slower
        ([2.0, 2.1], [0.600, 0.0], "Not settled"),
    ],
)
def test_workers_are_judged_by_time_and_by_quality(minutes: list[float], dice: list[float], word: str) -> None:
    rows = [("cpu", seed, 1, 0.4, 4.0, 5.0, last, last) for seed, last in enumerate((0.601, 0.611))]
    rows += [("cpu", seed, 2, 0.2, minutes[seed], 3.0, dice[seed], dice[seed]) for seed in (0, 1)]
    columns = ["device", "seed", "workers", "seconds_a_step", "minutes_to_level", "minutes", "best_dice", "final_dice"]
    assert workers._verdict(pd.DataFrame(rows, columns=columns), 2).startswith(f"{word} on CPU")


def test_a_finding_survives_and_is_on_the_page() -> None:
    finding = Finding(
        "crf", "It helps", "Supported: yes.", "Much.", (("", "| a |"), ("Of b.", "| b |")), "Gains", ("x",), 2.0, "c"
    )
    assert Finding.from_json(finding.to_json()) == finding
    text = page("Title", [("data", "d")], [finding], "paper")
    for words in ("# Title", "1. It helps", "![Gains](paper/crf.png)", "| a |", "Of b.\n\n| b |", "- x", "commit `c`"):
        assert words in text
