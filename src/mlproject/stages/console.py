"""What the terminal shows. Without a terminal (mlflow run's log, CI): plain lines."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mlproject.training import progress as fit_progress

console = Console(highlight=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 15.0


class TrainingDisplay:
    """Loss, Dice, patches/s and time left of a running fit: a bar on a terminal, else a line now and then."""

    def __init__(self, bar: Progress | None, name: str) -> None:
        self.bar, self.name = bar, name
        self.task = bar.add_task(name, total=1.0, state="") if bar else None
        self.dice = "not yet validated"
        self.last_line = 0.0

    def show(self, event: fit_progress.Progress | fit_progress.Epoch) -> None:
        """Show what the fit has yielded."""
        if isinstance(event, fit_progress.Epoch):
            if event.validation_dice is not None:
                self.dice = f"validation Dice {event.validation_dice:.3f}{' (best)' if event.improved else ''}"
                if self.bar is None:
                    console.print(f"{self.name}, epoch {event.number}, step {event.step}: {self.dice}")
            return
        state = f"step {event.step}, loss {event.loss:.3f}, {self.dice}, {event.patches_per_second:.1f} patches/s"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=event.share, state=state)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            minutes, seconds = divmod(round(event.seconds_left), 60)
            console.print(f"{self.name} {event.share:4.0%}  {state}, {minutes}:{seconds:02d} left")


@contextmanager
def training_display(name: str) -> Iterator[TrainingDisplay]:
    """A display for one fit of that name."""
    if not console.is_terminal:
        yield TrainingDisplay(None, name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield TrainingDisplay(bar, name)


class CrfSearchDisplay:
    """A line now and then about a running CRF search: trials done, and the best Dice so far."""

    def __init__(self, trials: int) -> None:
        self.trials, self.best, self.last_line = trials, 0.0, time.monotonic()

    def show(self, number: int, row: Mapping[str, Any]) -> None:
        """Show the trial of this number, counted from 0; `row` is that of SearchResult.trials."""
        self.best = max(self.best, row["dice"] if row["state"] == "finished" else 0.0)
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            console.print(f"CRF search: {number + 1} of {self.trials} trials, best Dice {self.best:.4f}")
