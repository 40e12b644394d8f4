"""One trial of a shared study as Optuna calls it: what its objective raises, turned into what the study shall do."""

import logging
import math
from collections.abc import Callable

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

from mlproject.data.case_names import for_others
from mlproject.errors import TrackingError, TrainingError, UserError

logger = logging.getLogger(__name__)


class Failed(Exception):
    """The objective failed, and the trial's user attribute `failure` says why."""


class Attempt:
    """The objective as Optuna calls it for one trial.

    Attributes:
        number: the trial's, None before it stands.
        left_by: the exception with which this worker ends.
    """

    def __init__(self, objective: Callable[[optuna.Trial], float], stand: Callable[[optuna.Trial], None]) -> None:
        self.number: int | None = None
        self.left_by: BaseException | None = None
        self._objective, self._stand = objective, stand

    def __call__(self, trial: optuna.Trial) -> float:
        """The objective's value; raises what Optuna makes a pruned trial, or a failed one whose reason is stored."""
        self.number = trial.number
        try:
            self._stand(trial)
            value = self._objective(trial)
            if not math.isfinite(value):
                raise TrainingError(f"the trial's value is {value}")
            return value
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except (KeyboardInterrupt, TrackingError, StorageInternalError) as error:
            self.left_by = error
            trial.set_user_attr("stopped", _one_line(error))
            raise
        except Exception as error:
            logger.warning("trial %d failed: %s", trial.number, _one_line(error))
            trial.set_user_attr("failure", _one_line(error))
            raise Failed from error


def _one_line(error: BaseException) -> str:
    text = " ".join(for_others(str(error)).split())[:500]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
