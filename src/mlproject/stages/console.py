"""What the terminal shows people: one console and one look for all stages. With --json it is silent."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlproject import credentials

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
"""All that is for people goes through it; a text in square brackets, such as [dwi, adc], is no markup."""
_errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
NAME_WIDTH = 10


def heading(text: str) -> None:
    """Print what begins now, below an empty line."""
    console.print(f"\n{text}", style="bold")


def facts(values: Mapping[str, str]) -> None:
    """Print a name and a value a line, aligned; an empty value is left out."""
    for name, value in values.items():
        if value:
            console.print(f"{name + ':':<{NAME_WIDTH}}{value}")


def new_table(*columns: str, title: str = "") -> Table:
    """An empty table with the look that all tables have: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=Text(title) if title else None)
    table.title_justify = "left"
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    return table


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def complain(kind: str, text: str) -> None:
    """Print an error or a warning to standard error, above a bar that is being drawn."""
    style = {"error": "bold red", "warning": "yellow"}.get(kind, "dim")
    _errors.print(Text.assemble((f"{kind}:", style), f" {text}"))


@contextmanager
def nothing_printed() -> Iterator[None]:
    """Within: the console is silent, and what others write to standard output, child processes too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    console.quiet = True
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        console.quiet = False
        os.dup2(kept, 1)
        os.close(kept)


class _LogLines(logging.Handler):
    """Our own messages, and the warnings of all; with `debug` all there is, with the logger's name."""

    def __init__(self, debug: bool) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self.debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.startswith("mlproject")
        if record.levelno < logging.WARNING and not (ours or self.debug):
            return
        text = credentials.without(self.format(record))
        if self.debug and not ours:
            text = f"{record.name}: {text}"
        if record.levelno == logging.INFO and ours:
            console.print(text)
        else:
            complain(record.levelname.lower(), text)


def configure_logging(debug: bool) -> None:
    """Send log records and Python's warnings to the terminal, a readable line each."""
    # Before MLflow is imported: its records come here, too, and it draws no bars of its own and prints no links.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[_LogLines(debug)], force=True)
    logging.getLogger("mlproject").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {' '.join(str(message).split())}"
    if not debug:  # of the libraries, for their callers: nothing that a user can mend
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
