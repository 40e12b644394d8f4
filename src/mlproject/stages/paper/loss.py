"""Claim 2: cross-entropy plus soft Dice converges much faster than either alone."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import optuna
import pandas as pd
from matplotlib.figure import Figure

from mlproject.evaluation import convergence
from mlproject.evaluation.statistics import holm, paired_t_p
from mlproject.network.settings import LossSettings
from mlproject.stages.paper.finding import Finding
from mlproject.stages.paper.laboratory import Laboratory, Training, patches_in_words
from mlproject.tracking import markdown

CLAIM = "Cross-entropy plus soft Dice converges much faster than either alone"
BOTH = "cross-entropy + soft Dice"
LOSSES = {BOTH: (1.0, 1.0), "cross-entropy": (1.0, 0.0), "soft Dice": (0.0, 1.0)}
SAME, TUNED = "the same learning rate", "a learning rate for each loss"
COLUMNS = ("", "Loss", "Learning rate", "Best Dice", "Area under the curve", "Steps to 80 % of the best, interpolated")


def examine(laboratory: Laboratory) -> tuple[Finding, Figure, pd.DataFrame]:
    """Train with each loss and seed, at one learning rate and at the best one of each loss."""
    common = laboratory.base.training.learning_rate
    rates = {SAME: dict.fromkeys(LOSSES, common), TUNED: {}}
    tried = []
    for loss in LOSSES:
        areas = dict(_searched(laboratory, loss))
        rates[TUNED][loss] = max(areas, key=lambda rate: areas[rate])
        tried.append((loss, *(f"{areas[rate]:.3f}" for rate in laboratory.plan.rates)))
    curves = {panel: _curves(laboratory, rates[panel]) for panel in rates}
    summaries = {panel: convergence.summary(table) for panel, table in curves.items()}
    tests = _tests(summaries, rates)
    budget = laboratory.plan.loss_steps
    rows = [row for panel in rates for row in _rows(panel, summaries[panel], rates[panel], budget)]
    titles = ("Loss", *(f"{rate:g}" for rate in laboratory.plan.rates))
    finding = Finding(
        part="loss",
        claim=CLAIM,
        verdict=_verdict(tests),
        done=_done(laboratory),
        tables=(
            ("Mean over the seeds, and the lowest and highest.", markdown.table(COLUMNS, rows)),
            (
                f"{BOTH} against the others: difference in the area, paired by seed.",
                markdown.table(
                    ("", "Against", "Difference", "t-test p", "p, Holm"), [_test_row(*row) for row in tests]
                ),
            ),
            ("Area under the curve at the learning rates tried.", markdown.table(titles, tried)),
        ),
        picture="Validation Dice over the optimizer steps, three losses, at one learning rate and at the best of each",
        against=_against(laboratory, rates[TUNED]),
    )
    return finding, convergence.figure(curves), pd.concat(curves, names=["panel"]).reset_index(level=0)


def _trained(laboratory: Laboratory, loss: str, rate: float, seed: int) -> Training:
    cross_entropy, dice = LOSSES[loss]
    weights: LossSettings = replace(laboratory.base.loss, cross_entropy=cross_entropy, dice=dice)
    experiment = laboratory.experiment(
        replace(laboratory.base, loss=weights), learning_rate=rate, seed=seed, steps=laboratory.plan.loss_steps
    )
    return laboratory.training(f"{loss}, rate {rate:g}, seed {seed}", experiment)


def _searched(laboratory: Laboratory, loss: str) -> Iterator[tuple[float, float]]:
    """Every learning rate tried, and the area under its curve, with a seed that is used for nothing else."""
    seed = max(laboratory.plan.seeds) + 1
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for rate in laboratory.plan.rates:
        study.enqueue_trial({"training.learning_rate": rate})
    for _ in laboratory.plan.rates:  # not study.optimize, which logs a traceback where a signal stops it
        trial = study.ask()
        rate = trial.suggest_categorical("training.learning_rate", laboratory.plan.rates)
        curve = _trained(laboratory, loss, rate, seed).curve
        area = convergence.area(curve["step"].to_numpy(float), curve["dice"].to_numpy(float))
        study.tell(trial, area)
        yield rate, area


def _curves(laboratory: Laboratory, rates: dict[str, float]) -> pd.DataFrame:
    """One row a validation: variant, seed, step, dice; the losses of a seed in turn."""
    tables = []
    for seed, loss in product(laboratory.plan.seeds, LOSSES):
        curve = _trained(laboratory, loss, rates[loss], seed).curve
        tables.append(curve[["step", "dice"]].assign(variant=loss, seed=seed))
    return pd.concat(tables, ignore_index=True)


Comparison = tuple[str, str, float, float, float]
"""Panel, the loss compared with, mean difference in area, p of the t-test, and that p corrected."""


def _tests(summaries: dict[str, pd.DataFrame], rates: dict[str, dict[str, float]]) -> list[Comparison]:
    """Of each panel; where both losses keep their learning rate, it is the same comparison, and stands once."""
    found, seen = [], set()
    for panel, summary in summaries.items():
        areas = summary.pivot(index="seed", columns="variant", values="area")
        for other in list(LOSSES)[1:]:
            compared = (other, rates[panel][BOTH], rates[panel][other])
            if compared in seen:
                continue
            seen.add(compared)
            pair = areas[other].to_numpy(), areas[BOTH].to_numpy()
            found.append((panel, other, float((pair[1] - pair[0]).mean()), paired_t_p(*pair)))
    corrected = holm([p for *_, p in found])
    return [(*test, float(p)) for test, p in zip(found, corrected, strict=True)]


def _test_row(panel: str, other: str, difference: float, p: float, corrected: float) -> tuple[str, ...]:
    return (panel, other, f"{difference:+.3f}", f"{p:.2g}", f"{corrected:.2g}")


def _rows(panel: str, summary: pd.DataFrame, rates: dict[str, float], budget: int) -> Iterator[tuple[str, ...]]:
    """A row a loss; a training that never reached the level counts with all its steps, `budget`, and shows as over."""
    for loss, rows in summary.groupby("variant", sort=False):
        steps, unreached = rows["steps_to_level"].fillna(budget), int(rows["steps_to_level"].isna().sum())
        over, never = ("over ", f", never in {unreached} of {len(steps)}") if unreached else ("", "")
        reached = f"{over}{steps.mean():.0f} ({steps.min():.0f} to {over}{steps.max():.0f})"
        if unreached == len(steps):
            reached = f"over {budget}"
        areas, best = (
            f"{rows[n].mean():.3f} ({rows[n].min():.3f} to {rows[n].max():.3f})" for n in ("area", "best_dice")
        )
        yield (panel, str(loss), f"{rates[str(loss)]:g}", best, areas, reached + never)


def _verdict(tests: list[Comparison]) -> str:
    """Supported only where the sum has the larger area in all comparisons, each significantly so."""
    better = [difference > 0 for _, _, difference, _, _ in tests]
    sure = [corrected < 0.05 for *_, corrected in tests]
    if all(better) and all(sure):
        judged = "Supported"
    elif any(not up and significant for up, significant in zip(better, sure, strict=True)):
        judged = "Contradicted"
    else:
        judged = "Not settled"
    ahead = ", ".join(
        f"{other} by {difference:+.3f}{'' if significant else ' (not significant)'} with {panel}"
        for (panel, other, difference, _, _), significant in zip(tests, sure, strict=True)
    )
    return f"{judged}: in the area under the validation curve, {BOTH} differs from {ahead}."


def _done(laboratory: Laboratory) -> str:
    plan, training = laboratory.plan, laboratory.base.training
    return (
        f"The study's own network ({laboratory.base.network.name}), {len(LOSSES)} losses x {len(plan.seeds)} seeds x "
        f"{plan.loss_steps} steps of {patches_in_words(training.batch_size, laboratory.base.patches)}; the same seed "
        "means the same weights at the start and the same patches in the same order. First with the learning rate "
        f"{training.learning_rate:g} for all, then for each loss with the one of {len(plan.rates)} whose curve has "
        "the largest area, found by an Optuna grid search with a seed of its own. A comparison whose two losses keep "
        "the common rate stands once. The area is that under the validation Dice (mean over whole cases, threshold "
        "0.5), over the number of steps: the mean Dice during the training. The level is 80 % of the best Dice that "
        "any training reached, at the same learning rate or at one for each loss. Between two validations, and from "
        "Dice 0 at step 0 to the first, a curve is taken for a straight line. A training that never reached the level "
        "counts with all its steps, which is too few: the mean is then over the number given."
    )


def _against(laboratory: Laboratory, tuned: dict[str, float]) -> tuple[str, ...]:
    optimizer = laboratory.base.training.optimizer
    ends = {min(laboratory.plan.rates), max(laboratory.plan.rates)}
    at_the_end = [loss for loss, rate in tuned.items() if rate in ends]
    edge = f" The best rate of {', '.join(at_the_end)} is an end of the range: a better one may lie beyond." * bool(
        at_the_end
    )
    return (
        f"{len(laboratory.plan.seeds)} seeds: the t-test takes their differences for normally distributed, and small "
        "effects stay unseen. The seeds share one split of the data.",
        f"{len(laboratory.plan.rates)} learning rates, each tried once.{edge}",
        f"The optimizer ({optimizer}), the network and the patches are the study's, not the paper's (adagrad, V-Net, "
        "whole volumes)." + " AdamW hardly minds the scale of a loss, Adagrad with decay may." * (optimizer == "adamw"),
        "Judged is the area alone, which a faster start and a higher end both make larger; how much faster is much, "
        "nobody said, and the steps to the level are shown but not tested.",
        "Where no lesion is predicted yet, or in a case without one, Dice is 0 or 1: with few validation cases a curve "
        "jumps.",
    )
