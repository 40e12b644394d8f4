import json
import re

import numpy as np
import pandas as pd
import pytest

from evaluation.gathered import gather
from mlproject.evaluation.comparison import compare, dice_differences, disagreement, in_words, rows
from mlproject.evaluation.comparison_report import write_comparison
from mlproject.evaluation.metrics import METRICS, summarise_groups
from mlproject.evaluation.statistics import holm, paired_difference

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
    assert one["precision"].better == "" and one["precision"].difference.corrected_p == 1.0
    words = in_words(list(one.values()))
    assert words[0].startswith("A is significantly better in Dice: 0.675 (A) against 0.600 (B), difference +0.075")
    assert words[1].startswith("B is significantly better in HD95: 5.50 (A) against 4.00 (B) mm, difference +1.50")
    assert words[2].startswith("No significant difference in Precision, Sensitivity")
    assert len(words) == 3


def test_a_difference_that_is_significant_alone_may_not_be_among_eight():
    a = table(dice=0.5 + np.array([0.01] * 10 + [-0.012, -0.002]))
    dice = found(a, table())["dice"]
    alone = paired_difference(table()["dice"], a["dice"])
    assert alone.significant and alone.wilcoxon_p == dice.difference.wilcoxon_p
    assert dice.difference.corrected_p == pytest.approx(8 * alone.wilcoxon_p) and dice.better == ""


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
    assert np.isnan(one["hd95_mm"].difference.corrected_p) and one["hd95_mm"].better == ""
    assert one["dice"].difference.corrected_p == pytest.approx(6 * one["dice"].difference.wilcoxon_p)


def all_better(cases, **columns):
    """A is better in every metric of every case, B is `table`."""
    gain = np.linspace(0.1, 0.2, cases)
    better = {m.name: 0.5 + gain if m.better == "higher" else 0.5 - gain for m in METRICS}
    return compare({"A": table(cases=CASES[:cases], **better | columns), "B": table(cases=CASES[:cases])})


@pytest.mark.parametrize(("cases", "smallest"), [(2, "1."), (5, "0.5."), (8, "0.0625.")])
def test_few_cases_are_too_few_for_eight_tests_and_it_is_said_in_place_of_no_difference(cases, smallest):
    found = all_better(cases)
    (words,) = in_words(found)
    assert words.startswith(f"With {cases} cases and 8 metrics tested at once no difference can be significant")
    assert words.endswith(f"can give is {smallest}")
    assert {row[-1] for row in rows(found)} == {"too few cases"}


def test_nine_cases_that_all_agree_are_enough_for_eight_tests():
    words = in_words(all_better(9))
    assert len(words) == 8 and all(sentence.startswith("A is significantly better in") for sentence in words)


def test_a_metric_that_is_seldom_defined_has_too_few_cases_of_its_own():
    found = all_better(12, hd95_mm=[0.4] * 5 + [np.nan] * 7, precision=0.5)
    words = in_words(found)
    assert words[-2:] == [
        "No significant difference in Precision.",
        "Too few cases for any difference to be significant in HD95.",
    ]
    assert len(words) == 8
    meaning = {row[0][0]: row[-1] for row in rows(found)}
    assert (meaning["HD95 (mm)"], meaning["Precision"]) == ("too few cases", "not significant")


@pytest.mark.parametrize("cases", [0, 1])
def test_less_than_two_cases_cannot_be_judged(cases):
    nothing = {m.name: 0.5 for m in METRICS}
    found = compare({name: table(cases=CASES[:cases], **nothing) for name in "AB"})
    assert in_words(found) == [f"{cases} case(s): too few to judge."]


def test_every_two_variants_are_compared_in_dice_and_corrected_for_each_other():
    gain = np.linspace(0.05, 0.1, len(CASES))
    tables = {"network": table(), "best": table(dice=0.5 + gain), "crf": table(dice=0.5 + 2 * gain)}
    differences = dice_differences(tables)
    assert list(differences) == ["best against network", "crf against network", "crf against best"]
    assert differences["crf against network"].mean == pytest.approx(2 * gain.mean())
    for one in differences.values():
        assert one.corrected_p == pytest.approx(3 * one.wilcoxon_p)


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


def test_what_one_model_had_to_do_without_is_said_of_that_one(tmp_path):
    gathered = gather(("A", "B"), shown=("A", "B"), missing={("good", "B"): ["flair"]})
    found, summaries = compare(gathered.tables), summarise_groups(gathered.tables)
    facts = {"model A": "one", "model B": "other"}
    page = write_comparison(tmp_path, gathered, summaries, found, ["a note"], "Title", facts).read_text("utf-8")
    note = "B lacked channels in 1 of 3 cases (1 without flair): they were zero to it."
    assert f"<li>{note}</li>" in page
    assert json.loads((tmp_path / "comparison.json").read_text())["notes"] == ["a note", note]
    assert re.findall(r"<button type=\"button\">(Missing channels, .)</button>", page) == [
        "Missing channels, A",
        "Missing channels, B",
    ]
    notes = re.findall(r'"name": "good", "note": "[^"]*, (. without [^"]*)"', page)
    assert notes == ["B without flair"]
    per_case = pd.read_csv(tmp_path / "per_case.csv", keep_default_na=False).set_index(["variant", "case"])["missing"]
    assert per_case["B", "good"] == "flair" and not per_case["A"].any() and not per_case["B", "free"]
