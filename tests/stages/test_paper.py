"""How `reproduce` judges: the words follow from the numbers."""

import math

import numpy as np
import pandas as pd
import pytest

import tiny
from mlproject.errors import SettingsError
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper import crf, crf_choices, loss, workers
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
    kept = crf_choices.largest(mask)
    assert kept.sum() == 3 and kept[6, 5, 5] and not kept[0].any()
    assert crf_choices.largest(np.zeros((2, 2, 2), dtype=bool)).sum() == 0


def test_the_papers_crf_has_the_published_numbers() -> None:
    (case,) = tiny.cases([1])  # of 2 mm voxels
    chosen = crf_choices.as_published([CaseProbability(case, np.zeros(case.brain.shape, np.float32))])
    assert chosen.threshold == 0.5 and chosen.crf is not None
    assert (chosen.crf.theta_gamma_mm, chosen.crf.weight_gaussian, chosen.crf.iterations) == (4.0, 2.0, 5)
    assert chosen.crf.weight_bilateral == 0


def test_choices_at_the_ends_of_what_was_tried_are_named() -> None:
    bilateral = CrfSettings(weight_gaussian=0.0, weight_bilateral=10.0, iterations=5)
    gaussian = CrfSettings(weight_gaussian=1.0, weight_bilateral=0.0, iterations=8)
    tuned = {
        crf.THRESHOLD: Postprocessing(0.9, 0.25),
        crf.GAUSSIAN: Postprocessing(0.5, 2.0, gaussian),
        crf.BILATERAL: Postprocessing(0.95, 0.0, bilateral),
    }
    (found,) = crf._at_the_ends(tuned, 8)
    assert "(smallest lesion in ml 2, iterations 8)" in found and crf.THRESHOLD not in found
    assert "(threshold 0.95, Gaussian weight 0, bilateral weight 10)" in found
    assert not list(crf._at_the_ends({crf.THRESHOLD: Postprocessing(0.9, 0.25)}, 8))


def test_a_network_that_is_no_better_than_the_image_is_said_to_be_so() -> None:
    weak, strong = (pd.DataFrame({"dice": [dice, dice + 0.1]}) for dice in (0.53, 0.6))
    (found,) = crf._beside_the_image(weak, strong)
    assert "(0.580)" in found and "(0.650)" in found and "does not beat" in found
    assert not list(crf._beside_the_image(strong, weak))


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        ([90.0, 100.0, 110.0], "100 (90 to 110)"),
        ([60.0, 90.0, math.nan], "over 130 (60 to over 240), never in 1 of 3"),
        ([math.nan] * 3, "over 240, never in 3 of 3"),
    ],
)
def test_a_training_that_never_got_there_counts_with_all_its_steps(reached: list[float], words: str) -> None:
    rows = pd.DataFrame({"variant": "soft Dice", "steps_to_level": reached, "area": 0.3, "best_dice": 0.4})
    ((*_, shown),) = loss._rows(loss.SAME, rows, {"soft Dice": 1e-3}, 240)
    assert shown == words


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
    text = page("Title", "Not of\npatients.", [("data", "d")], "Again: do it.", [finding], "paper")
    assert text.startswith("# Title\n\nNot of patients.\n\n") and "against it**\n\n- Not of patients.\n- x" in text
    assert "Not" not in page("Title", "", [], "", [finding], "paper")
    for words in (
        "Again: do it.",
        "# Title",
        "1. It helps",
        "![Gains](paper/crf.png)",
        "| a |",
        "Of b.\n\n| b |",
        "- x",
        "commit `c`",
    ):
        assert words in text
