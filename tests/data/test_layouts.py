"""The folder layouts. No finder reads an image, so empty files will do."""

import json
import shutil
from pathlib import Path

import pytest

from mlproject.data.cases import Case, DataSettings, find_cases
from trees import message, touch

FLAT = ("rawdata/sub-1/ses-0001/a_dwi.nii.gz", "rawdata/sub-1/ses-0001/a_adc.nii.gz")
MASK = "derivatives/sub-1/ses-0001/a_msk.nii.gz"


# ISLES 2022


@pytest.mark.parametrize(
    "names",
    [
        ("rawdata/sub-1/ses-0001/a_dwi.nii.gz", "rawdata/sub-1/ses-0001/a_flair.nii.gz"),
        ("sub-1/ses-0001/dwi/a_dwi.nii.gz", "sub-1/ses-0001/anat/a_FLAIR.nii.gz"),
        ("sub-1/ses-0001/dwi/a_DWI.NII", "sub-1/ses-0001/anat/a_Flair.nii"),
    ],
)
def test_isles_trees_and_suffixes(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names, MASK, "participants.tsv", "sub-list.txt", "rawdata/sub-1/ses-0001/._a_dwi.nii.gz")
    found = find_cases(DataSettings(root=str(tmp_path), channels=("flair", "DWI")))
    images = {"flair": tmp_path / names[1], "DWI": tmp_path / names[0]}
    assert found == [Case("sub-1", images, tmp_path / MASK, "sub-1")]
    assert list(found[0].images) == ["flair", "DWI"]


def test_isles_masks_lie_beside_rawdata(tmp_path: Path) -> None:
    touch(tmp_path, *FLAT, MASK)
    (case,) = find_cases(DataSettings(root=str(tmp_path / "rawdata")))
    assert case.label == tmp_path / MASK


def test_isles_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    for session in ("ses-0001", "ses-0002"):
        touch(tmp_path, *(name.replace("ses-0001", session) for name in (*FLAT, MASK)))
    touch(tmp_path, *(name.replace("sub-1", "sub-2") for name in (*FLAT, MASK)))
    found = find_cases(DataSettings(root=str(tmp_path)))
    names = [("sub-1_ses-0001", "sub-1"), ("sub-1_ses-0002", "sub-1"), ("sub-2", "sub-2")]
    assert [(case.name, case.patient) for case in found] == names and all(case.patient_named for case in found)
    assert len({case.label for case in found}) == 3


def test_isles_lists_all_missing_files_at_once(tmp_path: Path) -> None:
    touch(tmp_path, FLAT[0], "derivatives/sub-3/ses-0001/a_msk.nii.gz")
    (tmp_path / "rawdata" / "sub-2").mkdir()
    text = message(tmp_path)
    for fault in (
        "sub-1: adc is missing; found a_dwi.nii.gz",
        "sub-1: label is missing; found no file",
        "sub-2: dwi is missing; found no file",
        "sub-3: dwi is missing; found no file",
        "derivatives/sub-*/ses-*/*_msk.nii[.gz]",
    ):
        assert fault in text
    assert "sub-3: label" not in text


def test_isles_refuses_two_files_for_a_channel(tmp_path: Path) -> None:
    touch(tmp_path, *FLAT, MASK, "sub-1/ses-0001/dwi/b_dwi.nii", MASK.removesuffix(".gz"))
    text = message(tmp_path)
    assert "2 files match dwi" in text
    assert str(tmp_path / FLAT[0]) in text
    assert "2 files match label" in text
    assert "label" not in message(tmp_path, labelled=False)  # which needs none


def test_isles_without_a_case_says_what_it_expects(tmp_path: Path) -> None:
    assert "no case found" in message(tmp_path)
    assert "*_{dwi,adc}.nii[.gz]" in message(tmp_path)


def test_labels_are_wanted_only_when_labelled(tmp_path: Path) -> None:
    touch(tmp_path, *FLAT)
    (case,) = find_cases(DataSettings(root=str(tmp_path)), labelled=False)
    assert case.label is None
    touch(tmp_path, MASK)
    (case,) = find_cases(DataSettings(root=str(tmp_path)), labelled=False)
    assert case.label == tmp_path / MASK


# nnU-Net


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    names = {"0": "FLAIR", "1": "ADC", "2": "DWI"}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": names, "file_ending": ".mha"}))
    images = [f"imagesTr/{name}_{number:04d}.mha" for name in ("b_1", "a") for number in range(3)]
    return touch(tmp_path, *images, "labelsTr/a.mha", "labelsTr/b_1.mha")


def test_nnunet_channels_follow_their_names(nnunet: Path) -> None:
    found = find_cases(DataSettings(layout="nnunet", root=str(nnunet)))
    assert [case.name for case in found] == ["a", "b_1"]
    images = {"dwi": nnunet / "imagesTr/b_1_0002.mha", "adc": nnunet / "imagesTr/b_1_0001.mha"}
    assert found[1] == Case("b_1", images, nnunet / "labelsTr/b_1.mha", "b_1", patient_named=False)
    assert list(found[1].images) == ["dwi", "adc"]


def test_nnunet_lists_all_missing_files_at_once(nnunet: Path) -> None:
    (nnunet / "imagesTr/a_0002.mha").unlink()
    (nnunet / "labelsTr/b_1.mha").unlink()
    touch(nnunet, "labelsTr/c.mha")
    text = message(nnunet, layout="nnunet")
    for fault in ("a: dwi is missing", "b_1: label is missing", "c: dwi is missing", "c: adc is missing"):
        assert fault in text
    assert "b_1: label" not in message(nnunet, labelled=False, layout="nnunet")


def test_nnunet_refuses_an_unknown_channel(nnunet: Path) -> None:
    text = message(nnunet, layout="nnunet", channels=("dwi", "t1"))
    assert "t1" in text
    assert "FLAIR" in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("{", "is no JSON"),
        ("[]", "give channel_names"),
        ('{"channel_names": {"0": "dwi"}}', "file_ending"),
        ('{"channel_names": {"zero": "dwi", "1": "adc"}, "file_ending": ".mha"}', "channel dwi"),
    ],
)
def test_nnunet_refuses_a_bad_description(nnunet: Path, content: str | None, said: str) -> None:
    (nnunet / "dataset.json").unlink()
    if content is not None:
        (nnunet / "dataset.json").write_text(content)
    assert said in message(nnunet, layout="nnunet")


def test_nnunet_without_a_case_says_what_it_expects(nnunet: Path) -> None:
    shutil.rmtree(nnunet / "imagesTr")
    assert "imagesTr/NAME_0000.mha" in message(nnunet, layout="nnunet")


# table

HEADER = "case,dwi,adc,label"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"{name}_{what}.nrrd" for name in "ab" for what in ("dwi", "adc", "label")))
    return tmp_path / "cases.csv"


def row(name: str, *more: str) -> str:
    return ",".join([name, *(f"{name}_{what}.nrrd" for what in ("dwi", "adc", "label")), *more])


def test_table_reads_paths_split_and_patient(table: Path) -> None:
    absolute = table.parent / "b_dwi.nrrd"
    second = row("b", "test", "p2").replace("b_dwi.nrrd", str(absolute))
    lines = ["\ufeffCase, DWI,adc,label,split,patient", second, "", row("a", "train", "p1"), ",,,,,"]
    table.write_text("\n".join(lines), encoding="utf-8")
    found = find_cases(DataSettings(layout="table", root=str(table)))
    assert [(case.name, case.patient, case.split) for case in found] == [
        ("a", "p1", "train"),
        ("b", "p2", "test"),
    ]
    assert all(case.patient_named for case in found)
    assert found[1].images == {"dwi": absolute, "adc": table.parent / "b_adc.nrrd"}
    assert found[1].label == table.parent / "b_label.nrrd"


def test_table_without_optional_columns(table: Path) -> None:
    table.write_text("case,adc,dwi\na,a_adc.nrrd,a_dwi.nrrd\n")
    (case,) = find_cases(DataSettings(layout="table", root=str(table)), labelled=False)
    assert (case.label, case.patient, case.patient_named, case.split) == (None, "a", False, None)
    assert list(case.images) == ["dwi", "adc"]
    assert "label are missing" in message(table, layout="table")


def test_table_labels_are_wanted_only_when_labelled(table: Path) -> None:
    third = row("c").replace("c_dwi", "a_label").replace("c_adc", "b_label")
    table.write_text("\n".join([HEADER, row("a").replace("a_label", "elsewhere"), row("b"), third]))
    cases = find_cases(DataSettings(layout="table", root=str(table)), labelled=False)
    assert [case.label for case in cases] == [None, table.parent / "b_label.nrrd", None]


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("case,dwi", ["a,a_dwi.nrrd"], "columns adc, label are missing; found case, dwi"),
        ("case;dwi;adc;label", ["a;b;c;d"], "separated by commas"),
        (HEADER + ",dwi", [row("a", "x")], "same name"),
        (HEADER, [], "no row below the header"),
        (HEADER, [row("a") + ",x"], "line 2: 5 cells"),
        (HEADER, ['"a'], "no CSV file"),
        (HEADER, [row("a"), row("a")], "line 3, case 'a': a stands already in line 2"),
        (HEADER, [row("a"), row("b").replace("b_dwi", "a_dwi")], "a_dwi.nrrd stands already in line 2"),
        (HEADER, ["x/y,a_dwi.nrrd,a_adc.nrrd,a_label.nrrd"], "without slashes"),
        (HEADER, [row("a").replace("a_adc.nrrd", "")], "line 2, case 'a': adc is empty"),
        (HEADER, [row("a").replace("a_label.nrrd", "")], "line 2, case 'a': label is empty"),
        (HEADER, [row("a").replace("a_label", "no")], "no.nrrd does not exist"),
        (HEADER + ",split", [row("a", "Validate")], "'Validate', not one of train, validation, test"),
        (HEADER + ",patient", [row("a", "")], "patient is empty"),
    ],
)
def test_table_refuses_what_it_cannot_use(table: Path, header: str, rows: list[str], said: str) -> None:
    table.write_text("\n".join([header, *rows, ""]))
    text = message(table, layout="table")
    assert said in text
    assert str(table) in text


def test_table_lists_the_faults_of_all_rows_at_once(table: Path) -> None:
    table.write_text("\n".join([HEADER, row("c"), row("a"), row("d")]))
    text = message(table, layout="table")
    assert "6 faults" in text
    assert "line 2, case 'c': dwi" in text
    assert "line 4, case 'd': label" in text


def test_table_that_names_a_dicom_series_is_refused_with_the_converter(table: Path) -> None:
    touch(table.parent, "a_dwi/IM1.dcm", "a_adc/README")
    table.write_text("\n".join([HEADER, row("a").replace("a_dwi.nrrd", "a_dwi").replace("a_adc.nrrd", "a_adc")]))
    text = message(table, layout="table")
    assert f"dwi: {table.parent / 'a_dwi'} is DICOM: convert it to NIfTI first" in text
    assert f"adc: {table.parent / 'a_adc'} is a folder; give one image file" in text


def test_table_that_is_no_text_is_refused(table: Path) -> None:
    table.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    assert "no CSV file in UTF-8" in message(table, layout="table")
