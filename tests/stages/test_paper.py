"""How `reproduce` judges: the words follow from the numbers."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tiny
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.errors import SettingsError
from mlproject.evaluation.statistics import PairedDifference
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper import crf, crf_choices, loss, network, workers
from mlproject.stages.paper.finding import Finding, minutes, page
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


def difference(mean: float, significant: bool) -> PairedDifference:
    low, high = (mean - 0.01, mean + 0.01) if significant else (mean - 1, mean + 1)
    return PairedDifference(14, mean, low, high, 0.001, 3, 0.003)


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        (difference(0.2, significant=True), "Supported"),
        (difference(0.2, significant=False), "Not settled"),
        (difference(-0.2, significant=True), "Contradicted"),
        (difference(-0.2, significant=False), "Not settled"),
    ],
)
def test_the_network_is_judged_by_its_gain_over_the_image(gain: PairedDifference, word: str) -> None:
    tables = {name: pd.DataFrame({"dice": [0.5]}) for name in (network.INTENSITY, network.PAPER, network.OURS)}
    found = {(network.INTENSITY, network.PAPER): gain, (network.PAPER, network.OURS): difference(0.3, True)}
    verdict = network._verdict(found, tables)
    assert verdict.startswith(f"{word}:") and f"{gain.mean:+.3f}" in verdict and verdict.endswith("+0.300.")
    assert ("not significant" in verdict) == (not gain.significant)


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ({crf.PUBLISHED: 0.1, crf.GAUSSIAN: 0.1, crf.BILATERAL: 0.1}, "Supported"),
        ({crf.BILATERAL: 0.1}, "Partly supported"),
        ({crf.PUBLISHED: -0.1, crf.BILATERAL: 0.1}, "Partly supported"),
        ({crf.PUBLISHED: -0.1}, "Contradicted"),
        ({crf.LARGEST: 0.1}, "Not settled"),  # which is no CRF
        ({}, "Not settled"),
    ],
)
def test_the_crf_is_judged_by_its_gains_over_the_best_threshold(gains: dict[str, float], word: str) -> None:
    found = {(crf.THRESHOLD, name): difference(gains.get(name, 0.3), name in gains) for name in crf.VARIANTS}
    verdict = crf._verdict(found)
    assert verdict.startswith(f"{word}:") and verdict.count("(not significant)") == 4 - len(gains)


def test_a_width_in_voxels_that_differs_by_axis_is_said_to_be_the_mean() -> None:
    volume = tiny.volume("case", seed=1)  # of 2 mm voxels
    thick = replace(volume, affine=np.diag([1.5, 1.5, 6.0, 1.0]))
    cases = [prepare(entry, PreprocessingSettings()) for entry in (volume, thick)]
    cubes, slabs = (CaseProbability(case, np.zeros(case.brain.shape, np.float32)) for case in cases)
    assert not list(crf._of_long_voxels([cubes]))
    assert "1.5 x 1.5 x 6 mm" in next(crf._of_long_voxels([slabs]))


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
    tests = loss._tests(summaries, {panel: dict.fromkeys(loss.LOSSES, len(panel) * 1e-3) for panel in summaries})
    assert len(tests) == 4 and loss._verdict(tests).startswith(f"{word}:")


def test_a_comparison_at_the_same_rates_stands_once() -> None:
    summaries = {panel: summary([0.60, 0.61, 0.59], [0.30, 0.31, 0.29]) for panel in (loss.SAME, loss.TUNED)}
    rates = {panel: dict.fromkeys(loss.LOSSES, 1e-3) for panel in summaries}
    rates[loss.TUNED]["soft Dice"] = 2e-3
    assert [(panel, other) for panel, other, *_ in loss._tests(summaries, rates)] == [
        (loss.SAME, "cross-entropy"),
        (loss.SAME, "soft Dice"),
        (loss.TUNED, "soft Dice"),
    ]


@pytest.mark.parametrize(
    ("took", "dice", "word"),
    [
        ([2.0, 2.1], [0.600, 0.610], "Supported"),
        ([2.0, 2.1], [0.500, 0.620], "Faster, but equal quality is not shown"),
        ([4.5, 2.1], [0.600, 0.610], "Not supported"),  # with one seed it was slower
        ([2.0, 2.1], [0.600, 0.0], "Not settled"),
    ],
)
def test_workers_are_judged_by_time_and_by_quality(took: list[float], dice: list[float], word: str) -> None:
    rows = [("cpu", seed, 1, 0.4, 4.0, 5.0, last, last) for seed, last in enumerate((0.601, 0.611))]
    rows += [("cpu", seed, 2, 0.2, took[seed], 3.0, dice[seed], dice[seed]) for seed in (0, 1)]
    columns = ["device", "seed", "workers", "seconds_a_step", "minutes_to_level", "minutes", "best_dice", "final_dice"]
    assert workers._verdict(pd.DataFrame(rows, columns=columns), 2).startswith(f"{word} on CPU")


def test_a_finding_survives_and_is_on_the_page() -> None:
    tables = (("", "| a |"), ("Of b.", "| b |"))
    examined = Finding("crf", "It helps", "Supported: yes.", "Much.", tables, "Gains", ("x",))
    finding = replace(examined, key="k", trainings={"r1": 2.0, "r2": 3.4}, measuring=1.2, commits=("c", "d"))
    assert Finding.from_json(finding.to_json(), "k") == finding
    assert Finding.from_json(finding.to_json(), "of other settings") is None
    assert minutes([finding, replace(finding, trainings={"r2": 3.4, "r3": 1.0}, measuring=0)]) == pytest.approx(7.6)
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
        "2 trainings of 5.4 minutes in all, and 1.2 minutes beside; commits `c`, `d`.",
    ):
        assert words in text
