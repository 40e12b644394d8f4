"""Trees with the names that the challenges gave their files: ISLES 2017, ATLAS R2.0, the Decathlon, nnU-Net."""

import json
from pathlib import Path

import pytest

from mlproject.data.case import FaultsError
from mlproject.data.cases import Case, DataSettings, channels_in, find_cases
from mlproject.data.survey import find
from trees import message, touch

MAPS = ("MR_ADC", "MR_MTT", "MR_rCBF", "MR_rCBV", "MR_Tmax", "MR_TTP", "MR_4DPWI")


def isles_case(folder: str, first_id: int, archive: str = "VSD", label: bool = True) -> list[str]:
    kinds = (*MAPS, "OT") if label else MAPS
    stems = [f"{archive}.Brain.XX.O.{kind}.{first_id + number}" for number, kind in enumerate(kinds)]
    return [f"{folder}/{stem}/{stem}.nii" for stem in stems]


@pytest.fixture
def isles(tmp_path: Path) -> Path:
    touch(tmp_path, *isles_case("ISLES2017_Training/training_1", 127010))
    touch(tmp_path, *isles_case("ISLES2017_Training/training_48", 188800, "SMIR"))
    touch(tmp_path, *isles_case("ISLES2017_Testing/test_7", 127200, label=False))
    return touch(tmp_path, "ISLES2017_Training/README.txt", "__MACOSX/training_1/._VSD.Brain.XX.O.OT.1.nii")


def test_isles2017_reads_both_archives_and_passes_over_the_series(isles: Path) -> None:
    settings = DataSettings(layout="isles2017", root=str(isles), channels=("ADC", "tmax"))
    first, second = find_cases(settings)
    folder = isles / "ISLES2017_Training/training_1"
    images = {
        "ADC": folder / "VSD.Brain.XX.O.MR_ADC.127010/VSD.Brain.XX.O.MR_ADC.127010.nii",
        "tmax": folder / "VSD.Brain.XX.O.MR_Tmax.127014/VSD.Brain.XX.O.MR_Tmax.127014.nii",
    }
    label = folder / "VSD.Brain.XX.O.OT.127017/VSD.Brain.XX.O.OT.127017.nii"
    submission = "SMIR.training_1.127011"
    assert first == Case("training_1", images, label, "training_1", submission=submission, patient_named=False)
    assert (second.name, second.submission) == ("training_48", "SMIR.training_48.188801")
    counts = {"ADC": 3, "MTT": 3, "rCBF": 3, "rCBV": 3, "Tmax": 3, "TTP": 3}
    assert channels_in("isles2017", isles) == counts


def test_isles2017_test_cases_are_those_without_a_label(isles: Path) -> None:
    settings = DataSettings(layout="isles2017", root=str(isles), channels=("adc",))
    assert [case.label is None for case in find_cases(settings, labelled=False)] == [True, False, False]
    testing = DataSettings(layout="isles2017", root=str(isles / "ISLES2017_Testing"), channels=("adc",))
    (case,) = find_cases(testing, labelled=False)
    assert (case.name, case.submission) == ("test_7", "SMIR.test_7.127201")
    assert "1 test cases have no label" in message(isles / "ISLES2017_Testing", layout="isles2017", channels=("adc",))


def test_isles2017_a_training_case_needs_its_label_and_its_maps(isles: Path) -> None:
    touch(isles, *isles_case("ISLES2017_Training/training_9", 130000, label=False)[1:])
    text = message(isles, layout="isles2017", channels=("adc", "mtt"))
    assert "training_9: adc is missing; found VSD.Brain.XX.O.MR_MTT.130001.nii" in text
    assert "training_9: label (OT) is missing" in text
    touch(isles, *isles_case("ISLES2017_Training/training_1", 500)[:1])
    assert "training_1: 2 files match adc" in message(isles, layout="isles2017", channels=("adc", "mtt"))


@pytest.mark.parametrize("testing", ["TESTING", "SISS2015_Testing"])
def test_isles2017_cases_called_alike_are_named_after_their_folders(tmp_path: Path, testing: str) -> None:
    touch(tmp_path, *isles_case("TRAINING/case_1", 100), *isles_case("TRAINING/case_2", 200))
    touch(tmp_path, *isles_case(f"{testing}/case_1", 300, label=False))
    settings = DataSettings(layout="isles2017", root=str(tmp_path), channels=("adc",))
    names = ["TRAINING_case_1", "case_2"]
    found = find_cases(settings)
    assert [(case.name, case.patient, case.patient_named) for case in found] == [(n, n, False) for n in names]
    cases = find_cases(settings, labelled=False)
    assert [case.name for case in cases] == sorted([*names, f"{testing}_case_1"])
    assert {case.submission.rpartition(".")[2] for case in cases} == {"101", "201", "301"}
    found = find(settings, layout_given=False, channels_given=True)
    assert [case.name for case in found.cases if case.label is None] == [f"{testing}_case_1"] and not found.faults


def test_isles2017_no_training_case_is_passed_over_because_of_its_root_or_a_part_of_a_word(tmp_path: Path) -> None:
    root = tmp_path / "stroke_test"
    for folder in ("case_1", "latest/case_2", "contest_3"):
        touch(root, *isles_case(folder, 100, label=False))
    text = message(root, layout="isles2017", channels=("adc",))
    assert text.count("label (OT) is missing") == 3


def atlas_case(folder: str, subject: str, label: bool) -> list[str]:
    stem = f"{folder}/{subject}/ses-1/anat/{subject}_ses-1_space-MNI152NLin2009aSym_"
    return [f"{stem}T1w.nii.gz", *([f"{stem}label-L_desc-T1lesion_mask.nii.gz"] if label else [])]


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    touch(
        tmp_path, *atlas_case("Training/R001", "sub-r001s001", True), *atlas_case("Training/R002", "sub-r002s003", True)
    )
    touch(tmp_path, *atlas_case("Testing/R027", "sub-r027s001", False))
    return touch(tmp_path, "20220425_ATLAS_2.0_MetaData.csv", "Training/dataset_description.json")


def test_atlas_trains_on_training_and_sees_testing_only_without_labels(atlas: Path) -> None:
    settings = DataSettings(layout="atlas", root=str(atlas), channels=("T1w",))
    first, second = find_cases(settings)
    stem = atlas / "Training/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz"
    assert first.images == {"T1w": stem}
    assert first.label is not None and first.label.name.endswith("label-L_desc-T1lesion_mask.nii.gz")
    assert (first.patient, second.name) == ("sub-r001s001", "sub-r002s003") and first.patient_named
    assert [case.label is None for case in find_cases(settings, labelled=False)] == [False, False, True]
    assert channels_in("atlas", atlas) == {"T1w": 3}


def test_atlas_reads_one_cohort_alone_and_misses_no_mask_in_silence(atlas: Path) -> None:
    (case,) = find_cases(DataSettings(layout="atlas", root=str(atlas / "Training/R002"), channels=("t1w",)))
    assert case.name == "sub-r002s003"
    assert case.label is not None
    case.label.unlink()
    assert "sub-r002s003: label is missing" in message(atlas, layout="atlas", channels=("t1w",))


def decathlon(root: Path, modality: object, **changes: object) -> Path:
    names = ("BRATS_001", "BRATS_002")
    description = {
        "modality": modality,
        "labels": {"0": "background", "1": "edema"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/BRATS_500.nii.gz"],
        **changes,
    }
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    files = [f"{folder}/{name}.nii.gz" for name in names for folder in ("imagesTr", "labelsTr", "imagesTr/._x")]
    return touch(root, *files, "imagesTs/BRATS_500.nii.gz")


def test_msd_channels_are_volumes_of_one_file(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task01", {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"})
    settings = DataSettings(layout="msd", root=str(root), channels=("T2w", "flair"))
    first, second = find_cases(settings)
    image = root / "imagesTr/BRATS_001.nii.gz"
    label = root / "labelsTr/BRATS_001.nii.gz"
    images = {"T2w": image, "flair": image}
    assert first == Case(
        "BRATS_001", images, label, "BRATS_001", components={"T2w": 3, "flair": 0}, patient_named=False
    )
    assert second.name == "BRATS_002"
    assert [case.name for case in find_cases(settings, labelled=False)] == ["BRATS_001", "BRATS_002", "BRATS_500"]
    assert channels_in("msd", root) == {"FLAIR": 3, "T1w": 3, "t1gd": 3, "T2w": 3}


def test_msd_with_one_modality_has_3d_files(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "Task04", {"0": "MRI"})
    first, _ = find_cases(DataSettings(layout="msd", root=str(root), channels=("mri",)))
    assert first.components == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": ["FLAIR"]}, "give modality"),
        ({"training": ["./imagesTr/BRATS_001.nii.gz"]}, "each case needs an image"),
        ({"training": [{"label": "./labelsTr/BRATS_001.nii.gz"}]}, "each case needs an image"),
        ({"training": [5]}, "each case needs an image, as ./imagesTr/a.nii.gz; found 5"),
        ({"test": [None]}, "each case needs an image, as ./imagesTr/a.nii.gz; found None"),
        ({"training": [{"image": ["./imagesTr/BRATS_001.nii.gz"]}]}, "each case needs an image"),
        ({"training": [{"image": "./imagesTr/BRATS_001.nii.gz"}]}, "BRATS_001: label is missing"),
        ({"training": [{"image": "./imagesTr/x.nii.gz"}], "test": []}, "no case found"),
        ({"training": []}, "no case found"),
    ],
)
def test_msd_refuses_what_it_cannot_use(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    root = decathlon(tmp_path / "task", **{"modality": {"0": "FLAIR"}, **changes})
    assert said in message(root, layout="msd", channels=("flair",))


def test_msd_lists_all_missing_files_at_once(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "task", {"0": "FLAIR"})
    (root / "imagesTr/BRATS_001.nii.gz").unlink()
    (root / "labelsTr/BRATS_002.nii.gz").unlink()
    text = message(root, layout="msd", channels=("flair",))
    assert "BRATS_001: no file" in text and "BRATS_002: no file" in text
    assert "must stand once" in message(root, layout="msd", channels=("dwi",))


def test_msd_labels_are_wanted_only_when_labelled(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "task", {"0": "FLAIR"})
    (root / "labelsTr/BRATS_001.nii.gz").unlink()
    cases = find_cases(DataSettings(layout="msd", root=str(root), channels=("flair",)), labelled=False)
    labels = {case.name: case.label for case in cases}
    assert labels == {"BRATS_001": None, "BRATS_002": root / "labelsTr/BRATS_002.nii.gz", "BRATS_500": None}


def test_msd_lists_no_image_twice(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "task", {"0": "FLAIR"}, test=["imagesTr/BRATS_002.nii.gz"])
    text = message(root, layout="msd", channels=("flair",))
    assert "BRATS_002: dataset.json lists" in text and "2 times" in text and "BRATS_001" not in text


def test_msd_cases_called_alike_are_named_after_their_folders(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "task", {"0": "FLAIR"}, test=["imagesTs/BRATS_001.nii.gz"])
    touch(root, "imagesTs/BRATS_001.nii.gz")
    settings = DataSettings(layout="msd", root=str(root), channels=("flair",))
    names = ["BRATS_002", "imagesTr_BRATS_001"]
    assert [case.name for case in find_cases(settings)] == names
    assert [case.name for case in find_cases(settings, labelled=False)] == [*names, "imagesTs_BRATS_001"]


def test_nnunet_an_image_of_imagests_gets_no_label_of_its_namesake(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "DWI"}, "file_ending": ".nii"}')
    touch(tmp_path, "imagesTr/a_0000.nii", "imagesTs/a_0000.nii", "imagesTs/b_0000.nii")
    touch(tmp_path, "labelsTr/a.nii", "labelsTr/b.nii")
    settings = DataSettings(layout="nnunet", root=str(tmp_path), channels=("dwi",), missing="zero")
    with pytest.raises(FaultsError) as caught:
        find_cases(settings)
    assert [case.name for case in caught.value.sound] == ["imagesTr_a"]
    assert caught.value.faults == ("imagesTr_b: dwi is missing; found no file",)
    with pytest.raises(FaultsError) as caught:
        find_cases(settings, labelled=False)
    found = {case.name: (case.images["dwi"].parent.name, case.label is None) for case in caught.value.sound}
    expected = {"imagesTr_a": ("imagesTr", False), "imagesTs_a": ("imagesTs", True), "imagesTs_b": ("imagesTs", True)}
    assert found == expected


def test_nnunet_version_1_and_its_test_images(tmp_path: Path) -> None:
    description = {"modality": {"0": "DWI", "1": "ADC"}, "training": [{"image": "./imagesTr/a.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    touch(tmp_path, *(f"images{part}_000{number}.nii.gz" for part in ("Tr/a", "Ts/b") for number in (0, 1)))
    touch(tmp_path, "labelsTr/a.nii.gz")
    settings = DataSettings(layout="nnunet", root=str(tmp_path))
    (case,) = find_cases(settings)
    assert case.images["adc"] == tmp_path / "imagesTr/a_0001.nii.gz"
    assert [(c.name, c.label is None) for c in find_cases(settings, labelled=False)] == [("a", False), ("b", True)]
    assert channels_in("nnunet", tmp_path) == {"DWI": 2, "ADC": 2}
    assert "looks like data.layout=nnunet" in message(tmp_path, layout="msd")
