"""What a study looks like: one HTML page that needs nothing else, its plots as PNG, its trials as CSV."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mlproject.evaluation import html
from mlproject.tuning.study_plots import Plot, draw_plots
from mlproject.tuning.study_trials import STATES
from mlproject.tuning.study_view import name_of_value, readable

LOST = "its worker was lost: it was killed, or silent for too long"


def write_study(folder: Path, study: optuna.Study, title: str, facts: Mapping[str, str]) -> Path:
    """Write study.html (self-contained), trials.csv, and a PNG file for each plot.

    The PNG files are history, importance, slice, parallel_coordinates and intermediate_values. Where one cannot
    be drawn, there is no file, and the page says why.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        study: with one objective; it may still run. Its metric name, if it has one, labels the values. Trials may have
            the user attributes that `tuning.study` gives: worker, and failure or stopped, which say why one failed.
        title: of the page.
        facts: name → value, such as the data set, its digest, the commit.

    Returns:
        The path of study.html.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = study.get_trials(deepcopy=False)
    table = trial_table(trials)
    table.to_csv(folder / "trials.csv", index=False)
    plots = draw_plots(study)
    for plot in plots:
        file = folder / f"{plot.name}.png"
        file.unlink(missing_ok=True)  # of a report written before
        if plot.png:
            file.write_bytes(plot.png)
    page = folder / "study.html"
    body = "\n".join(
        [
            html.table([], facts.items()),
            "<h2>Result</h2>",
            html.table([], _result(study, trials, table)),
            *map(_plot_html, plots),
            "<h2>Trials</h2>",
            _trials_html(table),
        ]
    )
    page.write_text(html.page(title, body, STYLE, SOURCES), encoding="utf-8")
    return page


def trial_table(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """One row a trial.

    Returns:
        The columns number, state (finished, pruned, failed, running or waiting), value, one for each parameter by
        its name, worker, started (local time), seconds, retry_of
        (the number of the failed trial that this one tries again) and failure (why it failed). Empty: unknown.
    """
    names = sorted({name for trial in trials for name in trial.params})
    rows: list[dict[str, Any]] = []
    for trial in trials:
        row = trial.params | {"worker": trial.user_attrs.get("worker")}
        row["number"] = trial.number
        row["state"] = STATES[trial.state]
        row["value"] = trial.value if trial.state == TrialState.COMPLETE else None
        row["started"] = trial.datetime_start.isoformat(" ", "seconds") if trial.datetime_start else None
        row["seconds"] = round(trial.duration.total_seconds(), 3) if trial.duration is not None else None
        row["retry_of"] = (trial.system_attrs.get("retry_history") or [None])[-1]
        row["failure"] = _failure(trial) if trial.state == TrialState.FAIL else None
        rows.append(row)
    columns = ["number", "state", "value", *names, "worker", "started", "seconds", "retry_of", "failure"]
    # Objects: whole numbers stay whole in a column where some are missing.
    return pd.DataFrame(rows, columns=columns, dtype=object).where(lambda table: table.notna(), None)


def _failure(trial: FrozenTrial) -> str:
    if "stopped" in trial.user_attrs:
        return f"stopped: {trial.user_attrs['stopped']}"
    return str(trial.user_attrs.get("failure", LOST))


def _result(study: optuna.Study, trials: Sequence[FrozenTrial], table: pd.DataFrame) -> list[tuple[str, str]]:
    """The best trial, and how many trials ended how, and why."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    rows = [("Best trial", "none, because no trial has finished")]
    if finished:
        choose = max if study.direction == StudyDirection.MAXIMIZE else min
        best = choose(finished, key=lambda trial: trial.value or 0)
        rows = [("Best trial", str(best.number)), (f"Its {name_of_value(study)}", readable(best.value))]
        rows += [(name, readable(value)) for name, value in best.params.items()]
    retried = set(table["retry_of"].dropna())
    failed = table[table["state"] == "failed"]
    again = failed["number"].isin(retried)
    counts = table["state"].value_counts()
    rows += [(f"Trials {state}", str(counts.get(state, 0))) for state in ("finished", "pruned")]
    rows.append(("Trials failed", _reasons(failed[~again])))
    rows += [("Failed and tried again", _reasons(failed[again]))] if again.any() else []
    rows += [(f"Trials {state}", str(counts[state])) for state in ("running", "waiting") if state in counts]
    return rows


def _reasons(failed: pd.DataFrame) -> str:
    """How many, and which trials for which reason: '3: out of memory (trials 2, 7); the loss is NaN (trial 4)'."""
    reasons = []
    for reason, rows in failed.groupby("failure", sort=False):
        numbers = ", ".join(map(str, rows["number"]))
        reasons.append(f"{reason} ({'trial' if len(rows) == 1 else 'trials'} {numbers})")
    return f"{len(failed)}: {'; '.join(reasons)}" if reasons else "0"


def _trials_html(table: pd.DataFrame) -> str:
    header = [name.replace("_", " ") if name == "retry_of" else name for name in table.columns]
    rows = ([("" if cell is None else readable(cell)) for cell in row] for row in table.itertuples(index=False))
    return html.table(header, rows)


def _plot_html(plot: Plot) -> str:
    content = f'<div class="plot">{plot.html}</div>' if plot.html else f"<p class=reason>{escape(plot.reason)}</p>"
    return f"<h2>{escape(plot.heading)}</h2><p>{escape(plot.explanation)}</p>{content}"


# Nothing is fetched: no connect-src. The button that saves a plot as a picture makes a blob.
SOURCES = "script-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
.reason { background: #f0f0f0; padding: .5rem 1rem; }
.plot { overflow-x: auto; }
th, td { white-space: nowrap; }
td:last-child { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
"""
