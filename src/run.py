"""`python src/run.py STAGE --config FILE --a.b value`: works from any folder, with nothing installed but conda.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from mlproject.cli import main  # here: the worker processes, which import this file too, need none of it

    sys.exit(main(sys.argv[1:]))
