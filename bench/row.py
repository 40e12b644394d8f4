"""One figure of the table, and the clock that measures it."""

import operator
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """A figure against its peer, measured in the same run on the same work.

    Attributes:
        what: what is measured.
        against: the peer.
        unit: of the figure: "x" (times faster, or times as much), "%", "Dice", "GiB", or "" for a plain number.
        samples: the figure, once a repetition; their median counts.
        target: at which median the goal is reached; None where the figure is for information.
        better: whether the median must be at least or at most the target.
        detail: the absolute numbers behind the figure.
    """

    what: str
    against: str
    unit: Literal["x", "%", "Dice", "GiB", ""]
    samples: tuple[float, ...]
    target: float | None
    better: Literal[">=", "<="]
    detail: str

    @property
    def value(self) -> float:
        """The figure itself."""
        return median(self.samples)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        compare = {">=": operator.ge, "<=": operator.le}[self.better]
        return None if self.target is None else bool(compare(self.value, self.target))

    def cells(self) -> tuple[str, ...]:
        """The cells of the table: what, against, measured, spread, goal, reached, and the absolute numbers."""
        value, low, high = (self._text(number) for number in (self.value, min(self.samples), max(self.samples)))
        spread = f"{low} to {high}" if len(self.samples) > 1 else ""
        goal = "" if self.target is None else f"{self.better} {self.target:g} {self.unit}".strip()
        reached = {True: "yes", False: "NO", None: ""}[self.reached]
        return (self.what, self.against, f"{value} {self.unit}".strip(), spread, goal, reached, self.detail)

    def _text(self, number: float) -> str:
        if self.unit == "Dice":
            return f"{number:.4f}"
        return f"{number:.0f}" if number >= 100 else f"{number:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"value": self.value, "reached": self.reached}


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that `work` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
