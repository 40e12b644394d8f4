"""The pictures of a whole evaluation: volumes, lesions found by size, calibration, thresholds, paired differences.

Every function returns a matplotlib Figure of its own, made without pyplot: no display, no global state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlproject.evaluation.lesions import size_names
from mlproject.evaluation.palette import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION

MARKERS = "os^D"
SMALL_ML = 0.1  # below this volume, the logarithmic axis goes on linearly to 0


def bland_altman(table: pd.DataFrame) -> Figure:
    """Difference of the volumes over their mean, with bias and 95 % limits of agreement (Bland and Altman 1986).

    Args:
        table: one row a case with the columns reference_ml and prediction_ml.
    """
    difference = table["prediction_ml"] - table["reference_ml"]
    mean = (table["prediction_ml"] + table["reference_ml"]) / 2
    bias = float(difference.mean())
    figure, axes = _axes("mean of predicted and reference volume in ml (log scale)", "predicted − reference volume, ml")
    axes.set_xscale("symlog", linthresh=SMALL_ML)
    axes.plot(mean, difference, "o", color=BLUE, alpha=0.7)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axhline(bias, color=BLACK, label=f"bias {bias:+.2f} ml")
    if len(table) > 1:
        spread = 1.96 * float(difference.std(ddof=1))
        label = f"limits of agreement {bias - spread:+.2f} and {bias + spread:+.2f} ml"
        axes.axhline(bias - spread, color=VERMILLION, linestyle="--", label=label)
        axes.axhline(bias + spread, color=VERMILLION, linestyle="--")
    axes.set_xlim(0, max(SMALL_ML, 1.2 * mean.max()))  # the usual margin is a share of the data's range, which is small
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside upper left", frameon=False, ncols=2)
    return figure


def detection(sizes: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Above, the share of lesions found, by size; below, false alarms per case, by size.

    Args:
        sizes: what `lesions.by_size` returns.
        colours: of each variant.
    """
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    names = size_names()
    groups = list(sizes.groupby("variant", sort=False))
    for n, (variant, rows) in enumerate(groups):
        across = np.arange(len(names)) + (n - (len(groups) - 1) / 2) * 0.14
        ends = np.abs(rows[["low", "high"]].to_numpy(dtype=float).T - rows["share"].to_numpy(dtype=float))
        look: dict[str, Any] = {"color": colours[str(variant)], "marker": MARKERS[n % 4], "label": str(variant)}
        above.errorbar(across, rows["share"], yerr=ends, capsize=3, linestyle="", **look)
        below.bar(across, rows["false_alarms_per_case"], width=0.13, color=look["color"])
    counts = groups[0][1]["lesions"].tolist()
    above.set(ylim=(-0.04, 1.04), ylabel="share of lesions found")
    below.set_ylabel("false alarms per case")
    below.set_xticks(range(len(names)), [f"{name}\n(n = {count})" for name, count in zip(names, counts, strict=True)])
    below.set_xlabel("volume of the single lesion; n: lesions of the reference")
    for axes in (above, below):
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", frameon=False, ncols=4)
    return figure


def reliability(curves: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> Figure:
    """Share of lesion among the voxels of each probability; below the diagonal, the model is too sure.

    Args:
        curves: name → what `curves.reliability` returns.
        colours: of each variant; a curve of several together is black.
    """
    figure, axes = _axes("predicted probability (mean of the voxels in a tenth)", "share of them that are lesion")
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle=":", label="true probabilities")
    for n, (name, curve) in enumerate(curves.items()):
        drawn = curve[curve["voxels"] > 0]
        share = drawn["lesion_share"].to_numpy(dtype=float)
        ends = np.clip([share - drawn["low"], drawn["high"] - share], 0, None)  # NaN, so no bar, without an interval
        look: dict[str, Any] = {"color": colours.get(name, BLACK), "marker": MARKERS[n % 4], "label": name}
        axes.errorbar(drawn["mean_probability"], share, yerr=ends, capsize=3, **look)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    figure.set_size_inches(5.5, 5.5)
    figure.legend(loc="outside upper left", frameon=False, ncols=2)
    return figure


def threshold_curves(
    groups: Mapping[str, pd.DataFrame], chosen: Sequence[tuple[str, float, float]], mark: str
) -> Figure:
    """Mean Dice over the threshold, a line with its interval for each group of cases.

    Args:
        groups: name of the group → what `curves.threshold_curve` returns.
        chosen: (group, threshold, mean Dice) of the settings in use, marked.
        mark: what the marks are called.
    """
    figure, axes = _axes("threshold on the probability", "mean Dice (small lesions kept)")
    colours = dict(zip(groups, (BLUE, ORANGE, GREEN, GREY), strict=False))
    for (name, curve), style in zip(groups.items(), ("-", "--", "-.", ":"), strict=False):
        axes.plot(curve["threshold"], curve["dice"], style, color=colours[name], label=name)
        axes.fill_between(curve["threshold"], curve["low"], curve["high"], color=colours[name], alpha=0.12)
    for number, (name, threshold, dice) in enumerate(chosen):
        label = mark if number == 0 else None
        axes.plot(threshold, dice, "D", color=colours[name], markeredgecolor=BLACK, markersize=9, label=label)
        axes.axvline(threshold, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.legend(loc="outside upper left", frameon=False, ncols=2)
    return figure


def one_against_other(across: pd.DataFrame, up: pd.DataFrame) -> Figure:
    """Dice of the same cases under two models; above the diagonal, A is better. Larger dots: larger lesions.

    Args:
        across: per-case table of B.
        up: per-case table of A, with the same cases.
    """
    figure, axes = _axes("Dice of B", "Dice of A")
    b, a = (table.set_index("case") for table in (across, up))
    size = 12 + 25 * np.log10(1 + a["reference_ml"])
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, linestyle=":")
    axes.scatter(b.loc[a.index, "dice"], a["dice"], s=size, color=BLUE, alpha=0.6)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_aspect("equal")
    figure.set_size_inches(5.5, 5.5)
    return figure


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes
