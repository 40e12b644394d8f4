"""Say, in one line each, what this machine lacks for `make`. Runs before anything is installed."""

import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path


def missing() -> list[str]:
    """What is missing, with the package to install (Debian's name; others are alike)."""
    lines = []
    if sys.version_info[:2] != (3, 11):
        lines.append(f"Python 3.11 is needed, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11 ...")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        lines.append("Python's headers are missing (pydensecrf2 is compiled): apt-get install python3.11-dev")
    if importlib.util.find_spec("ensurepip") is None:
        lines.append("Python's venv is missing: apt-get install python3.11-venv")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        lines.append("a C++ compiler is missing (pydensecrf2 is compiled): apt-get install g++")
    if shutil.which("git") is None:
        lines.append("git is missing: apt-get install git")
    return lines


if __name__ == "__main__":
    found = missing()
    print("\n".join(f"error: {line}" for line in found), end="\n" if found else "", file=sys.stderr)
    sys.exit(2 if found else 0)
