"""BIDS, the Brain Imaging Data Structure (Gorgolewski et al., Scientific Data 2016): raw data and derivatives.

sub-X/[ses-Y/][anat|dwi|perf .../]sub-X_[ses-Y_]ENTITIES_SUFFIX.nii.gz below the root, rawdata/, derivatives/PIPELINE/
or any other folder. A channel is named by its suffix (T1w, FLAIR, dwi), with such entities before it as tell it from
others (desc-brain_T1w, acq-tra_FLAIR). Labels have the suffix mask, dseg, msk or roi.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mlproject.data.case import Case, DataSettings, NoCasesError, refuse_faults
from mlproject.data.layouts.choosing import (
    choose,
    count_names,
    one_file_faults,
    stem_of,
    visible_folders,
    visible_images,
)

DEPTH = 3  # folders between the root and sub-*
LABEL_SUFFIXES = ("mask", "dseg", "msk", "roi")
NOT_LESION = ("desc-brain", "desc-brainmask", "label-brain", "label-gm", "label-wm", "label-csf")
LESION_WORDS = ("lesion", "stroke", "infarct")
EXPECTED = (
    "expects sub-*/[ses-*/][anat, dwi, ... /]sub-*_SUFFIX.nii[.gz] for each channel, and for the label "
    f"a suffix of {', '.join(LABEL_SUFFIXES)}, as derivatives/NAME/sub-*/.../sub-*_label-lesion_mask.nii[.gz]"
)

NAME_MORE = "write more of its name into data.channels, as desc-brain_T1w, to mean one of"

Session = tuple[str, str]  # sub-X, and ses-Y or ""


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a session; patient = subject. Raw data and derivatives of a session belong together.

    A channel's file is the one that has its parts and no other entity, else the only one that has its parts among
    others. The label is the only mask, but for masks of brain and tissue; of several, the one with lesion, stroke
    or infarct in its name; of these the one in the same space-* as the first channel; or the one that
    `settings.label_name` names as a channel is named.

    Raises:
        DataError: no case; or all channels and labels that are missing or could be several files.
    """
    root = settings.root_path
    sessions = {session: files for session, files in files_by_session(root).items() if files}
    if not sessions:
        raise NoCasesError(f"{root}: no case found. data.layout={settings.layout} {EXPECTED}")
    sessions_of_subject = Counter(subject for subject, _ in sessions)
    cases: list[Case] = []
    faults: list[str] = []
    for (subject, session), files in sorted(sessions.items()):
        name = f"{subject}_{session}" if sessions_of_subject[subject] > 1 else subject
        pictures = [file for file in files if not _is_label(file)]
        found = {channel: _matching(pictures, channel) for channel in settings.channels}
        images, wrong = choose(name, found, pictures, settings, NAME_MORE)
        labels = _labels(files, images.get(settings.channels[0]), settings.label_name)
        if labelled or labels:
            masks = [file for file in files if _is_label(file)]
            wrong += one_file_faults(name, "label", labels, masks, "name one with data.label_name, as desc-lesion_mask")
        faults += wrong
        if not wrong:
            cases.append(Case(name, images, labels[0] if labels else None, patient=subject))
    refuse_faults(root, faults, f"data.layout={settings.layout} {EXPECTED}", cases)
    return cases


def channels(root: Path) -> dict[str, int]:
    """The images' suffixes, or all parts of the name where a suffix is not enough, in how many sessions each."""
    return count_names(_names(files) for files in files_by_session(root).values())


def _names(files: Sequence[Path]) -> list[str]:
    pictures = [file for file in files if not _is_label(file)]
    names = []
    for file in pictures:
        suffix = _parts(file)[-1]
        names.append(suffix if _matching(pictures, suffix) == [file] else "_".join(_parts(file)))
    return names


def files_by_session(root: Path) -> dict[Session, list[Path]]:
    """The image files of each session, wherever below the root its subject has a folder."""
    found: dict[Session, list[Path]] = {}
    for subject in _subjects(root, DEPTH):
        for session in visible_folders(subject, "ses-*") or [subject]:
            files = visible_images([*session.glob("*"), *session.glob("*/*")])
            named = [file for file in files if file.name.startswith(f"{subject.name}_")]
            key = (subject.name, "" if session == subject else session.name)
            found.setdefault(key, []).extend(named)
    return found


def _subjects(folder: Path, depth: int) -> list[Path]:
    subjects = []
    for child in visible_folders(folder):
        if child.name.startswith("sub-"):
            subjects.append(child)
        elif depth:
            subjects += _subjects(child, depth - 1)
    return subjects


def _parts(file: Path) -> list[str]:
    """The entities of a file's name but for subject and session, then its suffix."""
    return [part for part in stem_of(file).split("_") if not part.startswith(("sub-", "ses-"))]


def _folded(parts: Sequence[str]) -> set[str]:
    return {part.casefold() for part in parts}


def _matching(files: Sequence[Path], name: str) -> list[Path]:
    """The file that has exactly the parts of `name`, else all that have them and the same suffix."""
    *entities, suffix = name.casefold().split("_")
    same_suffix = [file for file in files if _parts(file) and _parts(file)[-1].casefold() == suffix]
    exact = [file for file in same_suffix if _folded(_parts(file)) == {*entities, suffix}]
    return exact or [file for file in same_suffix if _folded(_parts(file)) >= {*entities, suffix}]


def _is_label(file: Path) -> bool:
    return not _parts(file) or _parts(file)[-1].casefold() in LABEL_SUFFIXES


def _labels(files: Sequence[Path], reference: Path | None, label_name: str | None) -> list[Path]:
    """The files that could be the label."""
    masks = [file for file in files if _is_label(file)]
    if label_name is not None:
        found = _matching(masks, label_name)
    else:
        found = [file for file in masks if not _folded(_parts(file)) & set(NOT_LESION)]
        found = [
            file for file in found if any(word in "_".join(_parts(file)).lower() for word in LESION_WORDS)
        ] or found
    if reference is not None and len(found) > 1:
        found = [file for file in found if _space(file) == _space(reference)] or found
    return found


def _space(file: Path) -> set[str]:
    return {part for part in _folded(_parts(file)) if part.startswith("space-")}
