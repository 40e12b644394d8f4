"""The snippets of docs/data.md that write a table: the trees they are for, and what `describe` then finds."""

import re
from pathlib import Path

import pytest

from mlproject.data.case import DataSettings
from mlproject.data.survey import find
from trees import touch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
VISITS = [f"{visit}/{name}" for visit in ("P01/2019-04", "P01/2020-04", "P02/2019-05") for name in ("FLAIR", "lesions")]
CHANNELS = [f"{folder}/{case}" for case in ("P01", "P02", "P03") for folder in ("FLAIR", "lesions")]


@pytest.mark.parametrize(
    ("snippet", "files", "patients"),
    [
        (0, [*VISITS, "P01/2019-04/T1", "P01/2020-04/T1"], ["P01", "P01", "P02"]),
        (1, [*CHANNELS, "T1/P01", "T1/P02"], ["P01", "P02", "P03"]),
    ],
)
def test_a_table_of_a_tree_that_no_layout_reads(
    snippet: int, files: list[str], patients: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "my_data", *(f"{file}.nii.gz" for file in files))
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) == 2
    exec(compile(SNIPPETS[snippet], "docs/data.md", "exec"), {})

    found = find(DataSettings(root="my_data/cases.csv"), layout_given=False, channels_given=False)
    assert (found.data.layout, found.faults) == ("table", ())
    assert found.channels == {"flair": 3, "t1": 2}  # the case without a T1 has an empty cell
    assert sorted(case.patient for case in found.cases) == patients
    assert all(case.label is not None for case in found.cases)
