"""The pictures of a run: loss curves, Dice per case.

Every function returns a matplotlib Figure of its own, made without pyplot: no display, no global state.
"""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from mlproject.evaluation.metrics import METRICS
from mlproject.evaluation.palette import BLACK, BLUE, GREEN, GREY, VERMILLION


def to_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def loss_curves(history: pd.DataFrame) -> Figure:
    """Losses over the steps; below, validation Dice and learning rate.

    Args:
        history: one row a step with the columns step, train_loss, train_cross_entropy, train_dice_loss,
            learning_rate and validation_dice; NaN where one was not measured.
    """
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    losses, dice = figure.subplots(2, 1, sharex=True)
    for column, label, colour, style in (
        ("train_loss", "total", BLACK, "-"),
        ("train_cross_entropy", "cross-entropy", BLUE, "--"),
        ("train_dice_loss", "1 − soft Dice", VERMILLION, "-."),
    ):
        measured = history.dropna(subset=[column])  # a step that was only validated must not cut the line
        losses.plot(measured["step"], measured[column], style, color=colour, label=label)
    losses.set_ylabel("training loss")
    losses.legend(frameon=False)

    rate = dice.twinx()
    measured = history.dropna(subset=["learning_rate"])
    rate.plot(measured["step"], measured["learning_rate"], color=GREY, linewidth=1)
    rate.set_ylabel("learning rate", color=GREY)
    rate.set_ylim(bottom=0)
    dice.set(xlabel="optimizer step", ylabel="validation Dice (mean over cases)", ylim=(0, 1))
    dice.set_zorder(rate.get_zorder() + 1)
    dice.patch.set_visible(False)
    validated = history.dropna(subset=["validation_dice"])
    dice.plot(validated["step"], validated["validation_dice"], "o-", color=GREEN, markersize=4)
    if len(validated):
        best = validated.iloc[int(validated["validation_dice"].argmax())]
        text = f"best {best['validation_dice']:.3f} at step {best['step']:.0f}"
        dice.set_title(text, fontsize="medium", color=GREEN, loc="left")
    for axes in (losses, dice):
        axes.grid(alpha=0.3)
    return figure


def worst_middle_best(table: pd.DataFrame, metric: str = "dice") -> list[tuple[str, str]]:
    """Which cases to show: (label, case) for the worst, the middle and the best by one metric.

    Args:
        table: one row a case, with the columns case and `metric`. Cases where the metric is undefined are
            passed over; lesion-free cases (a Dice, but little to see) are the caller's to leave out.
        metric: a name in METRICS.

    Returns:
        No case twice, so fewer than three entries for fewer than three cases. Ties go by the case's name.
    """
    better = {m.name: m.better for m in METRICS}[metric]
    defined = table.dropna(subset=[metric]).sort_values("case")
    ranked = defined.sort_values(metric, ascending=better == "higher", kind="stable")["case"].tolist()
    if len(ranked) <= 1:
        return [("only case", case) for case in ranked]
    if len(ranked) == 2:
        return [("worst", ranked[0]), ("best", ranked[1])]
    return [("worst", ranked[0]), ("middle", ranked[len(ranked) // 2]), ("best", ranked[-1])]


def paired_dots(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dice per case under each variant, the same case joined by a line, and the mean.

    Args:
        tables: variant → per-case table with the columns case and dice; all hold the same cases.

    Raises:
        ValueError: the variants do not hold the same cases.
    """
    dice = {variant: table.set_index("case")["dice"] for variant, table in tables.items()}
    if len({frozenset(column.index) for column in dice.values()}) != 1:
        raise ValueError(f"the variants {', '.join(tables)} do not hold the same cases")
    values = pd.DataFrame(dice)

    figure = Figure(figsize=(3 + 1.6 * len(tables), 5), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(tables))
    for row in values.to_numpy():
        gain = row[-1] - row[0]
        colour = GREY if abs(gain) < 1e-6 else BLUE if gain > 0 else VERMILLION
        axes.plot(positions, row, "o-", color=colour, alpha=0.6, linewidth=1, markersize=5)
    axes.plot(positions, values.mean(), "D-", color=BLACK, linewidth=2.5, markersize=8)
    axes.set_xticks(positions, values.columns, parse_math=False)
    axes.set_xlim(-0.3, len(tables) - 0.7)
    axes.set_ylabel("Dice per case")
    axes.grid(axis="y", alpha=0.3)
    marks = (("better", BLUE, "o"), ("worse", VERMILLION, "o"), ("equal", GREY, "o"), ("mean", BLACK, "D"))
    figure.legend(
        handles=[Line2D([], [], color=colour, marker=marker, label=label) for label, colour, marker in marks],
        title=f"{values.columns[-1]}\nagainst\n{values.columns[0]}",
        loc="outside right upper",
        frameon=False,
    )
    return figure


def dice_against_volume(table: pd.DataFrame) -> Figure:
    """Dice of every case over the volume of its lesion; lesion-free cases in a column of their own.

    Args:
        table: one row a case with the columns dice and reference_ml.
    """
    with_lesion, without = table[table["reference_ml"] > 0], table[table["reference_ml"] == 0]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 6))
    # Side by side: their Dice is 0 or 1, so on one line they would hide each other.
    across = (np.arange(len(without)) + 0.5) / max(len(without), 1) - 0.5
    left.plot(across, without["dice"], "o", color=VERMILLION, alpha=0.7)
    left.set_xticks([0], [f"no lesion\n(n = {len(without)})"])
    left.set(xlim=(-1, 1), ylim=(-0.03, 1.03), ylabel="Dice")
    right.set_xscale("log")
    right.plot(with_lesion["reference_ml"], with_lesion["dice"], "o", color=BLUE, alpha=0.7)
    right.set_xlabel("lesion volume of the reference in ml (log scale)")
    if len(with_lesion):  # whole powers of ten: an axis within one of them would have no number
        powers = np.log10(with_lesion["reference_ml"])
        right.set_xlim(0.9 * 10.0 ** np.floor(powers.min()), 1.1 * 10.0 ** np.ceil(powers.max()))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
