"""Trees of the layouts: of empty files, as no finder reads an image, and of the tiny data set's images."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mlproject.data.cases import DataSettings, find_cases
from mlproject.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def message(root: Path, labelled: bool = True, **settings: object) -> str:
    """What find_cases says against a tree."""
    with pytest.raises(DataError) as caught:
        find_cases(DataSettings(root=str(root), **settings), labelled)  # type: ignore[arg-type]
    return str(caught.value)


IMAGE_AND_LABEL = {  # {n} is the case's number, {c} the channel
    "isles2017": ("training_{n}/VSD.Brain.XX.O.MR_{c}.{n}1/VSD.Brain.XX.O.MR_{c}.{n}1.nii",
                  "training_{n}/VSD.Brain.XX.O.OT.{n}2/VSD.Brain.XX.O.OT.{n}2.nii"),
    "atlas": ("Training/R001/sub-{n}/ses-1/anat/sub-{n}_ses-1_space-MNI_{c}.nii.gz",
              "Training/R001/sub-{n}/ses-1/anat/sub-{n}_ses-1_space-MNI_label-L_desc-T1lesion_mask.nii.gz"),
    "bids": ("sub-{n}/anat/sub-{n}_{c}.nii.gz", "derivatives/manual/sub-{n}/anat/sub-{n}_label-lesion_mask.nii.gz"),
    "folders": ("case-{n}/{c}_brain.nii.gz", "case-{n}/lesion_mask.nii.gz"),
    "msd": ("imagesTr/case_{n}.nii.gz", "labelsTr/case_{n}.nii.gz"),
}  # fmt: skip


def rewrite(isles2022: Path, layout: str, channels: Sequence[str], to: Path) -> Path:
    """Write a data set of dwi and adc anew in another layout, with these two as its channels in turn."""
    image, label = IMAGE_AND_LABEL[layout]
    listed = []
    for number, mask in enumerate(sorted(isles2022.rglob("*_msk.nii.gz")), start=1):
        session = isles2022 / "rawdata" / mask.relative_to(isles2022 / "derivatives").parent
        scans = [nib.load(next(session.glob(f"*_{name}.nii.gz"))) for name in ("dwi", "adc")]
        volumes = {c: scans[place % 2] for place, c in enumerate(channels)}
        if layout == "msd":
            voxels = np.stack([np.asarray(scan.dataobj, np.float32) for scan in volumes.values()], axis=-1)
            volumes = {"all": nib.Nifti1Image(voxels, scans[0].affine)}
        files = {image.format(n=number, c=c): scan for c, scan in volumes.items()}
        files[label.format(n=number)] = nib.load(mask)
        for name, written in files.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(written, to / name)
        listed.append(dict(zip(("image", "label"), files, strict=False)))
    if layout == "msd":
        modality = {str(place): channel for place, channel in enumerate(channels)}
        (to / "dataset.json").write_text(json.dumps({"modality": modality, "training": listed, "test": []}))
    return to
