"""A command in a process that has imported all it needs. By itself: another process finds nothing in a conftest.py."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from end_to_end.conftest import PROJECT


def run(words: Sequence[str], folder: Path, environment: dict[str, str], output: Path) -> None:
    """The whole life of a command."""
    os.chdir(folder)
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = [str(PROJECT / "src" / "run.py"), *words]
    from mlproject import cli

    sys.exit(cli.main(words))
