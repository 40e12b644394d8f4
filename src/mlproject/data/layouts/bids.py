"""BIDS, the Brain Imaging Data Structure (Gorgolewski et al., Scientific Data 2016): raw data and derivatives.

sub-X/[ses-Y/][anat|dwi|perf .../]sub-X_[ses-Y_]ENTITIES_SUFFIX.nii.gz below the root, rawdata/, derivatives/PIPELINE/
or any other folder. A channel is named by its suffix (T1w, FLAIR, dwi), with such entities before it as tell it from
others (desc-brain_T1w, acq-tra_FLAIR). Labels have the suffix mask, dseg, msk or roi, or one with lesion in it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlproject.data.case import Case, DataSettings, Fault, NoCasesError, refuse_faults
from mlproject.data.dicom import ADVICE, is_dicom
from mlproject.data.layouts.bids_names import (
    LABEL_SUFFIXES,
    channel_files,
    is_mask,
    is_of_brain_or_tissue,
    is_other_contrast,
    kind,
    matching,
    parts,
    space,
)
from mlproject.data.layouts.choosing import choose, count_names, visible_folders, visible_images
from mlproject.data.layouts.labels import label_faults, pick_labels

DEPTH = 3  # folders between the root and sub-*
NO_CHANNEL = ("probseg",)
"""Suffixes of what derivatives say about lesions or tissue: found where asked for, never proposed as a channel."""
EXPECTED = (
    "expects sub-*/[ses-*/][anat, dwi, ... /]sub-*_SUFFIX.nii[.gz] for each channel, and for the label "
    f"a suffix of {', '.join(LABEL_SUFFIXES)}, as derivatives/NAME/sub-*/.../sub-*_label-lesion_mask.nii[.gz]"
)

NAME_MORE = "write more of its name into data.channels, as desc-brain_T1w, to mean one of"
NAME_CONTRAST = "; another contrast is taken only where data.channels names it whole, as ce-gd_T1w"

Session = tuple[str, str]  # sub-X, and ses-Y or ""


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a session; patient = subject. Raw data and derivatives of a session belong together.

    A channel's file is the one that has its parts and no other entity, else the only one that has its parts among
    others, but for another contrast (ce-gd_T1w is no T1w). The label is the mask that is none of brain or tissue and
    the same thing in all cases (`pick_labels`); of several, the one in the same space-* as the first channel; or the
    file that `settings.label_name` names as a channel is named.

    Raises:
        DataError: no case; or all channels and labels that are missing or could be several files, and all subjects
            without an image.
    """
    root, label_name = settings.root_path, settings.label_name
    folders = _folders_of_sessions(root)
    sessions = {session: files for session, files in files_by_session(root).items() if files}
    if not sessions:
        raise NoCasesError(f"{root}: no case found. data.layout={settings.layout} {EXPECTED}")
    sessions_of_subject = Counter(subject for subject, _ in sessions)
    labels_of = _labels(sessions, label_name)
    cases: list[Case] = []
    faults = _folders_without_images(folders, sessions)
    for (subject, session), files in sorted(sessions.items()):
        name = f"{subject}_{session}" if sessions_of_subject[subject] > 1 else subject
        pictures = [file for file in files if not is_mask(file, label_name)]
        found = {channel: channel_files(pictures, channel) for channel in settings.channels}
        if_missing = NAME_CONTRAST if any(map(is_other_contrast, pictures)) else ""
        images, wrong = choose(name, found, pictures, settings, NAME_MORE, if_missing)
        labels = _in_space_of(images.get(settings.channels[0]), labels_of[subject, session])
        if labelled:
            wrong += label_faults(name, labels, [file for file in files if is_mask(file)], files, label_name)
        faults += wrong
        if not wrong:
            label, label_kind = (labels[0], kind(labels[0])) if len(labels) == 1 else (None, "")
            cases.append(Case(name, images, label, patient=subject, label_kind=label_kind))
    refuse_faults(root, faults, f"data.layout={settings.layout} {EXPECTED}", cases)
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The images' suffixes, or all parts of the name where a suffix is not enough, in how many sessions each."""
    return count_names(_names(files, label_name) for files in files_by_session(root).values())


def _names(files: Sequence[Path], label_name: str | None) -> list[str]:
    pictures = [file for file in files if not is_mask(file, label_name)]
    names = []
    for file in pictures:
        suffix = parts(file)[-1]
        if suffix.casefold() not in NO_CHANNEL:
            names.append(suffix if channel_files(pictures, suffix) == [file] else "_".join(parts(file)))
    return names


def files_by_session(root: Path) -> dict[Session, list[Path]]:
    """The image files of each session, wherever below the root its subject has a folder."""
    return {
        (subject, session): [f for folder in folders for f in _images(folder) if f.name.startswith(f"{subject}_")]
        for (subject, session), folders in _folders_of_sessions(root).items()
    }


def _folders_of_sessions(root: Path) -> dict[Session, list[Path]]:
    found: dict[Session, list[Path]] = {}
    for subject in _subjects(root, DEPTH):
        for session in visible_folders(subject, "ses-*") or [subject]:
            found.setdefault((subject.name, "" if session == subject else session.name), []).append(session)
    return found


def _subjects(folder: Path, depth: int) -> list[Path]:
    subjects = []
    for child in visible_folders(folder):
        if child.name.startswith("sub-"):
            subjects.append(child)
        elif depth:
            subjects += _subjects(child, depth - 1)
    return subjects


def _images(folder: Path) -> list[Path]:
    return visible_images([*folder.glob("*"), *folder.glob("*/*")])


def _folders_without_images(folders: Mapping[Session, list[Path]], sessions: Mapping[Session, list[Path]]) -> list[str]:
    """A fault for each subject without an image, and for each session whose images cannot be used."""
    seen = {subject for subject, _ in sessions}
    faults: list[str] = []
    for (subject, session), places in sorted(folders.items()):
        # A pipeline may keep no sessions: then its folder of the subject belongs to no session, and is no case.
        if (subject, session) in sessions or (not session and subject in seen):
            continue
        name = f"{subject}_{session}" if session else subject
        if unnamed := [file for place in places for file in _images(place)]:
            faults.append(Fault(name, f"the names of its images must begin with {subject}_; found {unnamed[0]}"))
        elif any(is_dicom(place) for place in places):
            faults.append(Fault(name, f"is DICOM: {ADVICE}"))
        elif subject not in seen:
            faults.append(Fault(name, f"no image in {places[0]}; move the folder away if that is right"))
    return faults


def _labels(sessions: Mapping[Session, Sequence[Path]], label_name: str | None) -> dict[Session, list[Path]]:
    """The files of each session that could be its label."""
    if label_name is not None:
        return {session: matching(files, label_name) for session, files in sessions.items()}
    return pick_labels(
        {
            session: {file: kind(file) for file in files if is_mask(file) and not is_of_brain_or_tissue(file)}
            for session, files in sessions.items()
        }
    )


def _in_space_of(reference: Path | None, labels: Sequence[Path]) -> Sequence[Path]:
    """Of several labels those in the same space-* as the reference channel."""
    if reference is None or len(labels) < 2:
        return labels
    return [file for file in labels if space(file) == space(reference)] or labels
