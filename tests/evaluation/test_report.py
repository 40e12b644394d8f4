import base64
import json
import re

import pandas as pd
import pytest
from rich.console import Console

from mlproject.evaluation.html import NOT_A_DEVICE
from mlproject.evaluation.metrics import METRICS, summarise_groups
from mlproject.evaluation.report import false_alarms, summary_table, verdict, write_report
from mlproject.evaluation.statistics import PairedDifference, paired_difference

NAN = float("nan")
EVIL = "<script>alert('&')</script>"


def per_case(cases, dice, reference_ml, **columns):
    default = {metric.name: 0.25 for metric in METRICS}
    volumes = {"reference_ml": reference_ml, "prediction_ml": 1.5}
    return pd.DataFrame({"case": cases} | default | {"dice": dice} | volumes | columns)


def tables():
    cases, volumes = ["good", EVIL, "free"], [3.0, 2.0, 0.0]
    return {
        "network": per_case(cases, [0.80, 0.30, 0.0], volumes, hd95_mm=[1.0, 9.0, NAN]),
        "crf": per_case(cases, [0.90, 0.41, 0.0], volumes, hd95_mm=[1.0, 9.0, NAN]),
    }


@pytest.fixture
def folder(tmp_path):
    variants = tables()
    picture = tmp_path / "loss.png"
    picture.write_bytes(b"from a file")
    page = write_report(
        tmp_path / "new" / "report",
        variants,
        summarise_groups(variants),
        {"crf against network": paired_difference(variants["network"]["dice"], variants["crf"]["dice"])},
        {"Loss <curves>": picture, f"Worst: {EVIL}": b"from memory"},
        [f"a note about {EVIL}"],
        f"Title {EVIL}",
        {"data set": EVIL},
        chosen="crf",
    )
    assert page == tmp_path / "new" / "report" / "report.html"
    return page.parent


def test_page_needs_no_network_and_holds_its_pictures(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        b"from a file",
        b"from memory",
    ]
    assert NOT_A_DEVICE in page


def test_page_escapes_every_text(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<curves>" not in page
    # The title twice, a note, a fact, the case, and the picture's two titles.
    assert page.count("&lt;script&gt;") == 7


def test_page_lists_the_worst_case_of_the_chosen_variant_first(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    cases = page[page.index("Cases, worst first") :]
    assert cases.index(">free<") < cases.index("&lt;script") < cases.index(">good<")
    row = next(row for row in cases.split("<tr>") if ">good<" in row)
    assert re.findall("<td>([^<]*)</td>", row)[:4] == ["good", "3.00", "0.800", "0.900"]
    assert "–" in next(row for row in cases.split("<tr>") if ">free<" in row)


def test_page_says_intervals_undefined_cases_and_what_metrics_mean(folder):
    page = (folder / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "All cases (3)" in page
    assert "Cases with a lesion (2)" in page
    assert "crf (chosen)" in page
    assert "0.437<small>(0.000 to 0.900), median 0.410</small>" in page
    assert "undefined in 1" in page
    assert "False alarms in the 1 case(s) without a lesion: network 1 (up to 1.50 ml), crf 1" in page
    for metric in METRICS:
        assert metric.description in page


def test_tables_hold_every_case_and_every_summary(folder):
    per_case_csv = pd.read_csv(folder / "per_case.csv")
    assert list(per_case_csv.columns[:3]) == ["variant", "case", "dice"]
    pd.testing.assert_frame_equal(
        per_case_csv[per_case_csv["variant"] == "crf"].drop(columns="variant").reset_index(drop=True),
        tables()["crf"],
    )
    summary = pd.read_csv(folder / "summary.csv").set_index(["group", "variant", "metric"])
    assert len(summary) == 2 * 2 * len(METRICS)
    assert summary.loc[("cases with a lesion", "network", "dice"), "mean"] == pytest.approx(0.55)
    assert summary.loc[("all cases", "crf", "hd95_mm"), "undefined"] == 1


def test_json_is_strict_and_says_null_where_undefined(tmp_path):
    variants = {"network": per_case(["only"], [0.5], [1.0], hd95_mm=[NAN])}
    summaries, difference = summarise_groups(variants), paired_difference([0.5], [0.6])
    write_report(tmp_path, variants, summaries, {"a": difference}, {}, [], "title", {}, chosen="network")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    numbers = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    network = numbers["summaries"]["all cases"]["network"]
    assert network["dice"]["mean"] == 0.5
    assert network["dice"]["low"] is None  # one case has no interval
    assert network["hd95_mm"] == {
        "mean": None, "median": None, "low": None, "high": None, "cases": 0, "undefined": 1,
    }  # fmt: skip
    assert numbers["differences"]["a"]["low"] is None
    assert numbers["differences"]["a"]["significant"] is False


def test_unknown_chosen_variant_is_refused(tmp_path):
    variants = tables()
    with pytest.raises(ValueError, match="'other' is not one of the variants: network, crf"):
        write_report(tmp_path, variants, summarise_groups(variants), {}, {}, [], "title", {}, chosen="other")


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (
            PairedDifference(9, 0.02, 0.01, 0.03, 0.004),
            ["+0.020", "+0.010 to +0.030", "significantly better"],
        ),
        (PairedDifference(9, -0.02, -0.03, -0.01, 0.004), ["-0.020", "significantly worse"]),
        (PairedDifference(9, 0.02, -0.01, 0.03, 0.2), ["p = 0.2", "not statistically significant"]),
        (PairedDifference(5, 0.02, 0.01, 0.03, 0.0625), ["not statistically significant"]),
        (PairedDifference(1, 0.02, NAN, NAN, 1.0), ["too few to judge"]),
    ],
)
def test_verdict(difference, words):
    sentence = verdict("crf against network", difference)
    assert sentence.startswith("crf against network: ")
    assert all(word in sentence for word in words)
    assert "nan" not in sentence


def test_false_alarms():
    quiet = per_case(["a", "b", "c"], 0.5, [0.0, 0.0, 1.0], prediction_ml=[0.0, 0.0, 1.0])
    loud = per_case(["a", "b", "c"], 0.5, [0.0, 0.0, 1.0], prediction_ml=[0.3, 2.0, 1.0])
    sentence = "False alarms in the 2 case(s) without a lesion: network 2 (up to 2.00 ml), crf 0."
    assert false_alarms({"network": loud, "crf": quiet}) == sentence
    assert false_alarms({"network": per_case(["a"], 0.5, [1.0])}) == "Every case has a lesion."


def test_terminal_table_has_a_row_a_variant():
    console = Console(width=120, record=True, file=None, quiet=False)
    variants = tables() | {"[red]odd[/red]": tables()["crf"]}
    with console.capture() as capture:
        console.print(summary_table(summarise_groups(variants)["all cases"], "all cases (3)"))
    printed = capture.get()
    assert re.search(r"network .* 0\.367 \(0\.000 to 0\.800\) .* 0\.250 .* 0\.25 ", printed)
    assert "Volume difference (ml)" in printed
    assert "[red]odd[/red]" in printed
