import json

import numpy as np
import pandas as pd
import pytest

from evaluation.gathered import gather
from mlproject.evaluation.comparison import compare, disagreement, in_words
from mlproject.evaluation.comparison_report import write_comparison
from mlproject.evaluation.metrics import METRICS, summarise_groups
from mlproject.evaluation.statistics import holm

CASES = [f"case {n}" for n in range(12)]


def table(cases=CASES, **columns):
    return pd.DataFrame({"case": cases} | {metric.name: 0.5 for metric in METRICS} | {"reference_ml": 1.0} | columns)


def found(a, b):
    return {one.metric.name: one for one in compare({"A": a, "B": b})}


def test_holm_by_hand():
    # 0.01 is multiplied by 3, 0.02 by 2, 0.03 by 1 but not below the one before it.
    assert holm([0.03, 0.01, 0.02]).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]).tolist() == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []
    for wrong in ([-0.1], [1.1], [float("nan")]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(wrong)


def test_the_better_model_is_the_one_with_more_dice_and_with_less_distance():
    gain = np.linspace(0.05, 0.1, len(CASES))
    a = table(dice=0.6 + gain, hd95_mm=4 + 20 * gain)
    one = found(a, table(dice=0.6, hd95_mm=4.0))
    assert one["dice"].better == "A" and one["dice"].difference.mean == pytest.approx(gain.mean())
    assert one["hd95_mm"].better == "B" and one["hd95_mm"].difference.mean > 0
    assert one["precision"].better == "" and one["precision"].holm_p == 1.0
    words = in_words(list(one.values()))
    assert words[0].startswith("A is significantly better in Dice: 0.675 (A) against 0.600 (B), difference +0.075")
    assert words[1].startswith("B is significantly better in HD95: 5.50 (A) against 4.00 (B) mm, difference +1.50")
    assert words[2].startswith("No significant difference in Precision, Sensitivity")
    assert len(words) == 3


def test_a_difference_that_is_significant_alone_may_not_be_among_eight():
    a = table(dice=0.5 + np.array([0.01] * 10 + [-0.012, -0.002]))
    dice = found(a, table())["dice"]
    assert dice.difference.significant
    assert dice.difference.wilcoxon_p < 0.05 < dice.holm_p
    assert dice.better == "" and not dice.significant


def test_pairs_go_by_case_and_leave_out_what_is_undefined_for_either():
    a = table(cases=["x", "y", "z"], hd95_mm=[1.0, np.nan, 3.0])
    b = table(cases=["z", "x", "y"], hd95_mm=[np.nan, 2.0, 5.0])
    distance = found(a, b)["hd95_mm"]
    assert (distance.difference.cases, distance.undefined) == (1, 2)
    assert (distance.mean_a, distance.mean_b, distance.difference.mean) == (1.0, 2.0, -1.0)
    with pytest.raises(ValueError, match="same cases"):
        compare({"A": a, "B": table(cases=["x", "y", "other"])})


def test_a_metric_that_is_never_defined_takes_no_part_in_the_correction():
    gain = np.linspace(0.05, 0.1, len(CASES))
    undefined = {"hd95_mm": np.nan, "assd_mm": np.nan}
    one = found(table(dice=0.6 + gain, **undefined), table(dice=0.6))
    assert np.isnan(one["hd95_mm"].holm_p) and one["hd95_mm"].better == ""
    assert one["dice"].holm_p == pytest.approx(6 * one["dice"].difference.wilcoxon_p)


def test_few_cases_are_too_few_and_it_is_said():
    a, b = (table(cases=CASES[:5], dice=dice) for dice in (np.linspace(0.7, 0.8, 5), np.linspace(0.6, 0.65, 5)))
    words = in_words(compare({"A": a, "B": b}))
    assert "Dice" in words[0] and words[0].startswith("No significant difference")
    assert words[1].startswith(
        "With 5 cases no difference can be significant: the smallest p of Wilcoxon's test is 0.06"
    )
    assert in_words(compare({"A": a[:1], "B": b[:1]})) == ["1 case(s): too few to judge."]


def test_the_worst_disagreement_comes_first_whoever_is_better():
    a = table(cases=["x", "y", "z"], dice=[0.9, 0.5, 0.2])
    b = table(cases=["z", "y", "x"], dice=[0.8, 0.55, 0.8])
    gap = disagreement({"A": a, "B": b})
    assert gap.index.tolist() == ["z", "x", "y"]
    assert gap.tolist() == pytest.approx([-0.6, 0.1, -0.05])


def test_page_and_files(tmp_path):
    gathered = gather(("A", "B"), shown=("A", "B"))
    differences = compare(gathered.tables)
    facts = {"model A": "<one>", "model B": "other"}
    page = write_comparison(
        tmp_path, gathered, summarise_groups(gathered.tables), differences, ["a note"], "Title", facts
    ).read_text(encoding="utf-8")
    assert "&lt;one&gt;" in page and "<one>" not in page
    assert "found by A alone" in page and '"masks": ["reference", "A", "B"]' in page
    order = disagreement(gathered.tables).index.tolist()
    assert json.dumps(order[0])[1:9] in page[page.index("viewer-settings") :]
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    dice = next(row for row in numbers["differences"] if row["metric"] == "dice")
    assert dice["difference"] == pytest.approx(dice["mean_a"] - dice["mean_b"]) and dice["difference"] < 0
    assert pd.read_csv(tmp_path / "comparison.csv").set_index("metric").loc["dice", "cases"] == 3
    assert set(pd.read_csv(tmp_path / "per_case.csv")["variant"]) == {"A", "B"}
    assert (tmp_path / "Dice_of_A_against_Dice_of_B.png").exists()
