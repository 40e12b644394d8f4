"""What `main`, `search` and `crossvalidate` say of the cases that they test on."""

from types import SimpleNamespace

import pytest

from mlproject.data.splits import Split
from mlproject.stages.registration import notes_on


@pytest.mark.parametrize(
    ("patients", "split", "beginnings"),
    [
        ("pqr", Split(("a",), ("b",), ("c",)), []),
        ("pqr", Split(("a",), ("b",), ("b", "c")), ["Not an estimate: 1 test cases were"]),
        ("pqq", Split(("a",), ("a",), ("b", "c")), ["The 2 cases are of 1 patient: "]),
        (
            "pqq",
            Split(("a",), ("b",), ("b", "c")),
            ["Not an estimate: 1 test cases were", "The 2 cases are of 1 patient"],
        ),
        ("ppq", Split(("a", "b"), ("b",), ("c",)), []),  # of one patient, but not tested on
    ],
)
def test_seen_cases_and_scans_of_one_patient_among_the_test_cases_are_said(
    patients: str, split: Split, beginnings: list[str]
) -> None:
    cases = {name: SimpleNamespace(patient=patient) for name, patient in zip("abc", patients, strict=True)}
    notes = notes_on(SimpleNamespace(cases=cases, split=split))  # type: ignore[arg-type]
    assert len(notes) == len(beginnings) and all(map(str.startswith, notes, beginnings))
