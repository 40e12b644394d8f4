"""Which file becomes the label in trees whose names say little: the same thing in every case, or none."""

from pathlib import Path

import pytest

from mlproject.data.cases import DataSettings, channels_in, find_cases, fitting_layouts
from mlproject.data.dataset import open_dataset
from mlproject.data.preprocessing import PreprocessingSettings
from mlproject.data.survey import find
from mlproject.errors import DataError
from trees import message, touch

# BIDS


def subject(root: Path, number: int, *masks: str, session: str = "") -> Path:
    stem = f"anat/sub-0{number}_"
    touch(root, f"sub-0{number}/{stem}T1w.nii.gz")
    return touch(root, *(f"derivatives/d/sub-0{number}/{stem}{mask}.nii.gz" for mask in masks))


def labels(root: Path, layout: str, **settings: object) -> dict[str, str]:
    """The label of each case, by name."""
    found = find_cases(DataSettings(layout=layout, root=str(root), **settings), labelled=False)  # type: ignore[arg-type]
    return {case.name: case.label.name for case in found if case.label}


def test_bids_a_mask_of_anything_else_is_no_label_where_lesion_masks_exist(tmp_path: Path) -> None:
    for number in (1, 2):
        subject(tmp_path, number, "label-lesion_mask", "desc-vessel_mask", "desc-brain_mask")
    subject(tmp_path, 3, "desc-vessel_mask", "desc-brain_mask")
    text = message(tmp_path, layout="bids", channels=("T1w",))
    assert "sub-03: label is missing; found sub-03_desc-brain_mask.nii.gz, sub-03_desc-vessel_mask.nii.gz; if" in text
    assert text.endswith("if one of these is the label, name it with data.label_name")
    assert list(labels(tmp_path, "bids", channels=("T1w",))) == ["sub-01", "sub-02"]


def test_bids_masks_without_a_lesion_word_are_labels_where_all_are_called_so(tmp_path: Path) -> None:
    for number, mask in enumerate(("desc-core_mask", "run-1_space-MNI_desc-Core_mask", "desc-rim_mask"), start=1):
        subject(tmp_path, number, mask)
    assert "sub-03: label is missing; found sub-03_desc-rim_mask" in message(tmp_path, layout="bids", channels=("T1w",))
    assert list(labels(tmp_path, "bids", channels=("T1w",))) == ["sub-01", "sub-02"]
    assert list(labels(tmp_path, "bids", channels=("T1w",), label_name="desc-rim_mask")) == ["sub-03"]


@pytest.mark.parametrize("name", ["dseg", "desc-aseg_dseg", "desc-ribbon_mask", "desc-brain_mask", "label-GM_mask"])
def test_bids_what_pipelines_segment_is_no_label(tmp_path: Path, name: str) -> None:
    subject(tmp_path, 1, name)
    assert "sub-01: label is missing" in message(tmp_path, layout="bids", channels=("T1w",))
    assert labels(tmp_path, "bids", channels=("T1w",), label_name=name)


def test_bids_a_lesion_segmentation_of_several_classes_is_a_label(tmp_path: Path) -> None:
    subject(tmp_path, 1, "desc-lesion_dseg", "dseg")
    assert labels(tmp_path, "bids", channels=("T1w",)) == {"sub-01": "sub-01_desc-lesion_dseg.nii.gz"}


def test_bids_a_lesion_is_a_label_whatever_its_suffix_and_never_a_channel(tmp_path: Path) -> None:
    subject(tmp_path, 1, "lesion", "outline", "desc-lesion_probseg")
    assert channels_in("bids", tmp_path) == {"T1w": 1, "outline": 1}
    assert channels_in("bids", tmp_path, "outline") == {"T1w": 1}
    for label_name, file in ((None, "lesion"), ("lesion", "lesion"), ("outline", "outline")):
        expected = {"sub-01": f"sub-01_{file}.nii.gz"}
        assert labels(tmp_path, "bids", channels=("T1w",), label_name=label_name) == expected
    text = message(tmp_path, layout="bids", channels=("T1w",), label_name="tumour")
    assert (
        "sub-01: label is missing; found sub-01_desc-lesion_probseg.nii.gz, sub-01_lesion.nii.gz, sub-01_outline"
        in text
    )
    assert "none is called tumour, as data.label_name says" in text


def test_the_layout_that_fits_best_is_judged_with_the_named_label(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-1/ses-1/anat/sub-1_ses-1_{name}.nii.gz" for name in ("T1w", "outline")))
    assert fitting_layouts(tmp_path) == ["isles2022", "bids"]
    assert fitting_layouts(tmp_path, "outline") == ["bids", "isles2022"]


# folders


def test_folders_a_mask_of_anything_else_is_no_label_where_lesion_masks_exist(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{n}/flair.nii" for n in (1, 2, 3)), "c1/lesion_mask.nii", "c2/Lesion.nii", "c3/wm_mask.nii")
    assert "c3: label is missing; found wm_mask.nii" in message(tmp_path, layout="folders", channels=("flair",))
    assert labels(tmp_path, "folders", channels=("flair",)) == {"c1": "lesion_mask.nii", "c2": "Lesion.nii"}


def test_folders_a_lone_mask_of_another_name_is_no_label(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{n}/c{n}_flair.nii" for n in (1, 2, 3)))
    touch(tmp_path, "c1/c1_mask.nii", "c2/anon77_T1_Mask.nii", "c3/c3_wm_mask.nii")
    assert labels(tmp_path, "folders", channels=("flair",)) == {"c1": "c1_mask.nii", "c2": "anon77_T1_Mask.nii"}
    assert "c3" in labels(tmp_path, "folders", channels=("flair",), label_name="mask")  # the user knows


def test_folders_a_named_label_is_no_channel_and_faults_name_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "a/mystery.nii", "a/outline.nii", "a/infarct_map.nii", "b/mystery.nii", "b/outline.nii")
    assert fitting_layouts(tmp_path) == []
    assert fitting_layouts(tmp_path, "outline") == ["folders"]
    assert channels_in("folders", tmp_path, "outline") == {"mystery": 2}
    found = find(DataSettings(root=str(tmp_path), label_name="outline"), layout_given=False, channels_given=False)
    assert found.data.channels == ("mystery",)
    assert [case.label.name for case in found.cases if case.label] == ["outline.nii"] * 2
    (tmp_path / "b/outline.nii").rename(tmp_path / "b/contour.nii")
    assert (
        "b: label is missing; found contour.nii, mystery.nii; none is called outline, as data.label_name says"
    ) in message(tmp_path, layout="folders", channels=("mystery",), label_name="outline")


# What is said of them


def test_training_says_where_labels_are_called_differently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"c{n}/dwi.nii" for n in (1, 2, 3)), *(f"c{n}/lesion.nii" for n in (1, 2)), "c3/dwi_lesion.nii")
    with pytest.raises(DataError):  # the files are empty
        open_dataset(
            DataSettings("folders", str(tmp_path), ("dwi",)), PreprocessingSettings(), tmp_path.with_name("cache")
        )
    assert "the labels have different names: lesion (2), dwi_lesion (1). Do they show the same?" in caplog.text
