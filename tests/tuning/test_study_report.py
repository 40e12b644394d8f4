import re

import matplotlib
import optuna
import pandas as pd
import pytest
from matplotlib import pyplot
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from mlproject.tuning import study_plots
from mlproject.tuning.study_report import write_study

EVIL = "<script>alert('&')</script>"
PLOTS = {
    "history": "Optimisation history",
    "importance": "Parameter importance",
    "slice": "Slice",
    "parallel_coordinates": "Parallel coordinates",
    "intermediate_values": "Intermediate values",
}
SPACE = {
    "loss.dice": FloatDistribution(0.05, 2, log=True),
    "loss.batch_dice": CategoricalDistribution([False, True]),
    "training.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "network.channels": CategoricalDistribution(["[16, 32]", "[8, 16, 32, 64]"]),
    "network.norm": CategoricalDistribution(['"batch"', '"instance"']),  # JSON too
    "training.batch_size": IntDistribution(1, 8),
}


def params(number):
    choices = {"loss.batch_dice": number % 2 == 0, "network.channels": ["[16, 32]", "[8, 16, 32, 64]"][number // 2 % 2]}
    return choices | {
        "network.norm": ['"batch"', '"instance"'][number % 2],
        "loss.dice": 0.1 * (1 + number * 7 % 11),
        "training.learning_rate": 10 ** (-1 - number % 3),
        "training.batch_size": 1 + number % 4,
    }


def trial(number, state=TrialState.COMPLETE, value=None, **attributes):
    complete = state == TrialState.COMPLETE
    return create_trial(
        state=state,
        value=(0.5 + 0.01 * (number * 7 % 11) if value is None else value) if complete else None,
        params=params(number),
        distributions=SPACE,
        intermediate_values={1: 0.1 + 0.01 * number, 2: 0.3} if state != TrialState.WAITING else {},
        **attributes,
    )


def study_of(trials, direction="maximize"):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


@pytest.fixture(scope="module")
def mixed_study():
    """12 finished trials; 12 and 13 pruned, 14 and 15 failed; 16 lost, again as 17, and waiting as 18."""
    worker, out_of_memory = {"worker": "node:7"}, {"failure": f"out of memory {EVIL}"}
    study = study_of([trial(number, user_attrs=worker) for number in range(12)])
    study.add_trials([trial(12, TrialState.PRUNED), trial(13, TrialState.PRUNED)])
    study.add_trials([trial(14, TrialState.FAIL, user_attrs=out_of_memory) for _ in (14, 15)])
    study.add_trial(trial(16, TrialState.FAIL))
    study.add_trial(trial(16, TrialState.FAIL, system_attrs={"failed_trial": 16, "retry_history": [16]}))
    study.add_trial(trial(16, TrialState.WAITING, system_attrs={"failed_trial": 16, "retry_history": [16, 17]}))
    return study


@pytest.fixture(scope="module")
def folder(mixed_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "new" / "report"
    page = write_study(folder, mixed_study, f"Title {EVIL}", {"data set": EVIL})
    assert page == folder / "study.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "study.html").read_text(encoding="utf-8")


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def sections(page):
    """Heading → what stands below it, without the scripts."""
    _, *parts = re.split("<h2>", without_scripts(page))
    return dict(part.split("</h2>", 1) for part in parts)


def result_rows(page):
    return dict(re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", sections(page)["Result"]))


def test_every_plot_is_on_the_page_and_a_picture(folder, page):
    assert page.count("Plotly.newPlot(") == len(PLOTS)
    for name, heading in PLOTS.items():
        assert "plotly-graph-div" in sections(page)[heading]
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 400
    assert "class=reason" not in page


def test_page_needs_no_network_and_holds_plotly_once(page):
    assert len(re.findall(r"\* plotly\.js v[0-9]", page)) == 1
    assert not re.search(r"<script[^>]*src=|<link|@import", page)
    assert not re.search(r"(src|href|action)\s*=", without_scripts(page))
    assert "default-src 'none'" in page
    assert page.count('"showSendToCloud": false') == len(PLOTS)  # else a button offers to upload the plot


def test_texts_are_escaped(page):
    assert EVIL not in page
    assert without_scripts(page).count("&lt;script&gt;") == 2 + 1 + 1 + 2  # title, fact, reason, trials 14 and 15


def test_result_says_the_best_trial_and_how_the_others_ended(page):
    rows = result_rows(page)
    assert rows["Best trial"] == "3"
    assert rows["Its value"] == "0.6"
    assert rows["network.channels"] == "[8, 16, 32, 64]"
    assert rows["network.norm"] == "instance"
    assert rows["loss.batch_dice"] == "false"
    assert rows["Trials finished"] == "12"
    assert rows["Trials pruned"] == "2"
    assert re.fullmatch(r"2: out of memory .* \(trials 14, 15\)", rows["Trials failed"])
    assert rows["Failed and tried again"].startswith("2: its worker was lost")
    assert rows["Failed and tried again"].endswith("(trials 16, 17)")
    assert rows["Trials waiting"] == "1"


def test_best_trial_of_a_minimised_study_is_the_lowest(tmp_path):
    study = study_of([create_trial(value=value) for value in (0.4, 0.2, 0.3)], "minimize")
    page = write_study(tmp_path, study, "title", {}).read_text(encoding="utf-8")
    assert result_rows(page)["Best trial"] == "1"


def test_csv_has_a_row_for_every_trial(folder):
    table = pd.read_csv(folder / "trials.csv", dtype={"retry_of": "Int64"}).set_index("number")
    assert list(table.index) == list(range(19))
    assert list(table.columns) == [
        "state", "value", *sorted(SPACE), "worker", "started", "seconds", "retry_of", "failure",
    ]  # fmt: skip
    assert list(table["state"]) == ["finished"] * 12 + ["pruned"] * 2 + ["failed"] * 4 + ["waiting"]
    assert table.loc[3, "value"] == pytest.approx(0.6)
    assert table["value"].notna().sum() == 12
    for name, value in params(3).items():
        assert table.loc[3, name] == value
    assert table.loc[3, "worker"] == "node:7"
    assert table.loc[3, "seconds"] == 0
    assert table["retry_of"].dropna().to_dict() == {17: 16, 18: 17}
    assert list(table["failure"].dropna().index) == [14, 15, 16, 17]
    assert table.loc[14, "failure"] == f"out of memory {EVIL}"
    assert pd.isna(table.loc[18, "started"])


def test_a_trial_that_its_user_stopped_says_so(tmp_path):
    write_study(tmp_path, study_of([trial(0, TrialState.FAIL, user_attrs={"stopped": "SIGTERM"})]), "title", {})
    assert pd.read_csv(tmp_path / "trials.csv").loc[0, "failure"] == "stopped: SIGTERM"


def test_failed_and_pruned_trials_are_in_the_plot_of_intermediate_values(page):
    for number, state in ((0, "finished"), (12, "pruned"), (14, "failed"), (16, "failed")):
        assert f"trial {number}, {state}" in page


def test_parameters_read_well_in_the_plots(page):
    plots = page[page.index("Plotly.newPlot(") :]
    assert '"[8, 16, 32, 64]"' in plots
    assert "'[8, 16, 32, 64]'" not in plots
    assert '"instance"' in plots
    assert '"true"' in plots
    assert '"True"' not in plots
    assert "training.learning..." not in plots


def constant(number, value=None, x=1.0):
    value = 0.1 * number if value is None else value
    return create_trial(value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 2)})


NONE, ONE = "It takes two finished trials, and there is none.", "It takes two finished trials, and there is one."
SILENT, SAME = "No trial has reported an intermediate value.", "All 4 finished trials have the same value."
CONSTANT = "No parameter has two values among the finished trials."
NO_PARAMETER = "The trials have no parameter."


@pytest.mark.parametrize(
    ("trials", "reasons"),
    [  # in the order of PLOTS
        ([], ["No trial has finished.", NONE, NONE, NONE, SILENT]),
        ([trial(0, TrialState.FAIL)], ["No trial has finished.", NONE, NONE, NONE, ""]),
        ([trial(0, TrialState.WAITING)], ["No trial has finished.", NONE, NONE, NONE, SILENT]),
        ([trial(0, TrialState.RUNNING)], ["No trial has finished.", NONE, NONE, NONE, ""]),
        ([trial(0)], ["", ONE, ONE, ONE, ""]),
        ([trial(0), trial(1)], ["", "", "", "", ""]),
        ([trial(0), trial(1, value=float("inf"))], ["", ONE, ONE, ONE, ""]),
        ([constant(number, value=0.5, x=number / 2) for number in range(4)], ["", SAME, "", "", SILENT]),
        ([constant(number) for number in range(4)], ["", CONSTANT, "", "", SILENT]),
        ([create_trial(value=value) for value in (0.1, 0.2)], ["", *[NO_PARAMETER] * 3, SILENT]),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_replaced_by_the_reason(tmp_path, trials, reasons):
    for name in PLOTS:
        (tmp_path / f"{name}.png").write_bytes(b"of an earlier report")
    page = write_study(tmp_path, study_of(trials), "title", {}).read_text(encoding="utf-8")
    for (name, heading), reason in zip(PLOTS.items(), reasons, strict=True):
        found = re.findall("<p class=reason>(.*?)</p>", sections(page)[heading])
        assert found == ([reason] if reason else [])
        assert ("plotly-graph-div" in sections(page)[heading]) == (not reason)
        file = tmp_path / f"{name}.png"
        assert not file.exists() if reason else file.read_bytes().startswith(b"\x89PNG")


def test_an_error_in_one_plot_is_said_and_spares_the_others(tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("broken & gone")

    monkeypatch.setattr(study_plots.visualization, "plot_optimization_history", fail)  # the one that brings plotly.js
    page = write_study(tmp_path, study_of([constant(0), constant(1)]), "title", {}).read_text(encoding="utf-8")
    assert "RuntimeError: broken &amp; gone" in sections(page)["Optimisation history"]
    assert "history cannot be drawn" in caplog.text
    assert not (tmp_path / "history.png").exists()
    assert page.count("Plotly.newPlot(") == 2  # slice and parallel coordinates
    assert len(re.findall(r"\* plotly\.js v[0-9]", page)) == 1


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    space = {"a$b$": CategoricalDistribution(["<b>x</b>", r"$\frac$"])}
    choices = ["<b>x</b>", r"$\frac$"]  # matplotlib would refuse the second as mathematics
    trials = [create_trial(value=i, params={"a$b$": choices[i]}, distributions=space) for i in (0, 1)]
    page = write_study(tmp_path, study_of(trials), "title", {}).read_text(encoding="utf-8")
    assert "could not draw" not in page
    assert '"&lt;b&gt;x' in page  # plotly would read <b> as bold


def test_pyplot_is_left_as_it_was(tmp_path):
    figure = pyplot.figure()
    with pyplot.rc_context():
        matplotlib.rcdefaults()
        before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
        write_study(tmp_path, study_of([constant(0), constant(1)]), "title", {})
        assert dict(matplotlib.rcParams) == before
        assert matplotlib.get_backend() == backend
    assert pyplot.get_fignums() == [figure.number]
    pyplot.close(figure)
