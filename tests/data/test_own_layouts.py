"""BIDS in general, and folders of files without any standard."""

from pathlib import Path

import pytest

from mlproject.data.cases import DataSettings, channels_in, find_cases
from mlproject.data.layouts.folders import LABEL, read_name
from trees import message, touch

# BIDS

SUB = "sub-01/anat/sub-01_"
MASK = "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz"


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        ((f"{SUB}T1w.nii.gz", f"{SUB}FLAIR.nii.gz", MASK), ("T1w", "flair")),
        (("rawdata/" + f"{SUB}T1w.nii.gz", f"rawdata/{SUB}FLAIR.nii", MASK), ("T1w", "FLAIR")),
        (("sub-01/dwi/sub-01_dwi.nii.gz", f"{SUB}T1w.nii.gz", MASK), ("dwi", "T1w")),
        # The file that has exactly the named parts, whatever lies beside it.
        ((f"{SUB}desc-brain_T1w.nii.gz", f"{SUB}T1w.nii.gz", MASK), ("desc-brain_T1w",)),
        ((f"{SUB}T1w.nii.gz", f"{SUB}desc-brain_T1w.nii.gz", MASK), ("T1w",)),
        # The only one that has them among others.
        ((f"{SUB}acq-tra_run-1_FLAIR.nii.gz", MASK), ("FLAIR",)),
        ((f"{SUB}acq-tra_run-1_FLAIR.nii.gz", f"{SUB}acq-cor_FLAIR.nii.gz", MASK), ("acq-tra_FLAIR",)),
        # Masks of brain and tissue are no labels, nor are derivatives' images another case's.
        ((f"{SUB}T1w.nii.gz", MASK, "derivatives/fmriprep/" + f"{SUB}desc-brain_mask.nii.gz"), ("T1w",)),
        ((f"{SUB}T1w.nii.gz", MASK, f"derivatives/x/{SUB}dseg.nii.gz"), ("T1w",)),
    ],
)
def test_bids_trees(tmp_path: Path, names: tuple[str, ...], channels: tuple[str, ...]) -> None:
    touch(tmp_path, *names, "dataset_description.json", f"{SUB}T1w.json", f"sub-01/anat/._{SUB[13:]}T1w.nii.gz")
    (case,) = find_cases(DataSettings(layout="bids", root=str(tmp_path), channels=channels))
    assert [case.images[channel] for channel in channels] == [tmp_path / name for name in names[: len(channels)]]
    assert (case.name, case.patient, case.label) == ("sub-01", "sub-01", tmp_path / MASK)


def test_bids_masks_of_brain_and_tissue_are_no_labels(tmp_path: Path) -> None:
    names = [f"derivatives/a/{SUB}{name}.nii.gz" for name in ("mask", "desc-brain_mask", "label-GM_mask")]
    touch(tmp_path, f"{SUB}T1w.nii.gz", *names)
    (case,) = find_cases(DataSettings(layout="bids", root=str(tmp_path), channels=("T1w",)))
    assert case.label == tmp_path / names[0]


def test_bids_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        stem = f"sub-01/{session}/anat/sub-01_{session}_"
        touch(tmp_path, f"{stem}T1w.nii.gz", f"derivatives/lesions/{stem}desc-lesion_mask.nii.gz")
    cases = find_cases(DataSettings(layout="bids", root=str(tmp_path), channels=("t1w",)))
    assert [(c.name, c.patient) for c in cases] == [("sub-01_ses-1", "sub-01"), ("sub-01_ses-2", "sub-01")]
    assert all(c.patient_named for c in cases)
    assert len({case.label for case in cases}) == 2


def test_bids_label_lies_in_the_space_of_the_first_channel(tmp_path: Path) -> None:
    stem = "derivatives/prep/" + SUB
    touch(tmp_path, f"{SUB}T1w.nii.gz", f"{stem}space-MNI_T1w.nii.gz")
    touch(tmp_path, f"{stem}label-lesion_mask.nii.gz", f"{stem}space-MNI_label-lesion_mask.nii.gz")
    for channel, label in (("T1w", "label-lesion_mask"), ("space-MNI_T1w", "space-MNI_label-lesion_mask")):
        (case,) = find_cases(DataSettings(layout="bids", root=str(tmp_path), channels=(channel,)))
        assert case.label == tmp_path / f"{stem}{label}.nii.gz"


def test_bids_refuses_what_could_be_several_files(tmp_path: Path) -> None:
    touch(tmp_path, f"{SUB}run-1_T1w.nii.gz", f"{SUB}run-2_T1w.nii.gz", MASK, MASK.replace("lesion_", "lesion_desc-b_"))
    text = message(tmp_path, layout="bids", channels=("T1w",))
    assert "sub-01: 2 files match T1w, write more of its name into data.channels" in text
    assert "sub-01: 2 files match label" in text and "data.label_name" in text
    assert channels_in("bids", tmp_path) == {"run-1_T1w": 1, "run-2_T1w": 1}
    settings = DataSettings(
        layout="bids", root=str(tmp_path), channels=("run-2_T1w",), label_name="label-lesion_desc-b_mask"
    )
    (case,) = find_cases(settings)
    assert case.label is not None and "desc-b" in case.label.name


def test_bids_a_subject_without_a_mask_is_a_fault_only_when_labelled(tmp_path: Path) -> None:
    touch(tmp_path, f"{SUB}T1w.nii.gz", MASK, "sub-02/anat/sub-02_T1w.nii.gz")
    assert "sub-02: label is missing" in message(tmp_path, layout="bids", channels=("T1w",))
    cases = find_cases(DataSettings(layout="bids", root=str(tmp_path), channels=("T1w",)), labelled=False)
    assert [case.label is None for case in cases] == [False, True]


def test_bids_another_contrast_is_no_channel_unless_it_is_named(tmp_path: Path) -> None:
    for subject, name in (("sub-01", "T1w"), ("sub-02", "acq-mprage_T1w"), ("sub-03", "ce-gd_T1w")):
        touch(tmp_path, f"{subject}/anat/{subject}_{name}.nii.gz")
        touch(tmp_path, f"derivatives/m/{subject}/anat/{subject}_label-lesion_mask.nii.gz")
    text = message(tmp_path, layout="bids", channels=("T1w",))
    assert text.count("T1w is missing") == 1
    assert "sub-03: T1w is missing; found sub-03_ce-gd_T1w.nii.gz; another contrast" in text
    assert channels_in("bids", tmp_path) == {"T1w": 2, "ce-gd_T1w": 1}
    assert "sub-03" not in message(tmp_path, layout="bids", channels=("ce-gd_T1w",))


def test_bids_no_subject_and_no_session_is_passed_over_in_silence(tmp_path: Path) -> None:
    touch(tmp_path, f"{SUB}T1w.nii.gz", MASK, "derivatives/fsl/sub-05/stats/zstat1.nii.gz")
    touch(tmp_path, "sub-02/anat/1.dcm", "sub-03/anat/T1w.nii.gz", "sub-04/beh/sub-04_task.tsv")
    stem = "sub-05/ses-1/anat/sub-05_ses-1_"
    touch(tmp_path, f"{stem}T1w.nii.gz", f"{stem}lesion.nii.gz", "sub-05/ses-8/eeg/a.edf", "sub-05/ses-9/anat/T1w.nii")
    text = message(tmp_path, layout="bids", channels=("T1w",))
    assert "sub-02: is DICOM: convert it" in text
    assert f"sub-03: the names of its images must begin with sub-03_; found {tmp_path}/sub-03/anat/T1w.nii.gz" in text
    assert f"sub-04: no image in {tmp_path}/sub-04" in text
    assert "sub-05_ses-9: the names of its images must begin with sub-05_" in text
    assert "4 faults" in text


# folders


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("flair", "flair"),
        ("FLAIR_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI", "flair"),
        ("T1POST_N4_noneck_regtoFLAIR_brain", "t1post"),
        ("T1_reg_to_FLAIR", "t1"),
        ("T1-MPRAGE", "t1"),
        ("GOLD_STANDARD_N4_regtoMNI", LABEL),
        ("gold_standard", LABEL),
        ("gold", None),
        ("flair_lesion_mask", LABEL),
        ("T2 seg", LABEL),
        ("T1_brain_mask", None),
        ("brain_lesion_mask", LABEL),
        ("brainmask", None),
        ("T1_masked", "t1"),
        ("my_scan_final", "my_scan"),
        ("dwi_b1000", "dwi_b1000"),
        ("dwi_b0", "dwi"),
        ("notes", None),
    ],
)
def test_what_a_name_says(stem: str, kind: str | None) -> None:
    assert read_name(stem, ("FLAIR", "T1", "my_scan", "dwi", "dwi_b1000"), None)[0] == kind


def test_a_label_that_is_named_needs_no_usual_name() -> None:
    assert read_name("T1_brain_seg", (), "brain_seg")[0] == LABEL
    assert read_name("outline", (), "outline")[0] == LABEL
    assert read_name("flair_mask", (), "outline")[0] == "flair"


def test_folders_a_folder_a_case(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"p{n}/{name}" for n in (1, 2) for name in ("FLAIR.nii.gz", "p_t1.mha", "mask.nrrd", "notes.txt"))
    )
    touch(tmp_path, "p1/p1_T1POST.nii", "p1/.hidden_t1.nii", "empty/readme.txt")
    first, second = find_cases(DataSettings(layout="folders", root=str(tmp_path), channels=("flair", "T1")))
    assert first.images == {"flair": tmp_path / "p1/FLAIR.nii.gz", "T1": tmp_path / "p1/p_t1.mha"}
    assert (first.name, first.label, second.patient) == ("p1", tmp_path / "p1/mask.nrrd", "p2")
    assert not first.patient_named
    assert channels_in("folders", tmp_path) == {"flair": 2, "t1": 2, "t1post": 1}


def test_folders_the_case_s_name_does_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "seg_T1_01/seg_T1_01_flair.nii.gz", "seg_T1_01/SEG_T1_01_mask.nii.gz")
    (case,) = find_cases(DataSettings(layout="folders", root=str(tmp_path), channels=("flair",)))
    assert case.images["flair"].name == "seg_T1_01_flair.nii.gz"
    assert channels_in("folders", tmp_path) == {"flair": 1}


def test_folders_of_loose_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"stroke-0{n}_{name}.nii.gz" for n in (1, 2) for name in ("dwi", "adc", "lesion_mask")))
    first, second = find_cases(DataSettings(layout="folders", root=str(tmp_path)))
    assert first.images == {c: tmp_path / f"stroke-01_{c}.nii.gz" for c in ("dwi", "adc")}
    assert (second.name, second.label) == ("stroke-02", tmp_path / "stroke-02_lesion_mask.nii.gz")


def test_folders_refuses_what_could_be_several_files(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p/{name}.nii.gz" for name in ("T1_a", "T1_b", "mask1_seg", "consensus", "rater2_mask")))
    text = message(tmp_path, layout="folders", channels=("t1",))
    assert "p: 2 files match t1" in text and "T1_b.nii.gz" in text
    assert "p: 3 files match label" in text and "data.label_name" in text
    (tmp_path / "p/T1_b.nii.gz").unlink()
    (case,) = find_cases(DataSettings(layout="folders", root=str(tmp_path), channels=("t1",), label_name="consensus"))
    assert case.label == tmp_path / "p/consensus.nii.gz"


def test_folders_faults_name_what_there_is(tmp_path: Path) -> None:
    touch(tmp_path, "p/T1POST.nii.gz", "p/mask.nii.gz")
    assert "p: t1 is missing; found T1POST.nii.gz, mask.nii.gz" in message(tmp_path, layout="folders", channels=("t1",))


def test_folders_no_folder_with_images_deeper_is_passed_over_in_silence(tmp_path: Path) -> None:
    touch(tmp_path, "c1/flair.nii", "c1/mask.nii", "c4/NIFTI/flair.nii.gz", "c5/DICOM/1.dcm", "doc/readme.txt")
    text = message(tmp_path, layout="folders", channels=("flair",))
    assert "2 faults" in text
    assert "c4: no image in this folder, but deeper: c4/NIFTI/flair.nii.gz" in text
    assert "c5: is DICOM: convert it" in text


def test_folders_derivatives_are_what_was_made_from_the_cases(tmp_path: Path) -> None:
    touch(tmp_path, "c1/flair.nii", "c1/mask.nii", "derivatives/c1.nii.gz", "derivatives/model-3/c1.nii.gz")
    (case,) = find_cases(DataSettings(layout="folders", root=str(tmp_path), channels=("flair",)))
    assert case.name == "c1"


def test_folders_do_not_fit_files_that_nothing_is_known_of(tmp_path: Path) -> None:
    touch(tmp_path, "atlas/Subject_001.nii.gz", "atlas/Subject_002.nii.gz")
    assert channels_in("folders", tmp_path) == {}
    touch(tmp_path, "p/mystery_scan.nii.gz", "p/mask.nii.gz")
    assert channels_in("folders", tmp_path)["mystery_scan"] == 1


def test_the_real_case_of_multiple_sclerosis(lesion_data: Path) -> None:
    settings = DataSettings(layout="folders", root=str(lesion_data / "openms"), channels=("flair", "t1", "t2"))
    (case,) = find_cases(settings)
    assert {channel: file.name.split("_")[0] for channel, file in case.images.items()} == {
        "flair": "FLAIR",
        "t1": "T1",
        "t2": "T2",
    }
    assert case.label is not None and case.label.name.startswith("GOLD_STANDARD")
