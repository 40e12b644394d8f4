"""ATLAS R2.0 (Liew et al., Scientific Data 2022), chronic strokes in T1w: a BIDS tree with names of its own.

Training/R001/sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz, and beside it
..._space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz; Testing/ in the same way, without masks.
"""

from dataclasses import replace
from pathlib import Path

from mlproject.data.case import Case, DataSettings
from mlproject.data.layouts import bids

LABEL_NAME = "desc-T1lesion_mask"


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases as `bids.find` does; where labels are wanted, those in Training/ if the root has that folder.

    Raises:
        DataError: as `bids.find`.
    """
    training = settings.root_path / "Training"
    root = training if labelled and training.is_dir() else settings.root_path
    return bids.find(replace(settings, root=str(root), label_name=settings.label_name or LABEL_NAME), labelled)


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """As `bids.channels`, where the tree has a mask of ATLAS."""
    names = [file.name for files in bids.files_by_session(root).values() for file in files]
    return bids.channels(root, label_name or LABEL_NAME) if any(LABEL_NAME in name for name in names) else {}
