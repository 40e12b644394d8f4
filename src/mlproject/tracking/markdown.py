"""Markdown as the MLflow UI shows it, from texts that may hold any character."""

import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    """A text on one line that Markdown and HTML leave as it is.

    By a backslash what the UI's Markdown (Showdown) takes with one, by its entity what it does not.
    """
    line = " ".join(str(text).split())
    with_entities = re.sub(r"[<>&|~]", lambda found: f"&#{ord(found[0])};", line)
    return re.sub(r"([\\`*_{}\[\]()+!-]|(?<!&)#)", r"\\\1", with_entities)


def escape_lightly(text: object) -> str:
    """The same for the middle of a line that is also shown as plain text: only what is markup there."""
    line = " ".join(str(text).split())
    with_entities = re.sub(r"[<>&|~]", lambda found: f"&#{ord(found[0])};", line)
    return re.sub(r"([\\`*\[\]]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", with_entities)


def code(text: object) -> str:
    """A text within a line, as code; a backtick cannot end it."""
    line = " ".join(str(text).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def block(text: str, language: str = "sh") -> str:
    """A text of several lines as a block of code; a fence in it cannot end it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; its cells are Markdown already, without a line break."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
