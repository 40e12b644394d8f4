"""How the stage `evaluate` measures: what is read, what is run, and how often."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from mlproject.data.cases import DataSettings
from mlproject.evaluation.comparison import dice_differences
from mlproject.evaluation.metrics import summarise_groups
from mlproject.prediction.postprocessing import Postprocessing
from mlproject.prediction.segmenter import digests_of
from mlproject.stages import evaluate
from mlproject.stages.annotation import result_in_words
from mlproject.stages.settings import EvaluateSettings


class CountingNetwork:
    """Stands in for a Segmenter: says where the lesion is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def probability(self, case):  # type: ignore[no-untyped-def]
        self.asked.append(case.name)
        return 0.6 * case.label.astype(np.float32)


def test_the_network_runs_once_a_case_whatever_the_number_of_variants() -> None:
    network, cases = CountingNetwork(), tiny.cases([1, 2])
    variants = {"network": Postprocessing(), "strict": Postprocessing(threshold=0.7), "low": Postprocessing(0.2)}
    gathered = evaluate._measure(network, cases, variants, "low")  # type: ignore[arg-type]
    assert network.asked == ["case-1", "case-2"]
    assert list(gathered.tables) == list(variants)
    assert gathered.tables["network"]["dice"].tolist() == [1.0, 1.0]
    assert gathered.tables["strict"]["dice"].tolist() == [0.0, 0.0]
    assert gathered.shown == ("low",) and set(gathered.pictures) == {"case-1", "case-2"}


def test_cases_that_the_model_has_seen_and_scans_of_one_patient_are_said(tiny_isles: Path, tmp_path: Path) -> None:
    sessions = sorted((tiny_isles / "rawdata").iterdir())[:3]
    lines = ["case,dwi,adc,label,patient"]
    for session, patient in zip(sessions, ("p1", "p2", "p1"), strict=True):
        files = {file.stem.rpartition("_")[2].removesuffix(".nii"): file for file in session.rglob("*.nii.gz")}
        label = next((tiny_isles / "derivatives" / session.name).rglob("*.nii.gz"))
        lines.append(f"{session.name},{files['dwi']},{files['adc']},{label},{patient}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    data = DataSettings("table", str(tmp_path / "cases.csv"))
    settings = EvaluateSettings(model="m", cases="all", data=data, work_dir=str(tmp_path / "work"))
    model = SimpleNamespace(description=tiny.description())

    cases, notes = evaluate._cases_to_measure(settings, model)  # type: ignore[arg-type]
    assert len(cases) == 3 and [note.partition(":")[0] for note in notes] == ["The 3 cases are of 2 patients"]
    model.description = tiny.description(seen=tuple(digests_of(cases[:1])))
    cases, notes = evaluate._cases_to_measure(settings, model)  # type: ignore[arg-type]
    assert len(cases) == 3 and notes[0] == (
        "Not an estimate for new patients: the model was trained or tuned on 1 of the 3 cases measured."
    )


def test_notes_stand_in_the_description_and_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    network, variants = CountingNetwork(), {"network": Postprocessing()}
    tables = evaluate._measure(network, tiny.cases([1, 2]), variants, "network").tables  # type: ignore[arg-type]
    summaries = summarise_groups(tables)
    evaluate.Results(tables, summaries, dice_differences(tables), "network", notes=["Not an estimate: a note"]).show()
    assert "Not an estimate: a note" in capsys.readouterr().out
    first, second, *_ = result_in_words(summaries, "network", notes=["Not an estimate: a_note"]).split("\n\n")
    assert first == "Test Dice **1.000 (1.000 to 1.000)**." and second == "Not an estimate: a\\_note"


@pytest.mark.parametrize(
    ("candidates", "members", "origin"),
    [
        ({"network": Postprocessing()}, 1, "the default"),
        ({"network": Postprocessing(), "best": Postprocessing()}, 1, "tuned on the validation cases"),
        ({"network": Postprocessing(), "best": Postprocessing()}, 5, "tuned for the model's networks one by one, out"),
    ],
)
def test_what_the_threshold_was_chosen_by_is_not_read_from_its_value(
    candidates: dict[str, Postprocessing], members: int, origin: str
) -> None:
    assert evaluate._origin(tiny.description(candidates=candidates, members=members)).startswith(origin)
