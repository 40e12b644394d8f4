"""`python src/run.py STAGE --config FILE --a.b value`: works from any folder, with nothing installed but conda.yaml."""

import faulthandler
import sys
from pathlib import Path

faulthandler.enable()  # in the worker processes, too: where a library crashes, it is said in which line

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    try:
        from mlproject import interrupts  # here: the worker processes, which import this file too, need none of it
        from mlproject.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mlproject"):
            raise
        environment = f"`source {PROJECT}/.venv/bin/activate` (`make -C {PROJECT} environment` makes it)"
        print(f"error: {sys.executable} has no {error.name}: {environment} gives you one that has", file=sys.stderr)
        sys.exit(2)

    code = main(sys.argv[1:])
    interrupts.exit_soon(code)
    sys.exit(code)
