"""What holds for every layout: which one fits, what is said of a wrong one, missing channels, DICOM."""

import json
from pathlib import Path
from typing import get_args

import pytest

from mlproject.data.case import FaultsError, LayoutName
from mlproject.data.cases import DataSettings, channels_in, find_cases, fitting_layouts
from mlproject.data.dataset import open_dataset
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.data.survey import find
from mlproject.errors import DataError
from trees import message, touch

ISLES_2022 = [f"rawdata/sub-1/ses-0001/sub-1_ses-0001_{c}.nii.gz" for c in ("dwi", "adc")]
ISLES_2022 += ["derivatives/sub-1/ses-0001/sub-1_ses-0001_msk.nii.gz"]
BIDS = ["sub-1/anat/sub-1_T1w.nii.gz", "derivatives/manual/sub-1/anat/sub-1_label-lesion_mask.nii.gz"]
FOLDERS = ["a/flair.nii.gz", "a/mask.nii.gz", "b/flair.nii.gz", "b/mask.nii.gz"]


@pytest.mark.parametrize(
    ("names", "best", "channels"),
    [
        (ISLES_2022, "isles2022", {"adc": 1, "dwi": 1}),
        (BIDS, "bids", {"T1w": 1}),
        (FOLDERS, "folders", {"flair": 2}),
        (
            [f"t/{stem}/{stem}.nii" for stem in ("VSD.Brain.XX.O.MR_ADC.1", "VSD.Brain.XX.O.OT.2")],
            "isles2017",
            {"ADC": 1},
        ),
        (["sub-1_flair.nii", "sub-1_mask.nii"], "folders", {"flair": 1}),
    ],
)
def test_the_layout_that_fits_best(
    tmp_path: Path, names: list[str], best: LayoutName, channels: dict[str, int]
) -> None:
    root = touch(tmp_path / "data", *names)
    assert fitting_layouts(root)[0] == best
    assert channels_in(best, root) == channels


def test_a_labelled_layout_goes_before_one_that_sees_images_alone(tmp_path: Path) -> None:
    touch(tmp_path, *(name.replace("sub-1/", "sub-1/ses-1/") for name in BIDS))
    assert channels_in("isles2022", tmp_path) == channels_in("bids", tmp_path) == {"T1w": 1}
    assert fitting_layouts(tmp_path) == ["bids", "isles2022"]


def test_a_table_fits_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd")
    (tmp_path / "cases.csv").write_text("case,DWI,adc,label,patient\nx,a.nrrd,,a.nrrd,1\ny,a.nrrd,a.nrrd,,2\n")
    assert channels_in("table", tmp_path / "cases.csv") == {"dwi": 2, "adc": 1}
    assert fitting_layouts(tmp_path / "cases.csv") == ["table"]


def test_columns_of_a_table_that_name_no_file_are_no_channels(tmp_path: Path) -> None:
    touch(tmp_path, "a", "b.mgz", "l.nii")
    table = tmp_path / "cases.csv"
    table.write_text(
        f"case,flair,label,age,sex,note,t1,user\nx,a,l.nii,63,f,{'long ' * 60},no.nii,~nobody\ny,b.mgz,,,,,,\n"
    )
    assert channels_in("table", table) == {"flair": 2, "t1": 1}  # t1 is not there: a fault that is told
    found = find(DataSettings(root=str(table)), layout_given=False, channels_given=False)
    assert found.data.channels == ("flair",)


@pytest.mark.parametrize("layout", get_args(LayoutName))
def test_what_fits_nothing_is_empty_and_raises_nothing(tmp_path: Path, layout: LayoutName) -> None:
    for name, content in (("dataset.json", "{"), ("other.csv", "\xff;"), ("sub-1", "")):
        (tmp_path / name).write_text(content)
    for root in (tmp_path, tmp_path / "other.csv", tmp_path / "nowhere"):
        assert channels_in(layout, root) == {}
        assert fitting_layouts(root) == []


def test_no_case_found_names_the_layout_that_fits(tmp_path: Path) -> None:
    touch(tmp_path, *FOLDERS)
    for layout in ("isles2017", "isles2022", "bids", "atlas", "msd", "nnunet", "table"):
        assert message(tmp_path, layout=layout).endswith("This folder looks like data.layout=folders")
    assert "looks like" not in message(tmp_path, layout="folders", channels=("t1",))
    (tmp_path / "cases.csv").write_text("case,dwi\na,a.nii\n")
    assert message(tmp_path / "cases.csv", layout="bids").endswith("This file looks like data.layout=table")


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    listed = [{"image": f"{part}/imagesTr/x.nii", "label": f"{part}/labels/x.nii"} for part in "ab"]
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "dwi"}, "training": listed}))
    touch(tmp_path, *(file for case in listed for file in case.values()))
    assert "several cases are called imagesTr_x: rename them" in message(tmp_path, layout="msd", channels=("dwi",))


def test_the_layout_with_the_most_sound_cases_goes_first(tmp_path: Path) -> None:
    for n in (1, 2, 3):
        stem = f"sub-{n}/ses-1/anat/sub-{n}_ses-1_"
        touch(tmp_path, f"{stem}T1w.nii.gz", f"{stem}FLAIR.nii.gz")
        if n < 3:
            touch(tmp_path, f"derivatives/manual/{stem}label-lesion_mask.nii.gz")
    assert fitting_layouts(tmp_path) == ["bids", "isles2022"]
    found = find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)
    assert found.data.layout == "bids"
    assert [case.name for case in found.cases if case.label] == ["sub-1", "sub-2"]
    assert len(found.faults) == 1 and "sub-3: label is missing" in found.faults[0]


def test_a_layout_that_cannot_be_judged_does_not_stop_the_others(tmp_path: Path) -> None:
    touch(tmp_path, *FOLDERS, "imagesTr/a_0000.nii", "imagesTr/a.nii")
    broken = {"channel_names": {"0": "label"}, "file_ending": ".nii", "modality": {"0": "dwi"}, "training": [5]}
    (tmp_path / "dataset.json").write_text(json.dumps(broken))  # no channel may be called label
    assert "nnunet" in fitting_layouts(tmp_path) and fitting_layouts(tmp_path)[0] == "folders"
    assert channels_in("msd", tmp_path) == {}


# DICOM


def dicom_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + bytes(40))
    return path


@pytest.mark.parametrize("layout", ["isles2022", "bids", "folders", "msd"])
def test_dicom_is_refused_with_the_converter(tmp_path: Path, layout: str) -> None:
    file = dicom_file(tmp_path / "PATIENT" / "SERIES" / "000001")  # by content
    assert "dcm2niix -z y -o" in message(tmp_path, layout=layout)
    assert "is DICOM" in message(file, layout=layout)
    touch(tmp_path / "other", "a/IM1.IMA")  # by name
    assert "dcm2niix" in message(tmp_path / "other", layout=layout)


# Missing channels


@pytest.fixture
def with_gaps(tmp_path: Path) -> Path:
    """Three cases: complete, without ADC, without FLAIR."""
    names = [f"{case}/{what}.nii.gz" for case in "abc" for what in ("dwi", "adc", "flair", "mask")]
    return touch(tmp_path / "data", *(set(names) - {"b/adc.nii.gz", "c/flair.nii.gz"}))


CHANNELS = ("dwi", "adc", "flair")


def test_missing_channels_are_refused_or_recorded(with_gaps: Path) -> None:
    text = message(with_gaps, layout="folders", channels=CHANNELS)
    assert "b: adc is missing" in text and "c: flair is missing" in text
    settings = DataSettings(layout="folders", root=str(with_gaps), channels=CHANNELS, missing="zero")
    a, b, c = find_cases(settings)
    assert [case.missing for case in (a, b, c)] == [(), ("adc",), ("flair",)]
    assert list(b.images) == ["dwi", "flair"] and b.channels == c.channels == CHANNELS
    assert a.channels == CHANNELS


def test_the_first_channel_is_never_missing(with_gaps: Path) -> None:
    settings = DataSettings(layout="folders", root=str(with_gaps), channels=("adc", "dwi", "flair"), missing="zero")
    with pytest.raises(FaultsError, match="b: adc is missing") as caught:
        find_cases(settings)
    assert [case.name for case in caught.value.sound] == ["a", "c"]
    assert [case.missing for case in caught.value.sound] == [(), ("flair",)]
    assert len(caught.value.faults) == 1


def test_a_channel_that_no_case_has_stops_training_and_description(with_gaps: Path, tmp_path: Path) -> None:
    settings = DataSettings(layout="folders", root=str(with_gaps), channels=("dwi", "t1"), missing="zero")
    with pytest.raises(DataError, match="no case has the channel t1: leave it out"):
        open_dataset(settings, PreprocessingSettings(), tmp_path / "cache")
    with pytest.raises(DataError, match="no case has the channel t1: leave it out"):
        find(settings, layout_given=True, channels_given=True)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_model_may_be_used_where_no_case_has_a_channel(
    with_gaps: Path, labelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = DataSettings(layout="folders", root=str(with_gaps), channels=("dwi", "t1"), missing="zero")
    assert [case.missing for case in find_cases(settings, labelled)] == [("t1",)] * 3
    assert "no case has the channel t1" in caplog.text


def test_an_empty_cell_of_a_table_is_a_missing_channel(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b.nii", "c.nii", "l1.nii", "l2.nii")
    (tmp_path / "cases.csv").write_text("case,dwi,adc,label\nx,a.nii,,l1.nii\ny,b.nii,c.nii,l2.nii\n")
    x, y = find_cases(DataSettings(layout="table", root=str(tmp_path / "cases.csv"), missing="zero"))
    assert (x.missing, y.missing) == (("adc",), ())
    text = message(tmp_path / "cases.csv", layout="table", channels=("adc", "dwi"), missing="zero")
    assert "case 'x': adc is empty" in text


def test_nnunet_cases_may_lack_a_channel(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "dwi", "1": "adc"}, "file_ending": ".nii"}')
    touch(
        tmp_path,
        "imagesTr/a_0000.nii",
        "imagesTr/b_0000.nii",
        "imagesTr/b_0001.nii",
        "labelsTr/a.nii",
        "labelsTr/b.nii",
    )
    a, _ = find_cases(DataSettings(layout="nnunet", root=str(tmp_path), missing="zero"))
    assert a.missing == ("adc",)


def test_sound_cases_are_told_of_in_every_layout(tmp_path: Path) -> None:
    touch(tmp_path / "bids", *BIDS, "sub-2/anat/sub-2_T1w.nii.gz")
    with pytest.raises(FaultsError) as caught:
        find_cases(DataSettings(layout="bids", root=str(tmp_path / "bids"), channels=("T1w",), lesion_labels=(2,)))
    assert [(case.name, case.lesion_labels) for case in caught.value.sound] == [("sub-1", (2,))]
