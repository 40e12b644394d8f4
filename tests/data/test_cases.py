from pathlib import Path

import pytest

from mlproject.data.cases import DataSettings, find_cases
from mlproject.errors import DataError, SettingsError


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"channels": ()}, "data.channels"),
        ({"channels": ("dwi", "DWI")}, "data.channels"),
        ({"channels": ("dwi", "label")}, "label is no image"),
        ({"validation_share": 0.0}, "data.validation_share=0.0"),
        ({"test_share": 1.0}, "data.test_share=1.0"),
        ({"test_share": float("nan")}, "data.test_share=nan"),
        ({"validation_share": 0.5, "test_share": 0.5}, "nothing to train on"),
        ({"split_seed": -1}, "data.split_seed=-1"),
        ({"demo_cases": 5}, "data.demo_cases=5"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        DataSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["demo", "isles2022", "nnunet", "table"])
def test_an_empty_root_is_refused(layout: str) -> None:
    with pytest.raises(DataError, match=r"give data\.root="):
        find_cases(DataSettings(layout=layout))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["isles2022", "nnunet", "table"])
def test_a_missing_root_is_named_in_full(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere does not exist"):
        find_cases(DataSettings(layout=layout, root="nowhere"))  # type: ignore[arg-type]


def test_a_file_for_a_folder_and_a_folder_for_a_file(tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.touch()
    with pytest.raises(DataError, match=r"is a folder: data\.layout=table needs a CSV file"):
        find_cases(DataSettings(layout="table", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"is a file: data\.layout=nnunet needs a folder"):
        find_cases(DataSettings(layout="nnunet", root=str(file)))
    with pytest.raises(DataError, match=str(file)):
        find_cases(DataSettings(layout="demo", root=str(file)))


def test_the_demo_is_made_once_and_its_size_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlproject.data.layouts import demo
    from mlproject.data.synthetic import write_dataset

    made = []

    def write_tiny(folder: Path, cases: int) -> None:
        made.append(cases)
        write_dataset(folder, cases, shape=(12, 14, 10))

    monkeypatch.setattr(demo, "write_dataset", write_tiny)
    for cases in (6, 6, 7):
        found = find_cases(DataSettings(layout="demo", root=str(tmp_path / "new"), demo_cases=cases))
        assert len(found) == cases
    assert made == [6, 7]
    assert found[0].name == "sub-synthetic0001"


def test_the_real_case(lesion_data: Path) -> None:
    settings = DataSettings(root=str(lesion_data / "isles22"), channels=("dwi", "adc", "flair"))
    (case,) = find_cases(settings)
    assert case.name == case.patient == "sub-strokecase0009"
    assert list(case.images) == ["dwi", "adc", "flair"]
    assert all(file.is_file() for file in [*case.images.values(), case.label] if file)
    assert case.label is not None
