"""The errors that a user can mend. The command line prints each as its text alone, without a traceback."""

from typing import Any


class UserError(Exception):
    """What is wrong, the value and the file, the rule, and what to do, in one readable text."""

    exit_code = 2


class SettingsError(UserError):
    """A setting is unknown, ill-typed, out of range, or contradicts another."""


class DataError(UserError):
    """A data set, case or volume cannot be used as it is."""


class ModelError(UserError):
    """A model, checkpoint or cache entry cannot be found, read or used here."""


class TrackingError(UserError):
    """The MLflow server does not answer or refuses."""


class UndeliveredError(TrackingError):
    """All is done, and some of what was logged waits on this disk, because the MLflow server is gone."""

    exit_code = 3


class TrainingError(UserError):
    """Training cannot go on: a non-finite loss, a worker that died."""

    exit_code = 1


class CasesFailedError(UserError):
    """Some of many cases failed and the others are done; `result` is the stage's result, with both."""

    exit_code = 1

    def __init__(self, text: str, result: dict[str, Any]) -> None:
        super().__init__(text, result)
        self.text = text
        self.result = result

    def __str__(self) -> str:
        return self.text


class Interrupted(KeyboardInterrupt):
    """The work was stopped by a signal; `exit_code` is 128 + the signal's number.

    No Exception: libraries take those for failures of their own, and try again (botocore) or pass over them (MLflow).
    """

    def __init__(self, text: str, signal_number: int) -> None:
        super().__init__(text, signal_number)
        self.text = text
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return self.text
