"""How far a long step is, and how long it still takes: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from mlproject.stages.console import clock, console
from mlproject.training import progress as fit_progress

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 15.0
SHARE_BETWEEN_LINES = 0.1
"""Of the time spent so far, where that is longer: an hour prints some 40 lines, a day 80, a short step none."""


class Display:
    """What is shown of one long step.

    Args:
        what: the step's name.
        bar: where it is drawn; None prints lines.
    """

    def __init__(self, what: str, bar: Progress | None = None) -> None:
        self.what, self.bar = what, bar
        self.task = bar.add_task(what, total=1.0, state="", left="") if bar else None
        self.began = self.last_line = time.monotonic()

    def show(self, share: float, state: str, seconds_left: float | None = None) -> None:
        """Show how far it is.

        Args:
            share: of the work done, 0 to 1.
            state: the rest of the line, the most important first: a narrow terminal cuts its end off.
            seconds_left: estimated from `share` if None.
        """
        now = time.monotonic()
        if seconds_left is None and share > 0:
            seconds_left = (now - self.began) * (1 - share) / share
        left = "" if seconds_left is None else f"{clock(seconds_left)} left"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=share, state=state, left=left)
        elif now - self.last_line > max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self.began)):
            self.last_line = now
            console.print(f"{self.what} {share:4.0%}, {left}: {state}" if left else f"{self.what}: {state}")


@contextmanager
def display(what: str) -> Iterator[Display]:
    """A display of one long step, gone from the terminal when the block is left."""
    if console.quiet or not console.is_terminal or console.is_dumb_terminal:
        yield Display(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[state]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        yield Display(what, bar)


def track(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The items, while it is shown how many of `total` the caller has done."""
    with display(what) as shown:
        shown.show(0, f"0 of {total}")
        for number, item in enumerate(items, start=1):
            yield item
            if number < total:
                shown.show(number / total, f"{number} of {total}")


class TrainingDisplay:
    """Loss, validation Dice, patches/s and time left of a running fit."""

    def __init__(self, shown: Display) -> None:
        self.shown = shown
        self.dice, self.best = "not yet validated", ""
        self.share, self.step = 0.0, 0
        self.left: float | None = None

    def show(self, event: fit_progress.Event) -> None:
        """Show what the fit has yielded."""
        self.share, self.step = event.share, event.step
        if isinstance(event, fit_progress.Validating):
            self.shown.show(self.share, f"step {self.step}, validating, case {event.case} of {event.cases}", self.left)
        elif isinstance(event, fit_progress.Progress):
            self.left = event.seconds_left
            state = f"step {self.step}, loss {event.loss:.3f}, {self.dice}, {event.patches_per_second:.1f} patches/s"
            self.shown.show(self.share, state, self.left)
        elif event.validation_dice is not None:
            if event.improved:
                self.best = f"{event.validation_dice:.3f}"
            best = "" if not self.best else " (best)" if event.improved else f" (best {self.best})"
            self.dice = f"Dice {event.validation_dice:.3f}{best}"

    def summary(self) -> str:
        """What has become of the fit, in a line."""
        best = f", best validation Dice {self.best}" if self.best else ""
        return f"{self.step} steps, {clock(time.monotonic() - self.shown.began)}{best}"


@contextmanager
def training_display(name: str) -> Iterator[TrainingDisplay]:
    """A display for one fit of that name; it leaves a line about it behind."""
    with display(name) as shown:
        fit = TrainingDisplay(shown)
        yield fit
    console.print(f"{name}: {fit.summary()}")


class CrfSearchDisplay:
    """Trials done of a running CRF search, and the best Dice so far."""

    def __init__(self, shown: Display, trials: int) -> None:
        self.shown, self.trials, self.best = shown, trials, 0.0

    def show(self, number: int, row: Mapping[str, Any]) -> None:
        """Show the trial of this number, counted from 0; `row` is that of SearchResult.trials."""
        self.best = max(self.best, row["dice"] if row["state"] == "finished" else 0.0)
        done = number + 1
        then = "" if done < self.trials else "; scoring the best settings on whole volumes"
        self.shown.show(done / self.trials, f"{done} of {self.trials} trials, best Dice {self.best:.4f}{then}")
