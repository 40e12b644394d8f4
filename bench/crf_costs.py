"""Rows about one CRF application for serving, and about what a trial of the search costs besides its CRFs."""

import tempfile
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from itertools import product
from statistics import median
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd

from bench.cases import PROCESSES, crf_workers, imitated_cases
from bench.crf_peers import plain
from bench.row import Row, timed
from mlproject.prediction.crf import CrfSettings, refine
from mlproject.prediction.probability import CaseProbability
from mlproject.tracking import runs
from mlproject.tracking.run import Run
from mlproject.tracking.settings import TrackingSettings
from mlproject.tuning.case_workers import CaseWorkers
from mlproject.tuning.crf_engine import CrfCase
from mlproject.tuning.crf_search import CrfSearchSettings, crf_case_of
from mlproject.tuning.crf_space import THRESHOLDS, WEIGHTS, theta_ranges
from mlproject.tuning.crf_trials import run_trials

TRIALS = 20  # whose time is measured
LONG_SEARCH = 300  # trials whose bookkeeping is measured: Optuna's proposals take longer the more there are
REPEATS = 3


def rows() -> list[Row]:
    """All rows of this file."""
    maps = imitated_cases()
    return [*serving_rows(maps), bookkeeping_row(maps)]


def serving_rows(maps: list[CaseProbability]) -> list[Row]:
    """One application with the default CRF, from probability to probability, on a case as it is served."""
    settings = CrfSettings()
    seconds: dict[str, list[float]] = {"served": [], "whole": [], "brain": []}
    for _, entry in product(range(REPEATS), maps):
        case = entry.case
        spacing_mm = case.geometry.spacing_mm
        for name, work in {
            "served": partial(refine, entry.probability, case.image, case.brain, spacing_mm, settings),
            "whole": partial(plain, entry, settings, np.ones_like(case.brain)),
            "brain": partial(plain, entry, settings, case.brain),
        }.items():
            seconds[name].append(timed(work)[0])
    return [
        Row(
            what=f"one CRF for serving, {'x'.join(map(str, maps[0].probability.shape))}, 2 channels, 1 process",
            against=f"pydensecrf on {peer}",
            unit="x",
            samples=tuple(b / a for a, b in zip(seconds["served"], seconds[name], strict=True)),
            target=target,
            better=">=",
            detail=f"{1000 * median(seconds['served']):.0f} ms against {1000 * median(seconds[name]):.0f} ms",
        )
        for name, peer, target in (("whole", "the whole grid", 4.0), ("brain", "the brain's voxels", None))
    ]


def bookkeeping_row(maps: list[CaseProbability]) -> Row:
    """Optuna's and MLflow's share of a trial's time."""
    ranges = theta_ranges([crf_case_of(entry) for entry in maps])
    long_search = CrfSearchSettings(trials=LONG_SEARCH)
    with crf_workers(maps) as workers:
        trials, _ = run_trials(workers, ranges, CrfSearchSettings(trials=TRIALS), None)
    trial_ms = 1000 * float(trials["seconds"].median())
    optuna_ms, mlflow_ms = [], []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        with runs.open_run(TrackingSettings(system_metrics=False), "bench", "postprocess") as run:
            for _ in range(REPEATS):
                idle = cast(CaseWorkers[CrfCase], _NoWork(len(maps)))
                seconds, tables = timed(partial(run_trials, idle, ranges, long_search, None))
                optuna_ms.append(1000 * seconds / LONG_SEARCH)
                seconds, _ = timed(partial(_log, run, tables))
                mlflow_ms.append(1000 * seconds / LONG_SEARCH)
    return Row(
        what=f"Optuna and MLflow, in a search of {LONG_SEARCH} trials",
        against=f"time of a trial on {len(maps)} cases and {PROCESSES} processes",
        unit="%",
        samples=tuple(100 * (a + b) / trial_ms for a, b in zip(optuna_ms, mlflow_ms, strict=True)),
        target=5.0,
        better="<=",
        detail=f"Optuna {median(optuna_ms):.1f} ms and MLflow {median(mlflow_ms):.2f} ms of {trial_ms:.0f} ms",
    )


class _NoWork:
    """Stands in for the workers of a search, with results at once: what is left is the search's own time."""

    def __init__(self, cases: int) -> None:
        shape = (len(WEIGHTS), CrfSearchSettings().iterations, len(THRESHOLDS))
        self.tables = [np.random.default_rng(case).random(shape) for case in range(cases)]

    def run(self, task: Any, seconds: float) -> Iterator[tuple[int, Any]]:
        return enumerate(self.tables)


def _log(run: Run, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """What the stage postprocess logs of a search: a few metrics, two curves and four tables."""
    trials, pairs = tables
    run.log_metrics({f"bench/{number}": 0.5 for number in range(10)})
    run.log_curve("crf_search/dice", trials["dice"])
    run.log_curve("crf_search/best_dice", trials["dice"].cummax())
    for name, table in {"trials": trials, "weights": pairs, "finalists": pairs[:5], "dice": trials[:3]}.items():
        run.log_table(table, f"crf_search/{name}.csv")
