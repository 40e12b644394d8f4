"""What a laboratory without a standard has: a folder a case, or one folder of files CASE_channel.nii.gz.

    case-1/flair.nii.gz, case-1/T1.nii.gz, case-1/lesion_mask.nii.gz       or
    case-1_flair.nii.gz, case-1_T1.nii.gz, case-1_lesion_mask.nii.gz

A file's name is split into words at _ - . and blanks. The first word that is a channel says which channel it is:
T1_regto_FLAIR is T1, and T1POST is not T1. A file with the word label, mask, seg, lesion ... anywhere is the label.
"""

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from mlproject.data.case import Case, DataSettings, Fault, NoCasesError, refuse_faults
from mlproject.data.dicom import ADVICE, is_dicom
from mlproject.data.layouts.choosing import choose, count_names, stem_of, visible_folders, visible_images
from mlproject.data.layouts.labels import label_faults, names_lesion, pick_labels

logger = logging.getLogger(__name__)

LABEL_NAMES = (
    "label", "labels", "mask", "msk", "seg", "segmentation", "lesion", "lesions", "roi", "consensus", "manual",
    "annotation", "gold_standard", "ground_truth", "gt",
)  # fmt: skip
SEQUENCES = (
    "t1", "t1w", "t1c", "t1ce", "t1gd", "t1post", "mprage", "t2", "t2w", "t2star", "flair", "pd", "pdw", "dir", "swi",
    "swan", "gre", "dwi", "trace", "b0", "b1000", "adc", "fa", "md", "mtt", "ttp", "tmax", "cbf", "cbv", "rcbf", "rcbv",
    "ct", "ncct", "cta", "ctp",
)  # fmt: skip
"""Usual names of channels: a file is no other channel because another's name stands later in its own."""
SEPARATOR = "[-_. ]+"
NOT_LESION = ("brain", "brainmask", "bet")
EXPECTED = (
    "data.layout=folders expects a folder a case with files named by channel (case-1/flair.nii.gz, "
    "case-1/label.nii.gz), or files CASE_channel.nii.gz in one folder; the label's name has one of the words "
    f"{', '.join(LABEL_NAMES)}"
)


LABEL = "label"
"""Stands for the label where a file's name is read; no channel may have this name."""


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a folder, or one for each beginning CASE of the files' names; each its own patient.

    `settings.label_name`, one or several words, takes the place of the list of the label's names.

    Raises:
        DataError: no case; or all channels and labels that are missing or could be several files.
    """
    root, label_name = settings.root_path, settings.label_name
    files_of_cases = _files_of_cases(root, settings.channels, label_name)
    kinds = {
        case: {file: read_name(_without(case, file), settings.channels, label_name)[0] for file in files}
        for case, files in files_of_cases.items()
    }
    masks = {
        case: {file: _label_kind(case, file) for file, kind in kinds_of_case.items() if kind == LABEL}
        for case, kinds_of_case in kinds.items()
    }
    labels_of = pick_labels(masks) if label_name is None else {case: list(found) for case, found in masks.items()}
    cases: list[Case] = []
    faults = _folders_without_images(root, files_of_cases)
    for case, files in sorted(files_of_cases.items()):
        found = {c: [file for file in files if kinds[case][file] == c.casefold()] for c in settings.channels}
        images, wrong = choose(case, found, files, settings, "rename or move away all but one of")
        labels = labels_of[case]
        if labelled:
            wrong += label_faults(case, labels, list(masks[case]), files, label_name)
        faults += wrong
        if not wrong:
            label, label_kind = (labels[0], masks[case][labels[0]]) if len(labels) == 1 else (None, "")
            cases.append(Case(case, images, label, patient=case, label_kind=label_kind, patient_named=False))
    refuse_faults(root, faults, EXPECTED, cases)
    if not cases:
        raise NoCasesError(f"{root}: no case found. {EXPECTED}")
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The usual channel names in the files' names, else all that stands after the case's; in how many cases each."""
    names_of_cases: list[list[str]] = []
    any_known = False
    for case, files in _files_of_cases(root, (), label_name).items():
        names = {rest: read_name(rest, (), label_name)[0] for rest in (_without(case, file) for file in files)}
        any_known |= any(names.values())
        unknown = [rest for rest, kind in names.items() if kind is None and rest and not _is_of_a_mask(rest)]
        names_of_cases.append([*(kind for kind in names.values() if kind not in (None, LABEL)), *unknown])
    return count_names(names_of_cases) if any_known else {}


def read_name(stem: str, channels: Sequence[str], label_name: str | None) -> tuple[str | None, int]:
    """What a file is by its name.

    Args:
        stem: the name without its extension.
        channels: names that count beside SEQUENCES.
        label_name: what the label is called; None: by any of LABEL_NAMES, unless it is a mask of the brain.

    Returns:
        The channel in lower case, LABEL, or None; and where in the name the first known word begins (its end
        where there is none).
    """
    label_at = [at for name in ((label_name,) if label_name else LABEL_NAMES) if (at := _find(name, stem)) is not None]
    channel_at = {
        name: at
        for name in {*SEQUENCES, *(channel.casefold() for channel in channels)}
        if (at := _find(name, stem)) is not None
    }
    start = min([*label_at, *channel_at.values()], default=len(stem))
    if label_at:
        is_label = label_name or not _names_brain(stem) or "lesion" in stem.casefold()
        return (LABEL if is_label else None), start
    # Of dwi and dwi_b1000 the longer one is meant.
    first = [name for name, at in channel_at.items() if at == start]
    return max(first, key=len, default=None), start


def _find(name: str, stem: str) -> int | None:
    """Where the words of `name` stand in `stem`, one after another; upper and lower case are the same."""
    words = SEPARATOR.join(re.escape(word) for word in re.split(SEPARATOR, name))
    match = re.search(rf"(?:^|(?<={SEPARATOR[:-1]})){words}(?=$|{SEPARATOR})", stem, re.IGNORECASE)
    return match.start() if match else None


def _names_brain(stem: str) -> bool:
    return any(_find(word, stem) is not None for word in NOT_LESION)


def _is_of_a_mask(stem: str) -> bool:
    """Whether a file that is neither channel nor label by its name shows a brain's outline or lesions all the same."""
    return _names_brain(stem) or names_lesion(stem)


def _label_kind(case: str, file: Path) -> str:
    """What a label is called beside the case: words with a digit are taken for the name of a patient or a channel."""
    words = re.split(SEPARATOR, _without(case, file).casefold())
    return "_".join(word for word in words if not any(map(str.isdigit, word)))


def _files_of_cases(root: Path, channels: Sequence[str], label_name: str | None) -> dict[str, list[Path]]:
    """The image files of each case: of each folder in `root` that has any, else those in `root` that begin alike."""
    loose = visible_images(root.glob("*"))
    in_folders = {folder.name: visible_images(folder.glob("*")) for folder in _case_folders(root)}
    in_folders = {name: files for name, files in in_folders.items() if files}
    if in_folders:
        if loose:
            logger.warning("%d image files beside the cases' folders are not read", len(loose))
        return in_folders
    cases: dict[str, list[Path]] = {}
    for file in loose:
        stem = stem_of(file)
        case = stem[: read_name(stem, channels, label_name)[1]].rstrip("_-. ")
        cases.setdefault(case or root.name, []).append(file)
    return cases


def _case_folders(root: Path) -> list[Path]:
    """The folders that may be cases: `predict` writes below derivatives/, where it writes into `root` at all."""
    return [folder for folder in visible_folders(root) if folder.name != "derivatives"]


def _folders_without_images(root: Path, cases: Collection[str]) -> list[str]:
    """A fault for each folder beside the cases that holds no image itself, but holds images or DICOM deeper."""
    faults: list[str] = []
    for folder in _case_folders(root) if cases else []:
        if folder.name in cases:
            continue
        if deeper := next((file for file in folder.rglob("*") if visible_images([file])), None):
            where = deeper.relative_to(root)
            what = f"no image in this folder, but deeper: {where}; move it up, or the folder away"
            faults.append(Fault(folder.name, what))
        elif is_dicom(folder):
            faults.append(Fault(folder.name, f"is DICOM: {ADVICE}"))
    return faults


def _without(case: str, file: Path) -> str:
    """The stem of a case's file without the case's name, where that is its first words."""
    stem = stem_of(file)
    begins_with_case = re.match(re.escape(case) + SEPARATOR, stem, re.IGNORECASE)
    return stem[begins_with_case.end() :] if begins_with_case else stem
