"""Claim 3: a dense CRF over the network's output improves it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mlproject.evaluation.metrics import load_groups
from mlproject.evaluation.palette import BLUE, GREEN, GREY, ORANGE
from mlproject.evaluation.statistics import PairedDifference
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper.crf_choices import (
    BILATERAL,
    GAUSSIAN,
    LARGEST,
    PUBLISHED,
    PUBLISHED_ITERATIONS,
    PUBLISHED_VOXELS,
    PUBLISHED_WEIGHT,
    THRESHOLD,
    as_published,
    at_the_ends,
    best_threshold_for_largest,
    choice_in_words,
    largest_above,
)
from mlproject.stages.paper.finding import Finding, difference_table, in_words
from mlproject.stages.paper.laboratory import Laboratory, Training
from mlproject.stages.paper.measuring import dice_interval, differences, measured, metrics_of, with_best_cutoffs
from mlproject.stages.paper.network import by_intensity, trained
from mlproject.stages.progress import CrfSearchDisplay, display
from mlproject.tracking import markdown
from mlproject.tuning.crf_search import tune

CLAIM = "A dense CRF improves the network's segmentation"
CRFS = (PUBLISHED, GAUSSIAN, BILATERAL)
VARIANTS = {PUBLISHED: (GREY, "D"), GAUSSIAN: (BLUE, "o"), BILATERAL: (ORANGE, "s"), LARGEST: (GREEN, "^")}


def examine(laboratory: Laboratory) -> tuple[Finding, Figure, pd.DataFrame]:
    """Tune each way of postprocessing on the validation cases, and compare them on the test cases.

    All follow that network of claim 1 which is the better one on the validation cases.
    """
    training, network = _better_network(laboratory)
    segmenter = laboratory.model(training)
    validation, maps = (
        laboratory.probabilities(segmenter, names)
        for names in (laboratory.dataset.split.validation, laboratory.dataset.split.test)
    )
    cutoffs, _ = with_best_cutoffs(validation)
    chosen = {THRESHOLD: cutoffs, PUBLISHED: as_published(validation)}
    for name, bilateral in ((GAUSSIAN, False), (BILATERAL, True)):
        chosen[name] = _tuned(laboratory, validation, name, bilateral)
    tables = {name: measured(name, maps, postprocessing) for name, postprocessing in chosen.items()}
    threshold = best_threshold_for_largest(validation)
    tables[LARGEST] = pd.DataFrame([metrics_of(entry, largest_above(entry, threshold)) for entry in maps])
    intensity, on_the_image = by_intensity(laboratory)
    found = differences(tables, [(THRESHOLD, name) for name in VARIANTS])
    beside_largest = differences(tables, [(LARGEST, name) for name in CRFS])
    settings = {name: choice_in_words(postprocessing) for name, postprocessing in chosen.items()}
    settings[LARGEST] = f"threshold {threshold:g}, then the largest component alone"
    overview = [(name, settings[name], dice_interval(table)) for name, table in tables.items()]
    overview.append(
        (intensity, "without a network: its own best threshold and smallest lesion", dice_interval(on_the_image))
    )
    tuned = {name: chosen[name] for name in (THRESHOLD, GAUSSIAN, BILATERAL)} | {LARGEST: Postprocessing(threshold)}
    against = (
        *_beside_the_image(tables[THRESHOLD], on_the_image),
        *_at_the_ends(tuned, laboratory.base.crf_search.iterations),
        *_of_long_voxels(validation),
        *_against(len(validation), len(maps)),
    )
    finding = Finding(
        part="crf",
        claim=CLAIM,
        verdict=_verdict(found),
        done=_done(laboratory, network),
        tables=(
            ("", markdown.table(("", "Chosen on the validation cases", "Test Dice"), overview)),
            (
                f"Against the network with its {THRESHOLD}, paired by case.",
                difference_table({name: difference for (_, name), difference in found.items()}),
            ),
            (
                f"Against the {LARGEST}, paired by case.",
                difference_table({name: difference for (_, name), difference in beside_largest.items()}),
            ),
            ("Mean gain in Dice by lesion volume.", _by_volume(tables)),
        ),
        picture="Gain in Dice of every test case over the best threshold, against the volume of its lesion",
        against=against,
    )
    return finding, figure(tables), pd.concat(tables, names=["variant"]).reset_index(level=0)


def _done(laboratory: Laboratory, network: str) -> str:
    split = laboratory.dataset.split
    return (
        f"{network} The paper's CRF is its Gaussian term alone, as published ({PUBLISHED_VOXELS:g} voxels wide, weight "
        f"{PUBLISHED_WEIGHT:g}, {PUBLISHED_ITERATIONS} iterations), with the threshold 0.5; every other way of "
        f"postprocessing is tuned on the {len(split.validation)} validation cases "
        f"({laboratory.base.crf_search.trials} trials of Optuna for each CRF, each with every weight, iteration "
        f"count, threshold and smallest lesion). Measured on {len(split.test)} test cases."
    )


def figure(tables: dict[str, pd.DataFrame]) -> Figure:
    """Gain in Dice over the best threshold of each case, against its lesion's volume."""
    drawn = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawn.subplots()
    volume = tables[THRESHOLD]["reference_ml"]
    with_lesion = volume > 0
    for name, (colour, marker) in VARIANTS.items():
        gain = tables[name]["dice"] - tables[THRESHOLD]["dice"]
        label = f"{name} (mean {gain.mean():+.3f})"
        axes.plot(volume[with_lesion], gain[with_lesion], marker, color=colour, alpha=0.7, label=label)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("lesion volume of the reference in ml (log scale)")
    axes.set_ylabel(f"gain in Dice over the {THRESHOLD}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    free = int((~with_lesion).sum())
    if free:
        axes.set_title(f"{free} case(s) without a lesion not shown, but in the means", fontsize="small")
    drawn.legend(loc="outside lower center", frameon=False, ncols=2)
    return drawn


def _better_network(laboratory: Laboratory) -> tuple[Training, str]:
    """The training of claim 1 with the higher validation Dice, and a sentence that says which and why."""
    trainings = {name: training for name, (_, training) in trained(laboratory).items()}
    reached = {name: float(training.curve["dice"].max()) for name, training in trainings.items()}
    better, worse = sorted(reached, key=lambda name: -reached[name])
    words = f"After {better} of claim 1, whose best validation Dice is {reached[better]:.3f}"
    return trainings[better], f"{words}; that of {worse} is {reached[worse]:.3f}."


def _tuned(laboratory: Laboratory, validation: list[CaseProbability], name: str, bilateral: bool) -> Postprocessing:
    settings = replace(laboratory.base.crf_search, bilateral=bilateral)
    with display(f"CRF search, {name}") as shown:
        return tune(validation, settings, report=CrfSearchDisplay(shown, settings.trials).show).with_crf


def _by_volume(tables: dict[str, pd.DataFrame]) -> str:
    reference = tables[THRESHOLD]
    rows = []
    for group, inside in load_groups(reference["reference_ml"].to_numpy(float)).items():
        if inside.any():
            gains = [(tables[name]["dice"] - reference["dice"])[inside].mean() for name in VARIANTS]
            rows.append((group, str(int(inside.sum())), *(f"{gain:+.3f}" for gain in gains)))
    return markdown.table(("Lesion load", "Cases", *VARIANTS), rows)


def _verdict(found: dict[tuple[str, str], PairedDifference]) -> str:
    gains = {name: found[THRESHOLD, name] for name in VARIANTS}
    better = [name for name in CRFS if gains[name].significant and gains[name].mean > 0]
    worse = [name for name in CRFS if gains[name].significant and gains[name].mean < 0]
    judged = (
        "Supported"
        if len(better) == len(CRFS)
        else "Partly supported"
        if better
        else "Contradicted"
        if worse
        else "Not settled"
    )
    words = ", ".join(f"{name} {in_words(gain)}" for name, gain in gains.items())
    return f"{judged}: change in mean test Dice against the {THRESHOLD}: {words}."


def _beside_the_image(network_alone: pd.DataFrame, on_the_image: pd.DataFrame) -> Iterator[str]:
    """A sentence where the network that a CRF shall improve is no better than a threshold on the image."""
    network, image = (float(table["dice"].mean()) for table in (network_alone, on_the_image))
    if network <= image:
        yield (
            f"The network with its {THRESHOLD} ({network:.3f}) does not beat a threshold on the image itself "
            f"({image:.3f}). The bilateral term reads that image, so what it gains may be what such a weak network "
            "has left in it, and not what it would add to a good one."
        )


def _at_the_ends(tuned: dict[str, Postprocessing], most_iterations: int) -> Iterator[str]:
    """A sentence where something was chosen from the end of its range."""
    ends = {name: at_the_ends(chosen, most_iterations) for name, chosen in tuned.items()}
    found = "; ".join(f"{name} ({values})" for name, values in ends.items() if values)
    if found:
        yield f"Chosen from an end of what was tried, so that a better value may lie beyond: {found}."


def _of_long_voxels(cases: list[CaseProbability]) -> Iterator[str]:
    """A sentence where the published width, in voxels, is another one along each axis."""
    spacing = np.mean([entry.case.geometry.spacing_mm for entry in cases], axis=0)
    if spacing.max() > 1.1 * spacing.min():
        sizes = " x ".join(f"{size:.2g}" for size in spacing)
        yield (
            f"Voxels are {sizes} mm here. The paper's CRF counts its width in voxels, here it is "
            f"{PUBLISHED_VOXELS:g} voxels of the mean size in mm along every axis."
        )


def _against(validation: int, test: int) -> tuple[str, ...]:
    return (
        f"One network, {validation} validation and {test} test cases. What is tuned on few cases fits them: the CRF "
        "has more to tune than the threshold, and so more to lose on new cases.",
        "The paper's CRF followed a network that was trained on whole volumes, and was compared with that network's "
        "output, not with its best threshold.",
        "A case without a lesion weighs as much as any other: what silences a false alarm there gains a whole Dice.",
    )
