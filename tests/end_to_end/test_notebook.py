"""The example notebook: it runs from top to bottom with the layers below tracking, and reads well as committed."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
RESULT = """
import json
layers = sorted({name.split(".")[1] for name in sys.modules if name.startswith("mlproject.")})
print(json.dumps({"layers": layers, "dice": table["dice"].tolist()}))
"""


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_it_runs_below_tracking_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel are development tools: make test")
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are development tools: make test")
    pytest.importorskip("ipykernel", reason="nbclient and ipykernel are development tools: make test")
    notebook = nbformat.read(NOTEBOOK, 4)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own puts figures into the notebook
    notebook.cells.append(nbformat.v4.new_code_cell(RESULT))

    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    result = json.loads(notebook.cells[-1].outputs[0].text)
    assert not {"tracking", "stages", "tuning"} & set(result["layers"])  # mlflow itself: MONAI imports it where it is
    assert len(result["dice"]) == 4 and min(result["dice"]) > 0.2 and max(result["dice"]) > 0.6
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]


def test_what_is_committed_shows_results_and_is_small() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    kinds = {kind for output in outputs(notebook) for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    assert not [
        output for output in outputs(notebook) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert "/tmp" not in NOTEBOOK.read_text() and NOTEBOOK.stat().st_size < 200_000
