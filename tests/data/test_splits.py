import logging
from pathlib import Path

import pytest

from mlproject.data.cases import Case, DataSettings, SplitName
from mlproject.data.splits import PARTS, Split, make_split, split_in_words
from mlproject.errors import DataError, SettingsError


def case(name: str, patient: str | None = None, split: SplitName | None = None) -> Case:
    return Case(name, {}, None, patient or name, split)


def cohort(volumes: list[float]) -> tuple[list[Case], dict[str, float]]:
    cases = [case(f"c{number:02d}") for number in range(len(volumes))]
    return cases, {case.name: volume for case, volume in zip(cases, volumes, strict=True)}


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.train), len(split.validation), len(split.test)


VOLUMES = [0.0, 0.0, 0.0, *(1.3**n for n in range(37))]


@pytest.mark.parametrize("seed", range(5))
def test_every_part_gets_small_large_and_no_lesions(seed: int) -> None:
    cases, lesion_ml = cohort(VOLUMES)
    split = make_split(cases, lesion_ml, DataSettings(split_seed=seed))
    assert sizes(split) == (25, 7, 8)
    assert sorted(split.train + split.validation + split.test) == [case.name for case in cases]
    for part in PARTS:
        volumes = sorted(lesion_ml[name] for name in getattr(split, part))
        assert volumes[0] == 0
        assert volumes[1] < 1.3**10
        assert volumes[-1] > 1.3**27


def test_a_split_follows_from_its_seed_not_from_the_order_of_cases() -> None:
    cases, lesion_ml = cohort(VOLUMES)
    splits = [make_split(order, lesion_ml, DataSettings()) for order in (cases, cases[::-1])]
    assert splits[0] == splits[1]
    assert splits[0] != make_split(cases, lesion_ml, DataSettings(split_seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_all_cases_of_a_patient_go_to_one_part(seed: int) -> None:
    cases = [case(f"c{n:02d}", patient=f"p{n // 3}") for n in range(30)]
    split = make_split(cases, {c.name: float(c.name[1:]) for c in cases}, DataSettings(split_seed=seed))
    patients = [{name_to_patient(name) for name in getattr(split, part)} for part in PARTS]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10
    assert sizes(split) == (18, 6, 6)


@pytest.mark.parametrize(("count", "folds"), [(40, 5), (43, 5), (7, 3), (11, 2)])
def test_folds_hold_out_every_patient_once_and_are_alike(count: int, folds: int) -> None:
    cases, lesion_ml = cohort([0.0, 0.0, *(1.3**n for n in range(count - 2))])
    splits = [make_split(cases, lesion_ml, DataSettings(folds=folds, fold=fold)) for fold in range(folds)]
    held_out = [split.test for split in splits]
    assert sorted(name for names in held_out for name in names) == [case.name for case in cases]
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    for split in splits:
        assert sorted(split.train + split.validation + split.test) == [case.name for case in cases]
        assert max(lesion_ml[name] for name in split.test) >= 1.3 ** (count - 1 - 2 * folds)  # a large lesion in each
    assert splits[0] != make_split(cases, lesion_ml, DataSettings(folds=folds, split_seed=1))


def test_folds_go_by_patient_and_before_a_split_of_the_data_sets_own() -> None:
    cases = [case(f"c{n:02d}", patient=f"p{n // 3}", split="train") for n in range(30)]
    lesion_ml = {c.name: float(c.name[1:]) + 1 for c in cases}
    splits = [make_split(cases, lesion_ml, DataSettings(folds=5, fold=fold)) for fold in range(5)]
    patients = [{name_to_patient(name) for name in split.test} for split in splits]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 10


def test_more_folds_than_patients_with_a_lesion_are_refused() -> None:
    cases, lesion_ml = cohort([0.0, 0.0, 0.0, 1.0, 2.0])
    with pytest.raises(DataError, match=r"data\.folds=3, but 2 patients have a lesion"):
        make_split(cases, lesion_ml, DataSettings(folds=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 1}, "data.folds=1: give 2 or more"),
        ({"folds": 3, "fold": 3}, r"data.fold=3: give 0 to data.folds - 1 = 2"),
        ({"fold": 1}, "data.fold=1: give 0 to"),
        ({"folds": 3, "split_file": "a.csv"}, "set one of the two"),
    ],
)
def test_wrong_folds_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DataSettings(**given)  # type: ignore[arg-type]


def name_to_patient(name: str) -> int:
    return int(name[1:]) // 3


@pytest.mark.parametrize(
    ("volumes", "shares", "expected"),
    [
        ([1, 2, 3], (0.15, 0.2), (1, 1, 1)),
        ([1, 2, 3, 4], (0.45, 0.45), (1, 1, 2)),
        ([1, 2, 0], (0.15, 0.2), None),  # nobody is left to test on
        ([1, 2, 0, 0, 0], (0.15, 0.2), None),  # no lesion to test on
        ([1, 2, 3, float("nan"), float("nan"), float("nan")], (0.15, 0.2), (2, 2, 2)),  # no label: no lesion
        ([1, 0, 0, 0, 0], (0.15, 0.2), None),  # no lesion to validate on
        ([0, 0, 0, 0, 0], (0.15, 0.2), None),
        ([float("nan")] * 5, (0.15, 0.2), None),
    ],
)
def test_few_cases(volumes: list[float], shares: tuple[float, float], expected: tuple[int, int, int] | None) -> None:
    cases, lesion_ml = cohort(volumes)
    settings = DataSettings(validation_share=shares[0], test_share=shares[1])
    if expected is None:
        with pytest.raises(DataError, match=r"data\.validation_share"):
            make_split(cases, lesion_ml, settings)
    else:
        assert sizes(make_split(cases, lesion_ml, settings)) == expected


def test_a_test_part_without_a_lesion_is_refused() -> None:
    cases, lesion_ml = cohort([1, 2, 0, 0, 0])
    with pytest.raises(DataError, match="the test part of the split holds no lesion"):
        make_split(cases, lesion_ml, DataSettings())


def test_the_cases_own_split_is_taken_over() -> None:
    cases = [case("a", split="test"), case("b", split="train"), case("c", split="validation")]
    split = make_split(cases, dict.fromkeys("abc", 1.0), DataSettings())
    assert split == Split(train=("b",), validation=("c",), test=("a",))
    assert split.to_rows() == [("b", "train"), ("c", "validation"), ("a", "test")]


def test_a_split_of_only_some_cases_is_refused() -> None:
    cases = [case("a", split="test"), case("b", split="train"), case("c", split="validation"), case("d")]
    with pytest.raises(DataError, match="no split for d"):
        make_split(cases, dict.fromkeys("abcd", 1.0), DataSettings())


def test_a_divided_patient_is_refused() -> None:
    cases = [
        case("a", "p", "train"),
        case("b", "p", "test"),
        case("c", "q", "validation"),
        case("d", "q", "train"),
    ]
    with pytest.raises(DataError, match=r"patient p: a in train, b in test\n.*patient q"):
        make_split(cases, dict.fromkeys("abcd", 1.0), DataSettings())


@pytest.mark.parametrize(
    ("parts", "volumes", "said"),
    [
        (("train", "train", "test"), (1, 1, 1), "the validation part of the split is empty"),
        (("train", "validation", "train"), (1, 1, 1), "the test part of the split is empty"),
        (("train", "validation", "test"), (0, 1, 1), r"the train part of the split holds no lesion \(a\)"),
        (
            ("train", "validation", "test"),
            (1, 0, 1),
            r"the validation part of the split holds no lesion \(b\)",
        ),
    ],
)
def test_given_parts_without_cases_or_lesions_are_refused(
    parts: tuple[SplitName, ...], volumes: tuple[float, ...], said: str
) -> None:
    cases = [case(name, split=part) for name, part in zip("abc", parts, strict=True)]
    with pytest.raises(DataError, match=said):
        make_split(cases, dict(zip("abc", volumes, strict=True)), DataSettings())


def from_file(path: Path, rows: list[str]) -> Split:
    path.write_text("\n".join(["case,split", *rows]))
    cases = [case("a", split="test"), case("b"), case("c")]  # the file overrides the cases' own
    return make_split(cases, dict.fromkeys("abc", 1.0), DataSettings(split_file=str(path)))


def test_a_split_file_is_followed_and_can_be_written_back(tmp_path: Path) -> None:
    split = from_file(tmp_path / "split.csv", ["c,test", "a,train", "b,validation"])
    assert split == Split(("a",), ("b",), ("c",))
    assert from_file(tmp_path / "again.csv", [",".join(row) for row in split.to_rows()]) == split


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a,train", "b,validation"], "case c of the data set is not in the file"),
        (["a,train", "b,validation", "c,test", "d,test"], "line 5: the data set has no case 'd'"),
        (["a,train", "b,val", "c,test"], "line 3: split is 'val', not one of train, validation, test"),
        (["a,train", "b,validation", "c,test", "a,train"], "line 5: a is in train already"),
        ([], "no row below the header"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        from_file(tmp_path / "split.csv", rows)
    assert str(tmp_path / "split.csv") in str(caught.value)


def test_a_missing_split_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}/no.csv does not exist"):
        make_split([case("a")], {"a": 1.0}, DataSettings(split_file="no.csv"))


def test_only_a_split_file_may_put_a_case_into_several_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "split.csv"
    file.write_text("case,split\na,train\na,validation\na,test\n")
    with caplog.at_level(logging.WARNING):
        split = make_split([case("a")], {"a": 1.0}, DataSettings(split_file=str(file)))
    assert split == Split(("a",), ("a",), ("a",))
    assert "puts a into several parts" in caplog.text
    assert "no estimate" in caplog.text


@pytest.mark.parametrize(
    ("settings", "own", "words"),
    [
        (DataSettings(split_seed=3), None, "data.validation_share=0.15, data.test_share=0.2, data.split_seed=3"),
        (DataSettings(), "test", "by the data set itself"),
        (DataSettings(split_file="/home/x/y.csv"), "test", "by a data.split_file"),
        (DataSettings(folds=5, fold=2), "test", "data.folds=5, data.fold=2, data.validation_share=0.15, data.split_"),
    ],
)
def test_what_decided_on_the_split_is_said_without_a_path(
    settings: DataSettings, own: SplitName | None, words: str
) -> None:
    assert split_in_words(settings, [case("a", split=own)], Split(("a",), (), ())).startswith(words)
