"""Settings of the search for a CRF, and of its choice."""

from dataclasses import dataclass

from mlproject.errors import SettingsError
from mlproject.prediction.crf import LIMITS


@dataclass(frozen=True)
class CrfSearchSettings:
    """The search for threshold, smallest lesion and CRF on the validation cases.

    Attributes:
        trials: Proposals of the CRF's thetas; each with every weight, iteration count and threshold.
        seed: Seed of the proposals (Optuna's TPE) and of the bootstrap.
        timeout_minutes: No trial starts after this time, the first excepted; none if null.
        processes: Worker processes that share the cases; 0 for one a core.
        iterations: Every count of mean-field iterations up to this is tried; 1 to 50.
        trial_seconds: A trial that takes longer is ended and counts as failed.
        finalists: Best settings to score again on the native grid, with every smallest lesion.
        bilateral: Try the bilateral term, too; false leaves the Gaussian one alone.
    """

    trials: int = 40
    seed: int = 0
    timeout_minutes: float | None = None
    processes: int = 0
    iterations: int = 8
    trial_seconds: float = 300
    finalists: int = 5
    bilateral: bool = True

    def __post_init__(self) -> None:
        for name, least in {"trials": 1, "seed": 0, "processes": 0, "iterations": 1, "finalists": 1}.items():
            if getattr(self, name) < least:
                raise SettingsError(f"{name} of the CRF search is {getattr(self, name)}: it must be {least} or more")
        if self.iterations > LIMITS["iterations"][1]:
            raise SettingsError(
                f"iterations of the CRF search is {self.iterations}: it must be at most {LIMITS['iterations'][1]}"
            )
        if not self.trial_seconds > 0:
            raise SettingsError(f"trial_seconds of the CRF search is {self.trial_seconds}: it must be above 0")
        if self.timeout_minutes is not None and not self.timeout_minutes > 0:
            raise SettingsError(
                f"timeout_minutes of the CRF search is {self.timeout_minutes}: it must be above 0, or null"
            )


@dataclass(frozen=True)
class CrfChoiceSettings:
    """Whether the CRF that the search found is kept.

    Attributes:
        require_gain: Keep it only where its gain over the best threshold is significant on the validation cases
            (95 % bootstrap interval above 0 and Wilcoxon's p below 0.05); otherwise any gain of the mean will do.
    """

    require_gain: bool = False
