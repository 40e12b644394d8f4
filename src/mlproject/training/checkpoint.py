"""Checkpoints: written atomically, read without unpickling code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mlproject.errors import ModelError

FORMAT_VERSION = 1


def write(state: dict[str, Any], path: Path) -> None:
    """Write a dictionary of tensors and plain values; `path` holds the old or the new one, never a part.

    When this returns, it is on the disk. One process at a time may write to a path.
    """
    temporary = path.with_name(f".{path.name}.part")  # always the same: what a killed process left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        to_disk(path.parent)  # the new name, too: else a power cut may bring the old one back
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        reason = error if isinstance(error, OSError) else error.__context__  # of torch.save, which hides it
        if not isinstance(reason, OSError):
            raise
        raise ModelError(
            f"cannot write the checkpoint {path}: {reason.strerror}; the one before it is intact. "
            "Free some space (or set work_dir to another disk) and resume the run"
        ) from error


def to_disk(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
