"""What is found out about a case, and about a data set with faults."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from mlproject.data.case import Case, DataSettings
from mlproject.data.description import classes_in, describe_case
from mlproject.data.survey import describe_cases, duplicates, find
from mlproject.errors import DataError

SHAPE = (12, 16, 10)
SPACING = (2.0, 2.0, 4.0)


def write(path: Path, values: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1.0])), path)
    return path


def brain(low: float = 100.0) -> np.ndarray:
    """A box of 8 x 12 x 6 voxels with the values low, low + 1 ..., 0 around it."""
    values = np.zeros(SHAPE)
    values[2:10, 2:14, 2:8] = low + np.arange(8 * 12 * 6).reshape(8, 12, 6)
    return values


def lesions() -> np.ndarray:
    """A lesion of 8 voxels and one of 2, which touch nowhere."""
    mask = np.zeros(SHAPE)
    mask[3:5, 3:5, 3:5] = 1
    mask[8, 8, 6:8] = 1
    return mask


@pytest.fixture
def case(tmp_path: Path) -> Case:
    images = {"dwi": write(tmp_path / "dwi.nii.gz", brain()), "adc": write(tmp_path / "adc.nii.gz", brain(500))}
    return Case("a", images, write(tmp_path / "label.nii.gz", lesions()), patient="p")


def test_a_sound_case(case: Case) -> None:
    facts = describe_case(case)
    assert (facts.name, facts.patient, facts.faults, facts.remarks, facts.missing) == ("a", "p", (), (), ())
    assert (facts.shape, facts.spacing_mm, facts.orientation) == (SHAPE, SPACING, "RAS")
    voxel_ml = 2 * 2 * 4 / 1000
    assert facts.brain_ml == pytest.approx(8 * 12 * 6 * voxel_ml)
    assert facts.lesions_ml == pytest.approx((8 * voxel_ml, 2 * voxel_ml))
    assert facts.lesion_ml == pytest.approx(10 * voxel_ml)
    assert (facts.label_values, facts.lesion_outside_brain) == ((0.0, 1.0), 0.0)
    assert facts.channels is not None
    dwi = facts.channels["dwi"]
    assert dwi.percentiles == pytest.approx(tuple(100 + share * (8 * 12 * 6 - 1) for share in (0.01, 0.5, 0.99)))
    assert dwi.zero_share == pytest.approx(1 - 8 * 12 * 6 / np.prod(SHAPE))
    assert (dwi.negative_voxels, dwi.grid) == (0, "")


def test_odd_but_accepted(case: Case) -> None:
    write(case.images["adc"], np.pad(brain(-3), 2))
    assert case.label is not None
    outside = lesions()
    outside[0, 0, :6] = 1
    write(case.label, outside)
    facts = describe_case(case)
    assert not facts.faults and facts.channels is not None
    assert facts.channels["adc"].grid.startswith("16x20x14 voxels of 2x2x4 mm")
    assert facts.channels["adc"].negative_voxels == 3
    assert facts.lesion_outside_brain == pytest.approx(6 / 16)


def test_a_header_with_two_opinions_is_a_remark_without_the_folder(case: Case) -> None:
    for path in case.images.values():
        image = Nifti1Image(brain().astype(np.float32), np.diag([*SPACING, 1.0]))
        image.set_qform(np.diag([-2, -2, 4, 1]), 1)
        image.set_sform(np.diag([*SPACING, 1]) + np.eye(4, k=3) * 5, 2)
        nib.save(image, path)
    remarks = describe_case(replace(case, label=None)).remarks
    assert any(remark.startswith("dwi.nii.gz: its header places it in two ways") for remark in remarks)
    assert str(case.images["dwi"].parent) not in "".join(remarks)


def test_a_label_of_classes_counts_all_but_background(case: Case) -> None:
    assert case.label is not None
    classes = lesions()
    classes[8, 8, 6:8] = 4
    write(case.label, classes)
    facts = describe_case(case)
    assert not facts.faults and facts.label_values == (0, 1, 4)
    assert facts.lesion_ml == pytest.approx(10 * 0.016)
    assert describe_case(replace(case, lesion_labels=(4,))).lesion_ml == pytest.approx(2 * 0.016)


@pytest.mark.parametrize(
    ("values", "classes"),
    [((0, 1), None), ((0,), None), ((0, 1, 2), (1, 2)), ((0, 255), (255,)), ((0, 0.5), None), ((-1, 0), None)],
)
def test_classes(values: tuple[float, ...], classes: tuple[int, ...] | None) -> None:
    assert classes_in(values) == classes


FAULTS: dict[str, tuple[Callable[[Case], object], str, bool]] = {
    "truncated": (lambda case: case.images["adc"].write_bytes(case.images["adc"].read_bytes()[:200]), "adc", False),
    "constant": (lambda case: write(case.images["dwi"], np.ones(SHAPE)), "constant", False),
    "label on another grid": (lambda case: write(case.label, lesions()[1:]), "another grid", True),
    "label of probabilities": (lambda case: write(case.label, np.linspace(0, 1, 1920).reshape(SHAPE)), "1920", True),
    "label of halves": (lambda case: write(case.label, lesions() / 2), "0.5", True),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults(kind: str, case: Case) -> None:
    do, words, images_are_sound = FAULTS[kind]
    do(case)
    facts = describe_case(case)
    assert len(facts.faults) == 1 and words in facts.faults[0] and facts.faults[0].startswith("a: ")
    assert facts.lesions_ml is None
    assert (facts.channels is not None) == images_are_sound


def test_all_cases_are_found_with_or_without_faults(tiny_isles: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_isles, root)
    for number, channel in ((1, "dwi"), (2, "flair")):
        next(root.glob(f"rawdata/*{number}/*/*_{channel}.nii.gz")).unlink()
    next(root.glob("derivatives/*3/*/*.nii.gz")).unlink()

    found = find(DataSettings(root=str(root)), layout_given=False, channels_given=False)

    assert (found.data.layout, found.data.channels) == ("isles2022", ("adc", "dwi", "flair"))
    assert found.channels == {"adc": 6, "dwi": 5, "flair": 5}
    missing = {case.name[-1]: case.missing for case in found.cases}
    assert missing == {"1": ("dwi",), "2": ("flair",), "3": (), "4": (), "5": (), "6": ()}
    assert len(found.faults) == 1 and "sub-synthetic0003: label is missing" in found.faults[0]

    given = find(DataSettings(root=str(root), channels=("dwi",)), layout_given=False, channels_given=True)
    assert [case.name[-1] for case in given.cases] == ["2", "4", "5", "6", "3"]  # the last without its label


def test_the_reference_is_the_channel_on_whose_grid_the_labels_lie(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "dwi.nii.gz", np.pad(brain(), 1))  # the usual reference
        write(tmp_path / name / "flair.nii.gz", brain())
        write(tmp_path / name / "label.nii.gz", lesions())
    found = find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)
    assert found.data.channels == ("flair", "dwi")


def test_no_layout(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no layout fits this data set; found notes\.txt"):
        find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)
    (tmp_path / "series.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DataError, match="dcm2niix"):
        find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)


def test_where_no_layout_fits_what_could_be_given_is_named(tmp_path: Path) -> None:
    for case in ("siteA/P1_2020", "siteA/P2_2021", "siteB/P3_2022"):
        write(tmp_path / case / "FLAIR_n4.nii.gz", brain())
        write(tmp_path / case / "consensus_gt.nii.gz", lesions())
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")  # beside images it is not what matters
    (tmp_path / "cases.csv").write_text("case,flair,label")
    with pytest.raises(DataError) as caught:
        find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)
    assert f"data.root={tmp_path / 'siteA'} (folders)" in str(caught.value)
    assert f"data.root={tmp_path / 'cases.csv'}" in str(caught.value)
    assert find(DataSettings(root=str(tmp_path / "siteA")), layout_given=False, channels_given=False).layouts


def test_the_folder_of_one_patient_of_many_is_no_data_set(tmp_path: Path) -> None:
    for case in ("P1/2020", "P1/2021", "P2/2020", "P3/2020"):
        write(tmp_path / case / "FLAIR_n4.nii.gz", brain())
        write(tmp_path / case / "consensus_gt.nii.gz", lesions())
    with pytest.raises(DataError, match="a table fits all") as caught:
        find(DataSettings(root=str(tmp_path)), layout_given=False, channels_given=False)
    assert "further down" not in str(caught.value)


def test_a_file_that_is_no_table_is_told_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    with pytest.raises(DataError, match=r"notes\.txt: it is a file, and no table"):
        find(DataSettings(root=str(tmp_path / "notes.txt")), layout_given=False, channels_given=False)


def test_processes_give_what_one_gives_and_duplicates_are_noticed(case: Case) -> None:
    copy = replace(
        case, name="b", images={"t1": case.images["dwi"], "t2": write(case.images["dwi"].parent / "t2.nii", brain(7))}
    )
    cases = [case, copy]
    alone = list(describe_cases(cases, processes=1))
    assert list(describe_cases(cases, processes=2)) == alone
    assert duplicates(alone) == [("a dwi", "b t1")]
