"""What our HTML pages have in common: one self-contained page, its look, and tables of plain texts."""

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

NOT_A_DEVICE = "Research software. Not a medical device: not for diagnosis or any decision about a patient."

Cell = str | tuple[str, str]  # a text, or a text with small print under it


def page(title: str, body: str, style: str = "", sources: str = "img-src data:") -> str:
    """A page that needs nothing else and fetches nothing.

    Args:
        title: of the page, as plain text.
        body: HTML below the title.
        style: CSS of this page, beside what all have.
        sources: what the page may hold beyond inline styles, as a Content-Security-Policy.
    """
    return _PAGE.substitute(title=escape(title), body=body, style=style, sources=sources, warning=NOT_A_DEVICE)


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """An HTML table of plain texts, which it escapes; without a header line where `header` is empty."""

    def html(cell: Cell) -> str:
        return escape(cell) if isinstance(cell, str) else f"{escape(cell[0])}<small>{escape(cell[1])}</small>"

    head = "<thead><tr>" + "".join(f"<th>{html(cell)}</th>" for cell in header) + "</tr></thead>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=table><table>{head}<tbody>{body}</tbody></table></div>"


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; $sources">
<title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 68rem; margin: auto; padding: 1rem; }
html { scroll-padding-top: 1rem; }
h1 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #0072b2; }
.warning { background: #fff3d6; border-left: 4px solid #e69f00; padding: .5rem 1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; min-width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; }
td:first-child { font-weight: 600; min-width: 7rem; position: sticky; left: 0; background: white; }
$style
</style>
</head>
<body>
<h1>$title</h1>
<p class="warning">$warning</p>
$body
</body>
</html>
""")
