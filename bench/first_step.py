"""`python bench/first_step.py train ...` is `python src/run.py train ...`, but ends after the first training step."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from mlproject import cli
from mlproject.stages.progress import TrainingDisplay

if __name__ == "__main__":
    # The first sign of life of a fit, with training.log_every 1.
    TrainingDisplay.show = lambda _display, _event: os._exit(0)  # type: ignore[method-assign, assignment]
    sys.exit(cli.main(sys.argv[1:]))
