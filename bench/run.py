"""`make bench`: one table on the terminal, and the same as JSON. Each module gives rows (see Row).

Spawned workers import this file again, so whatever takes long to import is imported in main().
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

MODULES = (
    "crf_search",
    "crf_costs",
    "patches",
    "training",
    "prediction",
    "preprocessing",
    "startup",
    "memory",
)  # each has rows() -> list[Row]
PACKAGES = ("numpy", "scipy", "pydensecrf2", "optuna", "mlflow", "torch", "torchio", "monai")
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COLUMNS = ("what", "against", "measured", "spread", "goal", "reached", "in numbers")


def main(arguments: list[str]) -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help=f"what to measure: {', '.join(MODULES)} (all)")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="the JSON file (bench.json)")
    options = parser.parse_args(arguments)
    os.environ |= dict.fromkeys(THREAD_LIMITS, "1")  # before numpy is imported; the workers inherit it
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    where, start = machine(), time.monotonic()
    rows = []
    for name in options.modules:
        print(f"measuring {name} ...", flush=True)
        begun = time.monotonic()
        rows.extend(importlib.import_module(f"bench.{name}").rows())
        print(f"  took {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    minutes = (time.monotonic() - start) / 60
    print_table([row.cells() for row in rows])
    print(f"{minutes:.1f} minutes on {where['cores']} cores; also in {options.json}")
    result = {"machine": where, "minutes": minutes, "rows": [row.to_dict() for row in rows]}
    options.json.write_text(json.dumps(result, indent=2) + "\n")


def print_table(rows: list[tuple[str, ...]]) -> None:
    """A table in Markdown."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    Console(width=1000, highlight=False).print(table)


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code; the load is that of others, before the start."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), "unknown")
    import torch

    return {
        "processor": processor,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
