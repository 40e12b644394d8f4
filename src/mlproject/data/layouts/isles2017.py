"""ISLES 2017 (Winzeck et al., Frontiers in Neurology 2018), as the SICAS archive (first VSD, then SMIR) gave it out.

training/training_1/VSD.Brain.XX.O.MR_ADC.128020/VSD.Brain.XX.O.MR_ADC.128020.nii and in the same way MR_MTT,
MR_rCBF, MR_rCBV, MR_Tmax, MR_TTP, and OT, the label (0 and 1); MR_4DPWI, the raw perfusion series, is passed over.
Some names begin with SMIR. The challenges of 2015, 2016 and 2018 name their files in the same way.
"""

import logging
import re
from pathlib import Path

from mlproject.data.case import Case, DataSettings, NoCasesError, refuse_faults
from mlproject.data.layouts.choosing import (
    choose,
    count_names,
    distinct_names,
    one_file_faults,
    stem_of,
    visible_folders,
    visible_images,
)

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?:VSD|SMIR)\.Brain\w*\.\w+\.\w+\.(?:MR_|CT_)?(\w+)\.(\d+)", re.IGNORECASE)
LABEL, SERIES = "ot", "4dpwi"
TEST = re.compile("(?<![a-z])test(ing)?(?![a-z])", re.IGNORECASE)  # ISLES2017_Testing and test_1, not latest
EXPECTED = (
    "data.layout=isles2017 expects [training/]training_*/VSD.Brain.XX.O.MR_ADC.ID/VSD.Brain.XX.O.MR_ADC.ID.nii and so "
    "on (VSD or SMIR), and VSD.Brain.XX.O.OT.ID for the label"
)


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a folder, each a patient of its own; `root` holds the cases, or folders of cases.

    Where two folders are called alike (TRAINING/case_1, TESTING/case_1), their cases are TRAINING_case_1 and
    TESTING_case_1. Where labels are wanted, test cases without a label are passed over: those with the word test or
    testing in the name of their folder, or of the one above if that is not `root`. `Case.submission` is SMIR.CASE.ID
    with the ID of the case's MTT: the challenge took files named SMIR.TEXT.ID.nii, where TEXT is free and the MTT's
    ID says which case it is.

    Raises:
        DataError: no case; or all channels and labels that are missing or found twice.
    """
    root = settings.root_path
    cases: list[Case] = []
    faults: list[str] = []
    passed_over = []
    files_of_cases = _files_of_cases(root)
    names = distinct_names(files_of_cases)
    for folder, files in files_of_cases.items():
        name = names[folder]
        found = {channel: _matching(files, channel) for channel in settings.channels}
        labels = _matching(files, LABEL)
        above = folder.parent.name if folder.parent != root else ""
        if labelled and not labels and (TEST.search(folder.name) or TEST.search(above)):
            passed_over.append(name)
            continue
        images, wrong = choose(name, found, files, settings)
        if labelled:
            wrong += one_file_faults(name, "label (OT)", labels, files)
        faults += wrong
        if not wrong:
            label = labels[0] if len(labels) == 1 else None
            mtt = _matching(files, "mtt")
            submission = f"SMIR.{folder.name}.{_parse(mtt[0])[1]}" if len(mtt) == 1 else ""
            how_many = f"there are {len(mtt)}" if mtt else "there is none"
            fault = "" if submission else f"the challenge names a mask after its case's MTT image, and {how_many}"
            cases.append(
                Case(name, images, label, name, submission=submission, no_submission=fault, patient_named=False)
            )
    refuse_faults(root, faults, EXPECTED, cases)
    if not cases:
        unlabelled = f" ({len(passed_over)} test cases have no label)" if passed_over else ""
        raise NoCasesError(f"{root}: no case found{unlabelled}. {EXPECTED}")
    if passed_over:
        logger.info("%d test cases without a label are passed over", len(passed_over))
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The modalities of the cases, without MR_ and the raw series, in how many cases each."""
    return count_names(
        [_parse(f)[0] for f in files if not _matching([f], LABEL)] for files in _files_of_cases(root).values()
    )


def _files_of_cases(root: Path) -> dict[Path, list[Path]]:
    """The files of each case's folder whose names are the challenge's, but for the raw series."""
    found: dict[Path, list[Path]] = {}
    for parent in (root, *visible_folders(root)):
        for folder in visible_folders(parent):
            files = [file for file in visible_images(folder.glob("*/*")) if _parse(file)[0]]
            if files:
                found[folder] = [file for file in files if _parse(file)[0].lower() != SERIES]
    return found


def _parse(file: Path) -> tuple[str, str]:
    """Modality and ID of a file; empty where its name is none of the challenge's."""
    match = NAME.fullmatch(stem_of(file))
    return (match[1], match[2]) if match else ("", "")


def _matching(files: list[Path], modality: str) -> list[Path]:
    return [file for file in files if _parse(file)[0].lower() == modality.lower()]
