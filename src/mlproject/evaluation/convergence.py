"""How fast trainings converge: curves of validation Dice over the steps, several seeds to a variant."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from mlproject.evaluation.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION

Floats = npt.NDArray[np.float64]
SHARE_OF_BEST = 0.8
COLOURS, STYLES = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE), ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))


def area(steps: Floats, dice: Floats) -> float:
    """Mean Dice over a training: the area under its curve, from Dice 0 at step 0 on, over the number of steps.

    Args:
        steps: (n,) where it was validated, rising, above 0.
        dice: (n,) validation Dice, in [0, 1].
    """
    return float(np.trapezoid(np.append(0, dice), np.append(0, steps)) / steps[-1])


def steps_to(steps: Floats, dice: Floats, level: float) -> float:
    """The step at which a curve first reaches a level, on the line between two validations; NaN where it never does.

    A level of 0, which trainings that learn nothing have, is reached by none.
    """
    reached = np.flatnonzero(dice >= level)
    if not len(reached) or level <= 0:
        return float("nan")
    after = int(reached[0])
    x, y = np.append(0, steps), np.append(0, dice)
    return float(x[after] + (x[after + 1] - x[after]) * (level - y[after]) / (y[after + 1] - y[after]))


def summary(curves: pd.DataFrame) -> pd.DataFrame:
    """One row a training, in the order of first appearance.

    Args:
        curves: one row a validation with the columns variant, seed, step and dice.

    Returns:
        variant, seed, best_dice, area, and steps_to_level: where the curve first reaches SHARE_OF_BEST of the best
        Dice of all the trainings, which is one level for all (column level); NaN where it never does.
    """
    level = SHARE_OF_BEST * float(curves["dice"].max())
    rows = []
    for (variant, seed), curve in curves.groupby(["variant", "seed"], sort=False):
        ordered = curve.sort_values("step")
        steps, dice = (ordered[name].to_numpy(dtype=float) for name in ("step", "dice"))
        reached = steps_to(steps, dice, level)
        rows.append((variant, seed, float(dice.max()), area(steps, dice), reached, level))
    return pd.DataFrame(rows, columns=["variant", "seed", "best_dice", "area", "steps_to_level", "level"])


def figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Validation Dice over the steps: the mean of the seeds, in a band from the lowest to the highest of them.

    From Dice 0 at step 0 on, as `area` and `steps_to` take it.

    Args:
        curves: title of a panel → the table that `summary` takes; the panels share their axes.
    """
    drawn = Figure(figsize=(0.8 + 5.6 * len(curves), 4.6), layout="constrained")
    panels = np.atleast_1d(drawn.subplots(1, len(curves), sharex=True, sharey=True))
    for axes, (title, table) in zip(panels, curves.items(), strict=True):
        level = SHARE_OF_BEST * float(table["dice"].max())
        axes.axhline(level, color=GREY, linewidth=1, linestyle=":")
        axes.annotate("80 % of the best", (0, level), (4, 3), textcoords="offset points", color=GREY, fontsize="small")
        for n, (variant, rows) in enumerate(table.groupby("variant", sort=False)):
            bands = rows.groupby("step")["dice"].agg(["mean", "min", "max"])
            bands = pd.concat([pd.DataFrame(0.0, index=[0], columns=bands.columns), bands])
            axes.plot(bands.index, bands["mean"], color=COLOURS[n % 5], linestyle=STYLES[n % 5], label=str(variant))
            axes.fill_between(bands.index, bands["min"], bands["max"], color=COLOURS[n % 5], alpha=0.18, linewidth=0)
        axes.set(title=title, xlabel="optimizer step", ylim=(0, 1))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation Dice (mean over cases)")
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=4)
    return drawn
