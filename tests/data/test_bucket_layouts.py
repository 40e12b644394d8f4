"""Every layout finds in a bucket what it finds in a folder, with the same bytes, and nothing else is fetched."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import nibabel as nib
import pytest

import trees
from mlproject.data.case import Case
from mlproject.data.case_names import CaseNaming, without_names
from mlproject.data.cases import DataSettings, find_cases
from mlproject.data.dataset import open_dataset
from mlproject.data.fetching import fetch
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.survey import find
from mlproject.errors import DataError

PREPARED = PreprocessingSettings()


@pytest.fixture
def bucket(buckets: Path) -> Path:
    (buckets / "bucket").mkdir()
    return buckets / "bucket"


def fetched(cache: Path) -> list[str]:
    """The names of all copies."""
    return sorted(path.name for path in cache.glob(f"objects/{64 * '[0-9a-f]'}/*") if path.name != "used")


def isles2022(tiny: Path, root: Path) -> DataSettings:
    shutil.copytree(tiny, root)
    return DataSettings()


def rewritten(layout: str, channels: Sequence[str]) -> Callable[[Path, Path], DataSettings]:
    def write(tiny: Path, root: Path) -> DataSettings:
        trees.rewrite(tiny, layout, [*channels, "FLAIR" if layout != "isles2017" else "4DPWI"], root)
        return DataSettings(layout=layout, channels=tuple(channels))  # type: ignore[arg-type]

    return write


def nnunet(tiny: Path, root: Path) -> DataSettings:
    trees.touch(root, "imagesTr/x", "labelsTr/x")
    for number, mask in enumerate(sorted(tiny.rglob("*_msk.nii.gz"))):
        session = tiny / "rawdata" / mask.relative_to(tiny / "derivatives").parent
        for place, channel in enumerate(("dwi", "adc", "flair")):
            shutil.copy(next(session.glob(f"*_{channel}.nii.gz")), root / f"imagesTr/c{number}_{place:04d}.nii.gz")
        shutil.copy(mask, root / f"labelsTr/c{number}.nii.gz")
    names = {"0": "dwi", "1": "adc", "2": "flair"}
    (root / "dataset.json").write_text(json.dumps({"channel_names": names, "file_ending": ".nii.gz"}))
    return DataSettings(layout="nnunet")


def table(tiny: Path, root: Path) -> DataSettings:
    """Files of which the voxels lie beside their headers, in folders of their own."""
    rows = []
    for number, mask in enumerate(sorted(tiny.rglob("*_msk.nii.gz"))):
        session = tiny / "rawdata" / mask.relative_to(tiny / "derivatives").parent
        (root / f"scans {number}").mkdir(parents=True)
        image = nib.load(next(session.glob("*_dwi.nii.gz")))
        nib.save(nib.Nifti1Pair.from_image(image), root / f"scans {number}/ä.hdr")
        shutil.copy(mask, root / f"m{number}.nii.gz")
        part = ("train", "train", "train", "validation", "test", "test")[number]
        rows.append([f"c{number}", f"scans {number}/../scans {number}/ä.hdr", f"m{number}.nii.gz", part])
    with (root / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case", "dwi", "label", "split"], *rows])
    return DataSettings(layout="table", channels=("dwi",))


LAYOUTS = {
    "isles2022": isles2022,
    "isles2017": rewritten("isles2017", ["ADC", "MTT"]),
    "atlas": rewritten("atlas", ["T1w"]),
    "bids": rewritten("bids", ["T1w", "dwi"]),
    "folders": rewritten("folders", ["t1", "dwi"]),
    "msd": rewritten("msd", ["dwi", "adc"]),
    "nnunet": nnunet,
    "table": table,
}


def same(here: Case, remote: Case) -> bool:
    """Whether two cases agree in all but where their files lie, and the files in their names and bytes."""
    files = [[*case.images.items(), ("label", case.label)] for case in (here, remote)]
    for (what, one), (name, other) in zip(*files, strict=True):
        assert one is not None and other is not None
        assert (what, one.name, one.read_bytes()) == (name, other.name, other.read_bytes())
    rest = [field.name for field in fields(Case) if field.name not in ("images", "label", "objects")]
    return all(getattr(here, name) == getattr(remote, name) for name in rest)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_cases_and_digest_as_from_a_folder(
    layout: str, tiny_isles: Path, bucket: Path, tmp_path: Path
) -> None:
    settings = LAYOUTS[layout](tiny_isles, bucket / "a set")
    (bucket / "a set of another").mkdir()
    (bucket / "a set of another/x.nii.gz").write_text("x")
    root = "a set/cases.csv" if layout == "table" else "a set"
    here, there = replace(settings, root=str(bucket / root)), replace(settings, root=f"s3://bucket/{root}/")
    expected = find_cases(here)
    found = find_cases(there, cache=tmp_path / "cache")
    assert fetched(tmp_path / "cache") == [] and len(found) == 6
    fetch(found, 1)
    assert all(map(same, expected, found))
    files = [file for case in expected for file in {*case.images.values(), case.label} if file]
    voxels = [file.with_suffix(".img") for file in files if file.suffix == ".hdr"]
    assert fetched(tmp_path / "cache") == sorted(file.name for file in [*files, *voxels])
    one, other = (open_dataset(data, PREPARED, tmp_path / "cache") for data in (here, there))
    assert (one.digest, one.split, one.lesion_ml) == (other.digest, other.split, other.lesion_ml)


def test_masks_beside_rawdata_and_a_whole_bucket(tiny_isles: Path, bucket: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_isles, bucket, dirs_exist_ok=True)
    for root in ("s3://bucket/rawdata", "s3://bucket", "S3://bucket/"):
        data = DataSettings(root=root)
        cases = find_cases(data, cache=tmp_path)
        assert len(cases) == 6 and all(case.label for case in cases)
        assert data.name == ("rawdata" if "raw" in root else "bucket")


def test_over_a_thousand_objects_are_listed(bucket: Path, tmp_path: Path) -> None:
    trees.touch(bucket, *(f"set/case-{n:04d}/{what}.nii" for n in range(505) for what in ("flair", "label")))
    cases = find_cases(DataSettings(layout="folders", root="s3://bucket/set", channels=("flair",)), cache=tmp_path)
    assert len(cases) == 505


def test_labels_and_channels_that_are_not_needed_are_not_fetched(
    tiny_isles: Path, bucket: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_isles, bucket / "set")
    next((bucket / "set").rglob("sub-synthetic0002_*_adc.nii.gz")).unlink()
    data = DataSettings(root="s3://bucket/set", missing="zero")
    first, second, *_ = find_cases(data, labelled=False, cache=tmp_path)
    assert first.label is not None and second.missing == ("adc",)
    fetch([first, second], 1, labelled=False)
    assert fetched(tmp_path) == [
        "sub-synthetic0001_ses-0001_adc.nii.gz",
        "sub-synthetic0001_ses-0001_dwi.nii.gz",
        "sub-synthetic0002_ses-0001_dwi.nii.gz",
    ]


@pytest.mark.parametrize("layout", ["isles2022", "msd", "folders"])
def test_layout_and_channels_are_guessed_as_from_a_folder(
    layout: str, tiny_isles: Path, bucket: Path, tmp_path: Path
) -> None:
    LAYOUTS[layout](tiny_isles, bucket / "set")
    one = find(DataSettings(root=str(bucket / "set")), False, False)
    other = find(DataSettings(root="s3://bucket/set"), False, False, tmp_path)
    assert replace(one.data, root="") == replace(other.data, root="") and one.data.layout == layout
    assert (one.channels, one.layouts) == (other.channels, other.layouts)
    assert [case.name for case in one.cases] == [case.name for case in other.cases]


@pytest.mark.parametrize(
    ("root", "settings", "words"),
    [
        (
            "nothing",
            {},
            "s3://bucket/nothing/: there is no object below this prefix. See data.root=s3://bucket/nothing",
        ),
        ("set", {"channels": ("dwi", "t1")}, r"s3://bucket/set: 6 faults\. [^\n]*\n  sub-synthetic0001: t1 is missing"),
        (
            "set",
            {"layout": "isles2017"},
            "s3://bucket/set: no case found.*looks like data.layout=isles2022",
        ),
        ("set", {"layout": "nnunet"}, "s3://bucket/set/dataset.json does not exist"),
        ("set/README.txt", {}, "s3://bucket/set/README.txt/: there is no object below this prefix"),
        ("set", {"layout": "table"}, "data.root=s3://bucket/set is a folder: data.layout=table needs a CSV file"),
        ("set/none.csv", {"layout": "table"}, "data.root=s3://bucket/set/none.csv does not exist"),
        ("set/cases.csv", {"layout": "table"}, r"s3://bucket/set/no/x\.nii does not exist"),
        (
            "set/out.csv",
            {"layout": "table"},
            "c1: /etc/hosts does not lie below",
        ),
    ],
)
def test_what_is_wrong_is_told_of_the_bucket(
    root: str, settings: dict[str, object], words: str, tiny_isles: Path, bucket: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_isles, bucket / "set")
    (bucket / "set/cases.csv").write_text("case,dwi,adc,label\nc1,no/x.nii,a.nii,b.nii\n")
    (bucket / "set/out.csv").write_text("case,dwi,adc,label\nc1,/etc/hosts,cases.csv,README.txt\n")
    with pytest.raises(DataError, match=words) as caught:
        find_cases(DataSettings(root=f"s3://bucket/{root}", **settings), cache=tmp_path)  # type: ignore[arg-type]
    assert "names-" not in str(caught.value) and "/tmp" not in str(caught.value)


def test_a_damaged_image_is_told_by_its_objects_name(tiny_isles: Path, bucket: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_isles, bucket / "set")
    image = next((bucket / "set").rglob("sub-synthetic0002_*_adc.nii.gz"))
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes())[:-9]))
    name = f"s3://bucket/{image.relative_to(bucket)}"
    with pytest.raises(DataError, match=f"sub-synthetic0002: adc {name}: is truncated") as caught:
        open_dataset(DataSettings(root="s3://bucket/set"), PREPARED, tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_a_patients_name_in_a_key_is_hidden_from_others(bucket: Path, tmp_path: Path) -> None:
    trees.touch(bucket, "set/Anna Beispiel/flair.nii", "set/Carl Muster/flair.nii")
    data = DataSettings(layout="folders", root="s3://bucket/set", channels=("flair",))
    naming = CaseNaming("pseudonym", str(tmp_path / "names.csv"))
    first, _ = naming.apply(find_cases(data, labelled=False, cache=tmp_path), data)
    text = first.said(f"{first.images['flair']}: is truncated")
    assert text == "s3://bucket/set/Anna Beispiel/flair.nii: is truncated"
    assert without_names(text) == "<a file of case-0001>: is truncated"
    assert "Beispiel" not in without_names("no folder Anna Beispiel in s3://bucket/set")


def test_a_bucket_needs_a_folder_for_its_copies() -> None:
    with pytest.raises(DataError, match="give the folder where its copies go"):
        find_cases(DataSettings(root="s3://bucket/set"))
