"""What a fit tells its caller: small frozen values that travel between processes."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Point:
    """Metrics of one step, with the time at which they were measured (sent twice, MLflow stores them once).

    Attributes:
        step: optimizer steps done.
        timestamp_ms: milliseconds since 1970.
        metrics: metric name to value.
    """

    step: int
    timestamp_ms: int
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """A sign of life between two epochs.

    Attributes:
        step: optimizer steps done.
        share: of the budget used up, 0 to 1.
        loss: mean over the last few steps.
        patches_per_second: over the same steps, all processes together.
        seconds_left: estimated from this process's own pace.
    """

    step: int
    share: float
    loss: float
    patches_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Validating:
    """A sign of life of a whole-volume validation.

    Attributes:
        step: optimizer steps done.
        share: of the budget used up, 0 to 1.
        case: number of the validation case that is begun now, counted from 1 in each process.
        cases: how many this process validates.
    """

    step: int
    share: float
    case: int
    cases: int


@dataclass(frozen=True)
class Epoch:
    """One epoch, or what of it the budget or a stop allowed; its checkpoint is on disk.

    Attributes:
        number: counted from 1.
        step: optimizer steps done.
        share: of the budget used up, 0 to 1.
        points: of the training curve since the last epoch, then of the validation where there was one.
        validation_dice: mean over the validation cases, None where this epoch was not validated.
        improved: the validation Dice is the best so far, and the best checkpoint was written.
        stopped: training ends here because it was asked to, with the budget not used up.
        picture: of one validation case, (rows, columns, 3) from 0 to 255, now and then where a validation draws one.
    """

    number: int
    step: int
    share: float
    points: tuple[Point, ...]
    validation_dice: float | None
    improved: bool
    stopped: bool
    picture: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)


Event = Progress | Validating | Epoch
