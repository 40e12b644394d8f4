"""Rows about the search for a CRF: how fast it is, and what it finds, beside the plain ways to search."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.cases import PROCESSES, SMALL_SHAPE, crf_workers, imitated_cases
from bench.crf_peers import AUTHORS_SCALES, authors, plain
from bench.row import Row, timed
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.case_workers import CaseWorkers
from mlproject.tuning.crf_engine import CrfCase, dice_table
from mlproject.tuning.crf_finalists import native_dice_grid
from mlproject.tuning.crf_search import CrfSearchSettings, SearchResult, tune
from mlproject.tuning.crf_space import THRESHOLDS, WEIGHTS

PROPOSALS = 2
ITERATIONS = 8
PLAIN_ITERATIONS = (2, 7)  # of the plain loop: the mean of 1, 2 ... 8
EVERY = 7  # of the plain loop's settings is timed on the whole grid; odd, so that both iteration counts are
TRIALS = 20  # of the search against the authors' grid
AUTHORS_CASES = 2  # of that grid, which takes longer than all the rest
REPEATS = 3
LIMIT_SECONDS = 600.0

Dice = NDArray[np.float64]


def rows() -> list[Row]:
    """All rows of this file."""
    return [*plain_loop_rows(), *authors_rows()]


def plain_loop_rows() -> list[Row]:
    """Settings x cases a second, and the Dice of the setting chosen, for the thetas that the search proposes first."""
    maps = imitated_cases()
    whole, brain = [np.ones_like(entry.case.brain) for entry in maps], [entry.case.brain for entry in maps]
    trials = tune(maps, CrfSearchSettings(trials=PROPOSALS, processes=PROCESSES)).trials
    rates: dict[str, list[float]] = {"search": [], "whole": [], "brain": []}
    search_dice, brain_dice = [], []
    with crf_workers(maps) as workers:
        for proposal in trials[["theta_gamma_mm", "theta_alpha_mm", "theta_beta"]].to_dict("records"):
            thetas = CrfSettings(**{str(name): value for name, value in proposal.items()})
            settings = [
                replace(thetas, weight_gaussian=gaussian, weight_bilateral=bilateral, iterations=iterations)
                for (gaussian, bilateral), iterations in product(WEIGHTS, PLAIN_ITERATIONS)
            ]
            search_rate, tables = _search(workers, thetas, len(maps))
            whole_rate, _ = _plain_loop(maps, whole, settings[::EVERY])
            brain_rate, tables_of_plain = _plain_loop(maps, brain, settings)
            for name, rate in {"search": search_rate, "whole": whole_rate, "brain": brain_rate}.items():
                rates[name].append(rate)
            search_dice.append(tables[:, [count - 1 for count in PLAIN_ITERATIONS]])
            brain_dice.append(tables_of_plain.reshape(search_dice[-1].shape))
    return [
        _rate_row("the whole grid", rates["search"], rates["whole"], 50.0),
        _rate_row("the brain's voxels", rates["search"], rates["brain"], None),
        _choice_row(np.stack(search_dice), np.stack(brain_dice)),
    ]


def _search(workers: CaseWorkers[CrfCase], thetas: CrfSettings, cases: int) -> tuple[float, Dice]:
    """Settings x cases a second, and the mean Dice (weight pairs, iterations, thresholds)."""
    task = partial(dice_table, thetas=thetas, weights=WEIGHTS, iterations=ITERATIONS)
    seconds = []
    for _ in range(1 + REPEATS):
        taken, tables = timed(lambda: dict(workers.run(task, LIMIT_SECONDS)))
        seconds.append(taken)
    rate = len(WEIGHTS) * ITERATIONS * cases / median(seconds[1:])  # the first one prepares what later ones reuse
    return rate, np.mean(list(tables.values()), axis=0)


def _plain_loop(
    maps: Sequence[CaseProbability], voxels: Sequence[NDArray[np.bool_]], settings: Sequence[CrfSettings]
) -> tuple[float, Dice]:
    """Settings x cases a second (scoring not counted), and the mean Dice (settings, thresholds)."""
    dice = np.zeros((len(settings), len(maps), len(THRESHOLDS)))
    total = 0.0
    for (row, setting), (column, entry) in product(enumerate(settings), enumerate(maps)):
        seconds, probability = timed(partial(plain, entry, setting, voxels[column]))
        total += seconds
        dice[row, column] = native_dice_grid(probability, entry)[:, 0]
    return len(settings) * len(maps) / total, dice.mean(axis=1)


def _rate_row(peer: str, search: Sequence[float], loop: Sequence[float], target: float | None) -> Row:
    return Row(
        what=f"CRF search on {PROCESSES} processes, settings x cases a second",
        against=f"plain loop on {peer}, 1 process",
        unit="x",
        samples=tuple(a / b for a, b in zip(search, loop, strict=True)),
        target=target,
        better=">=",
        detail=f"{median(search):.0f} against {median(loop):.2f} a second",
    )


def _choice_row(search: Dice, loop: Dice) -> Row:
    """From mean Dice (proposals, weight pairs, iterations, thresholds): the search's, and on the whole brain."""
    chosen = np.unravel_index(search.argmax(), search.shape)
    return Row(
        what="Dice on the whole brain, best minus the setting that the search chooses",
        against=f"plain loop on the brain's voxels, the same {search[..., 0].size} settings",
        unit="Dice",
        samples=(float(loop.max() - loop[chosen]),),
        target=0.002,
        better="<=",
        detail=f"{loop[chosen]:.4f} against {loop.max():.4f}; on the uncertain region {search.max():.4f}",
    )


def authors_rows() -> list[Row]:
    """Against the paper's authors' grid of 49 CRFs: time, and the best Dice with the same cut-offs."""
    maps = imitated_cases(SMALL_SHAPE)[:AUTHORS_CASES]
    settings = CrfSearchSettings(trials=TRIALS, processes=PROCESSES)
    searches: list[tuple[float, SearchResult]] = []
    total, best = 0.0, 0.0
    for number, (sdims, schan) in enumerate(product(AUTHORS_SCALES, AUTHORS_SCALES)):
        if number % (49 // REPEATS) == 0 and len(searches) < REPEATS:
            searches.append(timed(lambda: tune(maps, settings)))
        grids = []
        for entry in maps:
            seconds, probability = timed(partial(authors, entry, sdims, schan))
            total += seconds
            grids.append(native_dice_grid(probability, entry))
        best = max(best, float(np.mean(grids, axis=0).max()))
    found = searches[0][1].mean_dice["with_crf"]
    grid = f"the authors' grid, {len(AUTHORS_SCALES) ** 2} CRFs on the whole grid, 1 process"
    what = f"search of {TRIALS} trials on {PROCESSES} processes"
    times = [seconds for seconds, _ in searches]
    speed = tuple(total / seconds for seconds in times)
    return [
        Row(f"{what}, start to end", grid, "x", speed, 10.0, ">=", f"{median(times):.1f} s against {total:.1f} s"),
        Row(f"{what}, best Dice", grid, "Dice", (found - best,), 0.0, ">=", f"{found:.4f} against {best:.4f}"),
    ]
