"""Claim 1: a U/V-shaped fully convolutional network segments lesions. The paper's own, beside the platform's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlproject.data.preprocessing import PreparedCase
from mlproject.evaluation.figures import paired_dots
from mlproject.evaluation.statistics import PairedDifference
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper.finding import Finding, difference_table, in_words
from mlproject.stages.paper.laboratory import Laboratory, Training, experiment_of, patches_in_words
from mlproject.stages.paper.measuring import dice_interval, differences, measured, with_best_cutoffs
from mlproject.stages.settings import Experiment
from mlproject.tracking import markdown

CLAIM = "A U/V-shaped fully convolutional network segments stroke lesions"
INTENSITY, PAPER, OURS = "intensity alone", "the paper's V-Net", "the platform's U-Net"
MOST_SD = 5.0  # of the thresholds on the image; beyond, z-scores are cut off by default
COLUMNS = (
    "",
    "Parameters",
    "A step",
    "Optimizer, learning rate",
    "Steps",
    "s a step",
    "Minutes",
    "Test Dice, threshold 0.5",
    "Test Dice, best threshold",
)


def examine(laboratory: Laboratory) -> tuple[Finding, Figure, pd.DataFrame]:
    """Train both, and measure them beside the best threshold on a channel of the image itself."""
    split = laboratory.dataset.split
    intensity, table = by_intensity(laboratory)
    tables = {INTENSITY: table}
    rows = [(intensity, *[""] * (len(COLUMNS) - 2), dice_interval(table))]
    for name, (experiment, training) in trained(laboratory).items():
        segmenter = laboratory.model(training)
        chosen, _ = with_best_cutoffs(laboratory.probabilities(segmenter, split.validation))
        maps = laboratory.probabilities(segmenter, split.test)
        tables[name], plain = measured(name, maps, chosen), measured(name, maps, Postprocessing())
        parameters = f"{sum(value.numel() for value in segmenter.network.parameters()):,}"
        pace = (str(training.curve["step"].iloc[-1]), f"{training.seconds_a_step:.2f}", f"{training.minutes:.1f}")
        how = experiment.training
        taken = (patches_in_words(how.batch_size, experiment.patches), f"{how.optimizer}, {how.learning_rate:g}")
        rows.append((name, parameters, *taken, *pace, dice_interval(plain), dice_interval(tables[name])))
    found = differences(tables, [(INTENSITY, PAPER), (INTENSITY, OURS), (PAPER, OURS)])
    finding = Finding(
        part="network",
        claim=CLAIM,
        verdict=_verdict(found, tables),
        done=_done(laboratory),
        tables=(
            ("", markdown.table(COLUMNS, rows)),
            ("", difference_table({f"{b} - {a}": difference for (a, b), difference in found.items()})),
        ),
        picture="Dice of every test case, by a threshold on the image, by the paper's network and by the platform's",
        against=_against(laboratory),
    )
    return finding, paired_dots(tables), pd.concat(tables, names=["variant"]).reset_index(level=0)


def trained(laboratory: Laboratory) -> dict[str, tuple[Experiment, Training]]:
    """The paper's network and the platform's, each trained in its own way."""
    files = {PAPER: laboratory.plan.paper, OURS: laboratory.plan.platform}
    experiments = {name: laboratory.experiment(experiment_of(laboratory.base, file)) for name, file in files.items()}
    return {name: (own, laboratory.training(name, own, keep_model=True)) for name, own in experiments.items()}


def by_intensity(laboratory: Laboratory) -> tuple[str, pd.DataFrame]:
    """What the best threshold on a channel of the image is called, and what it reaches in each test case."""
    channel, sign, cutoffs = _intensity(laboratory)
    maps = _as_probability(laboratory, laboratory.dataset.split.test, channel, sign)
    where = f"{channel} {'above' if sign > 0 else 'below'} {sign * cutoffs.threshold * MOST_SD:+.2f} SD"
    return f"{INTENSITY} ({where})", measured(INTENSITY, maps, cutoffs)


def _intensity(laboratory: Laboratory) -> tuple[str, int, Postprocessing]:
    """The channel, whether its bright (1) or dark (-1) voxels are lesion, and the cut-offs, best on validation."""
    tried = []
    for channel in laboratory.base.data.channels:
        for sign in (1, -1):
            maps = _as_probability(laboratory, laboratory.dataset.split.validation, channel, sign)
            cutoffs, dice = with_best_cutoffs(maps)
            tried.append((dice, channel, sign, cutoffs))
    _, channel, sign, cutoffs = max(tried, key=lambda entry: entry[0])
    return channel, sign, cutoffs


def _as_probability(laboratory: Laboratory, names: Sequence[str], channel: str, sign: int) -> list[CaseProbability]:
    """A channel's z-scores from 0 to `MOST_SD`, brought into [0, 1], as if they were a network's answer."""
    index = laboratory.base.data.channels.index(channel)

    def of(case: PreparedCase) -> CaseProbability:
        scores = (sign * case.image[index] / MOST_SD).clip(0, 1).astype(np.float32)
        return CaseProbability(case, np.where(case.brain, scores, np.float32(0)))

    return [of(case) for case in laboratory.dataset.load(names)]


def _verdict(found: dict[tuple[str, str], PairedDifference], tables: dict[str, pd.DataFrame]) -> str:
    gain, ours = found[INTENSITY, PAPER], found[PAPER, OURS]
    means = {name: table["dice"].mean() for name, table in tables.items()}
    judged = "Not settled" if not gain.significant else "Supported" if gain.mean > 0 else "Contradicted"
    return (
        f"{judged}: the paper's network reaches a mean test Dice of {means[PAPER]:.3f}, a threshold on the image "
        f"{means[INTENSITY]:.3f}, a difference of {in_words(gain)}; the platform's own network, after as many steps, "
        f"{means[OURS]:.3f}, a difference to the paper's of {in_words(ours)}."
    )


def _done(laboratory: Laboratory) -> str:
    paper, platform = (Path(file).name for file in (laboratory.plan.paper, laboratory.plan.platform))
    return (
        f"The networks and trainings of {paper} and {platform}, the platform's own defaults, "
        f"{laboratory.base.training.steps} steps each, on the same cases and channels; the weights of the best of "
        f"{laboratory.plan.validations} or more validations, then the threshold and smallest lesion that are best on "
        "the validation cases; no CRF. The threshold on the image is on that channel, above or below its mean in the "
        "brain, that is best on them."
    )


def _against(laboratory: Laboratory) -> tuple[str, ...]:
    paper = experiment_of(laboratory.base, laboratory.plan.paper)
    patch = patches_in_words(paper.training.batch_size, paper.patches) + " a step"
    return (
        f"One training of each: nothing here says how much another seed would change. Test cases: "
        f"{len(laboratory.dataset.split.test)}.",
        f"The paper trains on whole volumes for 1500 steps; here {patch}, and {laboratory.base.training.steps} steps. "
        "A V-Net that sees less of the head at once, or for fewer steps, may fall short of what the paper's did.",
        "After equally many steps is not after equally long, nor after equally many patches: see the table. "
        "The platform's defaults are meant for more steps, too.",
        "The threshold on the image is a low bar: it says that the network has learnt, not that its shape is why.",
    )
