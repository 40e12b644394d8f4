"""Texts that people choose (data sets, channels, commands) shown as they are, whatever they hold."""

from itertools import pairwise

import pytest
from markdown_it import MarkdownIt  # rich brings it

from mlproject.tracking.markdown import block, code, escape, table

NASTY = [
    "a|b",
    "<img src=x onerror=alert(1)>",
    "**bold** _x_",
    "[link](http://x)",
    "`tick`",
    "``",
    "# head",
    "a\n\n# b",
]
markdown = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def text_of(source: str) -> str:
    return "".join(
        child.content for token in markdown.parse(source) if token.type == "inline" for child in token.children or ()
    )


def kinds(source: str) -> set[str]:
    return {child.type for token in markdown.parse(source) for child in token.children or ()}


@pytest.mark.parametrize("text", NASTY)
def test_escaped_is_plain_text(text: str) -> None:
    assert kinds(escape(text)) <= {"text", "text_special"}
    assert text_of(escape(text)) == " ".join(text.split())


@pytest.mark.parametrize("text", [text for text in NASTY if "|" not in text])
def test_code_is_one_piece_of_code(text: str) -> None:
    assert kinds(code(text)) == {"code_inline"}
    assert text_of(code(text)) == " ".join(text.split())


@pytest.mark.parametrize("text", ["ls", "```\n# out of the block\n```", "````"])
def test_block_cannot_be_left(text: str) -> None:
    tokens = markdown.parse(block(text))
    assert [token.type for token in tokens] == ["fence"] and tokens[0].content == f"{text}\n"


def test_table_has_its_cells() -> None:
    tokens = markdown.parse(table(["a", "b"], [[escape(text), 1] for text in NASTY]))
    assert sum(token.type == "tr_open" for token in tokens) == 1 + len(NASTY)
    cells = [after for token, after in pairwise(tokens) if token.type == "td_open"]
    shown = ["".join(piece.content for piece in cell.children or ()) for cell in cells]
    assert shown == [word for text in NASTY for word in (" ".join(text.split()), "1")]
