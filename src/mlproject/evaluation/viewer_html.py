"""The interactive viewer as HTML: NiiVue, the page's own script, and the cases' data, all inside the page."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlproject.evaluation.gathering import CasePictures
from mlproject.evaluation.palette import legends
from mlproject.evaluation.slices import encoded

FOLDER = Path(__file__).parent / "viewer"


def style() -> str:
    """The CSS of tables, pictures and viewer."""
    return (FOLDER / "page.css").read_text(encoding="utf-8")


def sources() -> str:
    """What the page may hold, as a Content-Security-Policy: these two scripts, by their digests, and no other.

    Nothing is fetched: there is no connect-src.
    """
    scripts = " ".join(_digest(_script(name)) for name in ("page.js", "niivue.min.js"))
    return f"script-src {scripts}; img-src data: blob:"


def viewer(
    order: Sequence[str], pictures: Mapping[str, CasePictures], shown: Sequence[str], notes: Sequence[str]
) -> str:
    """The dialog, the scripts, and each case's data, which stay packed until its case is opened.

    Args:
        order: names of the cases; n is the n-th one's number.
        pictures: case → its pictures.
        shown: names of the predictions in the pictures, after the reference.
        notes: a line about each case, in the same order.
    """
    settings = {
        "masks": ["reference", *shown],
        "legends": legends(shown),
        "cases": [{"name": name, "note": note} for name, note in zip(order, notes, strict=True)],
    }
    parts = [(FOLDER / "dialog.html").read_text(encoding="utf-8"), _data("viewer-settings", settings)]
    for n, name in enumerate(order):
        case = pictures[name]
        planes = base64.b64encode(encoded(case.planes, "WEBP")).decode("ascii")
        parts.append(_data(f"case-{n}", {"grey": case.data.grey, "masks": case.data.masks, "planes": planes}))
    packed = base64.b64encode(gzip.compress(_script("niivue.min.js").encode(), 9, mtime=0)).decode("ascii")
    parts.append(f'<script type="application/gzip" id="niivue">{packed}</script>')
    parts.append(f"<script>{_script('page.js')}</script>")
    return "\n".join(parts)


def _script(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _data(name: str, value: Any) -> str:
    """JSON that no text in it can end: a script of a type that no browser runs."""
    text = json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
