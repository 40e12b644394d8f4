"""Claim 3: a dense CRF over the network's output improves it."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data.preprocessing import to_native
from mlproject.evaluation.metrics import load_groups
from mlproject.evaluation.palette import BLUE, GREEN, GREY, ORANGE
from mlproject.evaluation.statistics import PairedDifference
from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.postprocessing import NEIGHBOURS_26, Postprocessing
from mlproject.prediction.probability import CaseProbability
from mlproject.stages.paper.finding import DIFFERENCE_COLUMNS, Finding, difference_row
from mlproject.stages.paper.laboratory import Laboratory
from mlproject.stages.paper.measuring import Mask, dice_interval, differences, measured, metrics_of, with_best_cutoffs
from mlproject.stages.paper.network import ours
from mlproject.stages.progress import CrfSearchDisplay, display
from mlproject.tracking import markdown
from mlproject.tracking.source import source
from mlproject.tuning.crf_search import tune
from mlproject.tuning.crf_space import THRESHOLDS

CLAIM = "A dense CRF improves the network's segmentation"
THRESHOLD, LARGEST = "best threshold", "largest component"
PUBLISHED, GAUSSIAN = "the paper's CRF, as published", "Gaussian term, tuned"
BILATERAL = "Gaussian + bilateral term, tuned"
CRFS = (PUBLISHED, GAUSSIAN, BILATERAL)
VARIANTS = {PUBLISHED: (GREY, "D"), GAUSSIAN: (BLUE, "o"), BILATERAL: (ORANGE, "s"), LARGEST: (GREEN, "^")}
PUBLISHED_VOXELS, PUBLISHED_WEIGHT, PUBLISHED_ITERATIONS = 2.0, 2.0, 5


def examine(laboratory: Laboratory) -> tuple[Finding, Figure, pd.DataFrame]:
    """Tune each way of postprocessing on the validation cases, and compare them on the test cases."""
    training, began = ours(laboratory), time.monotonic()
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
    threshold = _best_threshold_for_largest(validation)
    rows = [metrics_of(entry, _largest(_native(entry) >= threshold)) for entry in maps]
    tables[LARGEST] = pd.DataFrame(rows)
    found = differences(tables, [(THRESHOLD, name) for name in VARIANTS])
    settings = {name: _in_words(postprocessing) for name, postprocessing in chosen.items()}
    settings[LARGEST] = f"threshold {threshold:g}, then the largest component alone"
    overview = [(name, settings[name], dice_interval(table)) for name, table in tables.items()]
    finding = Finding(
        part="crf",
        claim=CLAIM,
        verdict=_verdict(found),
        done=(
            "The platform's network of claim 1. The paper's CRF is its Gaussian term alone, as published "
            f"({PUBLISHED_VOXELS:g} voxels, weight {PUBLISHED_WEIGHT:g}, {PUBLISHED_ITERATIONS} iterations), with the "
            f"threshold 0.5; every other way of postprocessing is tuned on the {len(validation)} validation cases "
            f"({laboratory.base.crf_search.trials} trials of Optuna for each CRF, each with every weight, "
            f"iteration count, threshold and smallest lesion). Measured on {len(maps)} test cases."
        ),
        tables=(
            ("", markdown.table(("", "Chosen on the validation cases", "Test Dice"), overview)),
            (
                f"Against the network with its {THRESHOLD}, paired by case.",
                markdown.table(DIFFERENCE_COLUMNS, [difference_row(name, d) for (_, name), d in found.items()]),
            ),
            ("Mean gain in Dice by lesion volume.", _by_volume(tables)),
        ),
        picture="Gain in Dice of every test case over the best threshold, against the volume of its lesion",
        against=_against(len(validation), len(maps)),
        minutes=(time.monotonic() - began) / 60,
        commit=source().commit,
    )
    return finding, figure(tables), pd.concat(tables, names=["variant"]).reset_index(level=0)


def as_published(cases: list[CaseProbability]) -> Postprocessing:
    """The paper's CRF at test time: its Gaussian term alone, 2 voxels wide; of the cases' mean voxel size in mm."""
    voxel_mm = float(np.mean([entry.case.geometry.spacing_mm for entry in cases]))
    crf = CrfSettings(
        theta_gamma_mm=PUBLISHED_VOXELS * voxel_mm,
        weight_gaussian=PUBLISHED_WEIGHT,
        weight_bilateral=0.0,
        iterations=PUBLISHED_ITERATIONS,
    )
    return Postprocessing(crf=crf)


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
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    free = int((~with_lesion).sum())
    if free:
        axes.set_title(f"{free} case(s) without a lesion not shown, but in the means", fontsize="small")
    drawn.legend(loc="outside lower center", frameon=False, ncols=2)
    return drawn


def _tuned(laboratory: Laboratory, validation: list[CaseProbability], name: str, bilateral: bool) -> Postprocessing:
    settings = replace(laboratory.base.crf_search, bilateral=bilateral)
    with display(f"CRF search, {name}") as shown:
        return tune(validation, settings, report=CrfSearchDisplay(shown, settings.trials).show).with_crf


def _best_threshold_for_largest(validation: list[CaseProbability]) -> float:
    """The threshold with the highest mean Dice of the largest component; among equals the one nearest to 0.5."""

    def dice(threshold: float) -> float:
        values = [metrics_of(entry, _largest(_native(entry) >= threshold))["dice"] for entry in validation]
        return float(np.mean(np.array(values, dtype=float)))

    return max(sorted(THRESHOLDS, key=lambda threshold: abs(threshold - 0.5)), key=dice)


def _native(entry: CaseProbability) -> NDArray[np.float32]:
    return to_native(entry.probability, entry.case.geometry)


def _largest(mask: NDArray[np.bool_]) -> Mask:
    """The largest 26-connected component alone, which Monteiro and Oliveira's later code keeps."""
    components, count = ndimage.label(mask, NEIGHBOURS_26)
    if count == 0:
        return mask.astype(np.uint8)
    return np.asarray(components == 1 + np.bincount(components.ravel())[1:].argmax(), dtype=np.uint8)


def _in_words(chosen: Postprocessing) -> str:
    text = f"threshold {chosen.threshold:g}, smallest lesion {chosen.min_lesion_ml:g} ml"
    crf: CrfSettings | None = chosen.crf
    if crf is None:
        return text
    bilateral = (
        f", bilateral {crf.weight_bilateral:g} over {crf.theta_alpha_mm:.3g} mm and {crf.theta_beta:.3g} z-scores"
    )
    return (
        f"Gaussian {crf.weight_gaussian:g} over {crf.theta_gamma_mm:.3g} mm{bilateral * bool(crf.weight_bilateral)}, "
        f"{crf.iterations} iterations; {text}"
    )


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
    words = ", ".join(
        f"{name} {gain.mean:+.3f}{'' if gain.significant else ' (not significant)'}" for name, gain in gains.items()
    )
    return f"{judged}: change in mean test Dice against the {THRESHOLD}: {words}."


def _against(validation: int, test: int) -> tuple[str, ...]:
    return (
        f"One network, {validation} validation and {test} test cases. What is tuned on few cases fits them: the CRF "
        "has more to tune than the threshold, and so more to lose on new cases.",
        "The paper's CRF followed a network that was trained on whole volumes, and was compared with that network's "
        "output, not with its best threshold.",
        "A case without a lesion weighs as much as any other: what silences a false alarm there gains a whole Dice.",
    )
