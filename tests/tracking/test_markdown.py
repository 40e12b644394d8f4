"""Texts that people choose (data sets, channels, commands) shown as they are, whatever they hold."""

from itertools import pairwise

import pytest
from markdown_it import MarkdownIt  # rich brings it

from mlproject.tracking.markdown import block, code, escape, escape_lightly, table

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


@pytest.mark.parametrize("text", NASTY)
def test_lightly_escaped_is_plain_text_within_a_line(text: str) -> None:
    line = f"Cases of {escape_lightly(text)}."
    assert kinds(line) <= {"text", "text_special"} and text_of(line) == f"Cases of {' '.join(text.split())}."


def test_lightly_escaped_is_left_as_it_is_where_it_can() -> None:
    for text in ("ISLES-2022", "my_data_set", "a (b)", "a+b #1!"):
        assert escape_lightly(text) == text


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
