import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from nibabel.nifti1 import Nifti1Image
from rich.console import Console

import tiny
from evaluation.gathered import EVIL, NAMES, gather
from mlproject.data.preprocessing import PreprocessingSettings, prepare
from mlproject.evaluation import viewer_html
from mlproject.evaluation.gathering import Answer, Gatherer
from mlproject.evaluation.html import NOT_A_DEVICE
from mlproject.evaluation.metrics import METRICS, summarise_groups
from mlproject.evaluation.palette import legends
from mlproject.evaluation.report import false_alarms, summary_table, verdict, worst_first, write_report
from mlproject.evaluation.report_curves import explanations
from mlproject.evaluation.report_sections import summary
from mlproject.evaluation.statistics import PairedDifference, paired_difference
from mlproject.evaluation.wording import scans_of_one_patient, seen_cases
from mlproject.prediction.postprocessing import Postprocessing

NAN = float("nan")


def per_case(cases, dice, reference_ml, **columns):
    default = {metric.name: 0.25 for metric in METRICS}
    volumes = {"reference_ml": reference_ml, "prediction_ml": 1.5}
    return pd.DataFrame({"case": cases} | default | {"dice": dice} | volumes | columns)


def write(folder, gathered, chosen="crf", **texts):
    tables = gathered.tables
    differences = {"crf against network": paired_difference(tables["network"]["dice"], tables["crf"]["dice"])}
    return write_report(
        folder,
        gathered,
        summarise_groups(tables),
        differences,
        variants={"network": Postprocessing(), "crf": Postprocessing()},
        notes=texts.get("notes", []),
        title=texts.get("title", "title"),
        facts=texts.get("facts", {}),
        chosen=chosen,
        origin=texts.get("origin", "the default"),
    )


@pytest.fixture(scope="module")
def gathered():
    return gather(("network", "crf"), shown=("crf",))


@pytest.fixture(scope="module")
def folder(gathered, tmp_path_factory):
    to = tmp_path_factory.mktemp("reports") / "new" / "report"
    page = write(to, gathered, notes=[f"a note about {EVIL}"], title=f"Title {EVIL}", facts={"data set": EVIL})
    assert page == to / "report.html"
    return to


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The scripts of a page by id (their type and text), and everything else that people read."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.script, self.text, self.rows = {}, None, "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            attributes = dict(attrs)
            self.script = (attributes.get("id"), attributes.get("type"))
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(dict(attrs))

    def handle_endtag(self, tag):
        if tag == "script":
            self.script = None

    def handle_data(self, data):
        if self.script is None:
            self.text += data
        else:
            self.scripts[self.script] = data


def test_page_needs_no_network(page):
    ours = page
    for script in re.findall(r"<script.*?</script>", page, re.DOTALL):
        ours = ours.replace(script, "")
    assert not re.search(r"https?://|//cdn|<link|@import|url\(|<iframe|<object", ours)
    assert all(source.startswith("data:image/") for source in re.findall(r'<img[^>]* src="([^"]*)"', ours))
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert not re.search(r"connect-src|script-src[^;]*unsafe", policy)
    assert NOT_A_DEVICE in page


def test_the_policy_allows_the_pages_own_scripts_and_no_other(page):
    scripts = Page(page).scripts
    packed = scripts[("niivue", "application/gzip")]
    allowed = re.findall(r"'sha256-([^']*)'", page.split("</head>")[0])
    for script in (scripts[(None, None)], gzip.decompress(base64.b64decode(packed)).decode()):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    assert len(allowed) == 2
    assert [kind for _, kind in scripts].count(None) == 1  # nothing else would run


def test_page_escapes_every_text(page):
    text = Page(page).text
    assert EVIL in text and f"Title {EVIL}" in text and f"a note about {EVIL}" in text
    assert page.count("<script>alert") == 0


def test_rows_are_worst_first_and_sort_by_exact_values(gathered, page):
    table = gathered.tables["crf"].set_index("case")
    order = worst_first(gathered.tables["crf"])
    assert order[0] == "free" and set(order) == set(NAMES)
    rows = [row for row in Page(page).rows if row and "data-value" in row[0]]
    assert [row[0]["data-value"] for row in rows] == order
    assert [float(row[1]["data-value"]) for row in rows] == [table.at[case, "reference_ml"] for case in order]
    assert [float(row[4]["data-value"]) for row in rows] == [table.at[case, "dice"] for case in order]
    assert rows[0][6]["data-value"] == ""  # sensitivity of a case without a lesion: undefined, so sorted last


def test_each_case_opens_its_own_volumes(gathered, page):
    scripts = Page(page).scripts
    settings = json.loads(scripts[("viewer-settings", "application/json")])
    order = worst_first(gathered.tables["crf"])
    assert [case["name"] for case in settings["cases"]] == order
    assert settings["masks"] == ["reference", "crf"] and settings["legends"] == legends(["crf"])
    assert page.count('data-case="2"') >= 2  # a card, and a row of the table
    for number, name in enumerate(order):
        data = json.loads(scripts[(f"case-{number}", "application/json")])
        bits = np.asarray(Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data["masks"]))).dataobj)
        row = gathered.tables["crf"].set_index("case").loc[name]
        assert np.count_nonzero(bits & 1) * 0.008 == pytest.approx(row["reference_ml"])
        assert np.count_nonzero(bits & 2) * 0.008 == pytest.approx(row["prediction_ml"])
        assert base64.b64decode(data["planes"])[8:12] == b"WEBP"


def test_page_says_intervals_undefined_cases_and_what_metrics_mean(page):
    text = Page(page).text.replace("\u00a0", " ")
    assert "All cases (3)" in text and "Cases with a lesion (2)" in text
    assert "crf (chosen)" in text
    assert "undefined in 1" in text
    assert "False alarms in the 1 case(s) without a lesion: network 1 (up to 0.02 ml), crf 1" in text
    assert "Expected calibration error" in text
    for metric in METRICS:
        assert metric.description in text


def test_tables_hold_every_case_and_every_summary(folder, gathered):
    per_case_csv = pd.read_csv(folder / "per_case.csv")
    assert list(per_case_csv.columns[:3]) == ["variant", "case", "dice"]
    pd.testing.assert_frame_equal(
        per_case_csv[per_case_csv["variant"] == "crf"].drop(columns="variant").reset_index(drop=True),
        gathered.tables["crf"],
    )
    assert "missing" not in per_case_csv  # no case lacks a channel
    summary = pd.read_csv(folder / "summary.csv").set_index(["group", "variant", "metric"])
    assert len(summary) == 2 * 2 * len(METRICS)
    assert summary.loc[("all cases", "crf", "sensitivity"), "undefined"] == 1
    lesions = pd.read_csv(folder / "lesions.csv")
    assert len(lesions[(lesions["variant"] == "crf") & (lesions["side"] == "reference")]) == 2
    for name in ("per_case", "lesions"):
        assert len(strict_json(folder / f"{name}.json")) == len(pd.read_csv(folder / f"{name}.csv"))


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_json_is_strict_and_says_null_where_undefined(folder):
    numbers = strict_json(folder / "summary.json")
    assert numbers["summaries"]["all cases"]["crf"]["sensitivity"]["undefined"] == 1
    assert numbers["differences"]["crf against network"]["significant"] is False
    rows = {row["case"]: row for row in strict_json(folder / "per_case.json") if row["variant"] == "crf"}
    assert rows["free"]["sensitivity"] is None
    curves = strict_json(folder / "curves.json")
    assert curves["calibration"]["network"]["reliability"][3]["lesion_share"] is None  # an empty bin
    assert set(curves["calibration"]) == {"network", "crf"}
    assert len(curves["dice_over_threshold"]["all cases"]["dice"]) == 99


def test_curves_agree_with_the_tables(folder, gathered):
    curve = strict_json(folder / "curves.json")["dice_over_threshold"]
    assert curve["variant"] == "crf"
    assert curve["all cases"]["threshold"][49] == 0.5
    assert curve["all cases"]["dice"][49] == pytest.approx(gathered.tables["crf"]["dice"].mean())
    with_lesion = gathered.tables["network"].query("reference_ml > 0")["dice"].mean()
    assert curve["cases with a lesion, network"]["dice"][49] == pytest.approx(with_lesion)


@pytest.mark.parametrize(
    ("postprocessing", "words"),
    [
        (Postprocessing(), "The mark is the one in use, 0.5, tuned here. Bands"),
        (
            Postprocessing(0.35, min_lesion_ml=0.03),
            "0.35, tuned here; it includes the removal of lesions below 0.03 ml, the curves do not.",
        ),
    ],
)
def test_the_threshold_is_said_to_be_what_it_is(postprocessing, words):
    assert words in explanations(postprocessing, "tuned here")["Dice over the threshold"]


def test_every_figure_is_a_file(folder):
    names = {path.stem for path in folder.glob("*.png")}
    assert {"worst", "best", "Calibration", "Agreement_of_the_volumes", "Lesions_found_by_size"} <= names
    assert {"Dice_of_each_case", "Dice_against_lesion_volume", "Dice_over_the_threshold"} <= names


def test_one_variant_and_one_case_alone(tmp_path):
    alone = gather(("network",), shown=("network",))
    alone.tables["network"] = alone.tables["network"].iloc[:1]
    alone.counts["network"] = alone.counts["network"][:1]
    page = write_report(
        tmp_path,
        alone,
        summarise_groups(alone.tables),
        {},
        {"network": Postprocessing()},
        [],
        "title",
        {},
        chosen="network",
        origin="the default",
    )
    text = page.read_text()
    assert "All cases (1)" in text and "Cases with a lesion (" not in text  # the same case: once is enough


def test_unknown_chosen_variant_is_refused(tmp_path, gathered):
    with pytest.raises(ValueError, match="'other' is not one of the variants: network, crf"):
        write(tmp_path, gathered, chosen="other")


def test_the_bundled_viewer_is_the_one_described():
    described = (viewer_html.FOLDER / "README.md").read_text()
    assert hashlib.sha256((viewer_html.FOLDER / "niivue.min.js").read_bytes()).hexdigest() in described
    assert "</script" not in (viewer_html.FOLDER / "page.js").read_text().lower()


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (
            PairedDifference(9, 0.02, 0.01, 0.03, 0.004, 1, 0.004),
            ["+0.020", "+0.010 to +0.030", "Wilcoxon p = 0.004; 9 cases", "significantly better"],
        ),
        (PairedDifference(9, -0.02, -0.03, -0.01, 0.004, 1, 0.004), ["-0.020", "significantly worse"]),
        (PairedDifference(9, 0.02, -0.01, 0.03, 0.2, 1, 0.2), ["p = 0.2", "not statistically significant"]),
        (
            PairedDifference(9, 0.02, 0.01, 0.03, 0.02, 3, 0.06),
            ["Wilcoxon p = 0.06, corrected for 3 comparisons", "not statistically significant"],
        ),
        (
            PairedDifference(5, 0.02, 0.01, 0.03, 0.0625, 1, 0.0625),
            ["too few to be significant (p cannot be below 0.062)"],
        ),
        (
            PairedDifference(6, 0.02, 0.01, 0.03, 0.03125, 3, 0.09375),
            ["too few to be significant (p cannot be below 0.094)"],
        ),
        (PairedDifference(6, 0.02, 0.01, 0.03, 0.03125, 1, 0.03125), ["significantly better"]),
        (PairedDifference(1, 0.02, NAN, NAN, 1.0, 1, 1.0), ["too few to judge"]),
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


def test_terminal_table_fits_into_80_columns():
    console = Console(width=80)
    variants = {"best threshold": per_case(["a", "b"], [0.80, 0.30], [300.0, 2.0], prediction_ml=[5.0, 2.0])}
    with console.capture() as capture:
        console.print(summary_table(summarise_groups(variants)["all cases"], "all cases (2)"))
    assert len(capture.get().rstrip().split("\n")) == 3
    assert "0.550 (0.300–0.800)" in capture.get()


def test_one_case_has_no_interval_and_no_brackets(tmp_path):
    one = summarise_groups({"network": per_case(["a"], [0.8], [3.0])})["all cases"]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(summary_table(one))
    assert re.search(r"network +0\.800 +0\.250 +0\.25\n", capture.get())
    assert "(–" not in summary("all cases", one) and "median\u00a00.800" in summary("all cases", one)


def test_several_scans_of_a_patient_are_said():
    assert scans_of_one_patient(["p1", "p2"]) == []
    (note,) = scans_of_one_patient(["p1", "p2", "p1"])
    assert note.startswith("The 3 cases are of 2 patients: ") and "intervals are too narrow and the p values" in note


def test_cases_that_a_model_has_seen_are_said():
    assert seen_cases({"A": 0, "B": 0}, 6) == []
    assert seen_cases({"A": 3, "B": 4}, 6) == [
        "Not an estimate for new patients: A was trained or tuned on 3 and B was trained or tuned on 4 of the 6 cases "
        "measured."
    ]


def test_terminal_table_has_a_row_a_variant():
    console = Console(width=120, record=True, file=None, quiet=False)
    cases, volumes = ["good", "bad", "free"], [3.0, 2.0, 0.0]
    variants = {
        "network": per_case(cases, [0.80, 0.30, 0.0], volumes),
        "[red]odd[/red]": per_case(cases, [0.90, 0.41, 0.0], volumes),
    }
    with console.capture() as capture:
        console.print(summary_table(summarise_groups(variants)["all cases"], "all cases (3)"))
    printed = capture.get()
    assert re.search(r"network .* 0\.367 \(0\.000–0\.800\) .* 0\.250 .* 0\.25 ", printed)
    assert "Volume difference (ml)" in printed
    assert "[red]odd[/red]" in printed


@pytest.mark.long
def test_the_page_of_forty_noisy_cases_stays_under_40_megabytes(tmp_path):
    """Noise is what compresses worst. One case of an ordinary grid stands for all."""
    gatherer = Gatherer(40, ("crf",))
    case = prepare(tiny.volume("noise", seed=0, shape=(112, 112, 72)), PreprocessingSettings())
    label = case.native_label
    gatherer.add(case, [Answer(variant, label, label.astype(np.float32), ()) for variant in ("network", "crf")])
    one = gatherer.result()
    names = [f"case-{number:04d}" for number in range(40)]
    forty = replace(
        one,
        tables={variant: pd.concat([table] * 40).assign(case=names) for variant, table in one.tables.items()},
        counts={variant: counts * 40 for variant, counts in one.counts.items()},
        pictures=dict.fromkeys(names, next(iter(one.pictures.values()))),
    )
    page = write(tmp_path, forty)
    assert 10e6 < page.stat().st_size < 40e6
