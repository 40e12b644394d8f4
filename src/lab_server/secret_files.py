"""Passwords and keys, made at random at the first start; each is a file that its owner alone can read."""

import os
import secrets
from pathlib import Path


def secret(folder: Path, name: str) -> str:
    """The secret of this name; its file is made where it is missing."""
    file = folder / name
    if not file.exists():
        write(file, secrets.token_urlsafe(24))
    return file.read_text().strip()


def write(file: Path, text: str) -> None:
    """Write a file that its owner alone can ever read, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)
    temporary.replace(file)
