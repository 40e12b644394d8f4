"""Checkpoints: written atomically, read without unpickling code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mlproject.errors import ModelError

FORMAT_VERSION = 1


def write(state: dict[str, Any], path: Path) -> None:
    """Write a dictionary of tensors and plain values; `path` holds the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ModelError(
            f"cannot write the checkpoint {path}: {error.strerror}; the one before it is intact. "
            "Free some space (or set work_dir to another disk) and resume the run"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The dictionary that `write` wrote, its tensors on the CPU. Raises ModelError for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"no checkpoint at {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is not a readable checkpoint (damaged, or not written by this software)") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path} has checkpoint format {version}, this software reads {FORMAT_VERSION}: "
            "use the version of the software that wrote it"
        )
    return dict(state)
