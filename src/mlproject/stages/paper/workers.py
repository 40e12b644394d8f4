"""Claim 4: training spread over several workers is faster at equal quality."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from mlproject.evaluation import convergence
from mlproject.evaluation.palette import BLUE, GREY, ORANGE
from mlproject.evaluation.statistics import t_interval
from mlproject.stages.paper.finding import Finding
from mlproject.stages.paper.laboratory import Laboratory, Training, patches_in_words
from mlproject.tracking import markdown

CLAIM = "Training spread over several workers is faster at equal quality"
EQUAL = 0.02  # said beforehand: a difference in Dice that a user would not mind
PATCHES_EACH = 2  # with one, PyTorch leaves oneDNN for a convolution that is slower than the sharing is worth
COLUMNS = ("Seed", "Workers", "Device", "s a step", "Minutes to the level", "Minutes in all", "Best Dice", "Final Dice")


def examine(laboratory: Laboratory) -> tuple[Finding, Figure, pd.DataFrame]:
    """Train with one worker and with several, on the same batches."""
    devices = [on for on in ("cpu", "cuda") if on == "cpu" or torch.cuda.device_count() >= laboratory.plan.processes]
    trained = {
        (on, seed, count): _trained(laboratory, on, seed, count)
        for on in devices
        for seed in laboratory.plan.seeds
        for count in (1, laboratory.plan.processes)
    }
    level = convergence.SHARE_OF_BEST * min(training.curve["dice"].max() for training in trained.values())
    table = pd.DataFrame(_rows(trained, level))
    finding = Finding(
        part="workers",
        claim=CLAIM,
        verdict=_verdict(table, laboratory.plan.processes),
        done=(
            f"The platform's network, {laboratory.plan.workers_steps} steps of the same "
            f"{patches_in_words(PATCHES_EACH * laboratory.plan.processes, laboratory.base.patches)}, by 1 process and "
            f"by {laboratory.plan.processes} (gloo on a CPU, NCCL on GPUs); on a CPU each process has one thread. Time "
            "is counted from the first step, validations included; between two validations, and from Dice 0 at the "
            f"first step, curves are taken for straight lines. The level is {level:.3f}, "
            f"{100 * convergence.SHARE_OF_BEST:.0f} % of the lowest best Dice."
        ),
        tables=(("", markdown.table(COLUMNS, table.apply(_as_row, axis=1))),),
        picture="Validation Dice over the minutes since the first step, by one worker and by several",
        against=_against(laboratory, devices),
    )
    return finding, figure(trained), table


def figure(trained: dict[tuple[str, int, int], Training]) -> Figure:
    """Validation Dice over the minutes since the first step, a line a training."""
    drawn = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawn.subplots()
    seen = set()
    for (on, _, count), training in trained.items():
        label = f"{count} worker{'s' * (count > 1)}, {on.upper()}"
        colour, style = ORANGE if count > 1 else BLUE, "-" if on == "cpu" else "--"
        shown = "" if label in seen else label
        minutes, dice = (np.append(0, training.curve[name]) for name in ("seconds", "dice"))
        axes.plot(minutes / 60, dice, style, color=colour, alpha=0.8, label=shown)
        seen.add(label)
    axes.set(xlabel="minutes since the first step", ylabel="validation Dice (mean over cases)", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, color=GREY)
    drawn.legend(loc="outside lower center", frameon=False, ncols=4)
    return drawn


def _trained(laboratory: Laboratory, on: str, seed: int, count: int) -> Training:
    # On GPUs the network runs as it is: one process alone could replay a recorded step, several cannot.
    execution = "eager" if on == "cuda" else laboratory.base.training.execution
    experiment = laboratory.experiment(
        steps=laboratory.plan.workers_steps,
        batch_size=PATCHES_EACH * laboratory.plan.processes,
        seed=seed,
        devices=count,
        accelerator=on,
        execution=execution,
        threads=1 if on == "cpu" else laboratory.base.training.threads,
    )
    name = f"{count} worker{'s' * (count > 1)} on {on.upper()}, seed {seed}"
    return laboratory.training(name, experiment)


def _rows(trained: dict[tuple[str, int, int], Training], level: float) -> Iterator[dict[str, object]]:
    for (on, seed, count), training in trained.items():
        curve = training.curve
        step = convergence.steps_to(curve["step"].to_numpy(float), curve["dice"].to_numpy(float), level)
        seconds = np.interp(step, np.append(0, curve["step"]), np.append(0, curve["seconds"]))
        yield {
            "device": on,
            "seed": seed,
            "workers": count,
            "seconds_a_step": training.seconds_a_step,
            "minutes_to_level": seconds / 60,
            "minutes": training.minutes,
            "best_dice": float(curve["dice"].max()),
            "final_dice": float(curve["dice"].iloc[-1]),
        }


def _as_row(row: pd.Series) -> tuple[str, ...]:
    return (
        str(row["seed"]),
        str(row["workers"]),
        str(row["device"]).upper(),
        f"{row['seconds_a_step']:.3f}",
        f"{row['minutes_to_level']:.2f}",
        f"{row['minutes']:.2f}",
        f"{row['best_dice']:.3f}",
        f"{row['final_dice']:.3f}",
    )


def _verdict(table: pd.DataFrame, processes: int) -> str:
    sentences = []
    for on, rows in table.groupby("device", sort=False):
        one, several = (rows[rows["workers"] == count].set_index("seed").sort_index() for count in (1, processes))
        if not (one["best_dice"].min() > 0 and several["best_dice"].min() > 0):
            sentences.append(f"Not settled on {str(on).upper()}: not every training had learnt anything yet.")
            continue
        speedup = one["minutes_to_level"] / several["minutes_to_level"]
        pace = (one["seconds_a_step"] / several["seconds_a_step"]).mean()
        change = several["final_dice"] - one["final_dice"]
        low, high = t_interval(change.to_numpy())
        equal = max(abs(low), abs(high)) < EQUAL
        faster = speedup.min() > 1
        judged = (
            "Supported"
            if faster and equal
            else "Not supported"
            if not faster
            else "Faster, but equal quality is not shown"
        )
        sentences.append(
            f"{judged} on {str(on).upper()}: {processes} workers reach the level {speedup.mean():.2f} times as fast "
            f"({speedup.min():.2f} to {speedup.max():.2f}), a step {pace:.2f} "
            f"times; the final Dice differs by {change.mean():+.3f} (95 % t-interval {low:+.3f} to {high:+.3f}; "
            f"equal is within {EQUAL:g})."
        )
    return " ".join(sentences)


def _against(laboratory: Laboratory, devices: list[str]) -> tuple[str, ...]:
    reasons = [
        f"{laboratory.plan.processes} processes on one machine; the paper spread its training over machines with GPUs, "
        "where the network between them counts.",
        "One process with a thread for each core would be the fairer rival on one machine; it is not measured here.",
        "As both see the same batches, equal quality is what arithmetic promises; larger global batches, which people "
        "take with more workers, are not tested here.",
    ]
    if "cuda" not in devices:
        reasons.append(f"No row for GPUs: PyTorch saw {torch.cuda.device_count()} here.")
    return tuple(reasons)
