"""ISLES 2022 (Hernandez Petzsche et al., Scientific Data 2022): both of the trees that it was published in.

sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz, dwi/..._adc.nii.gz, anat/..._FLAIR.nii.gz, or
rawdata/sub-X/ses-Y/sub-X_ses-Y_{dwi,adc,flair}.nii.gz; masks in derivatives/sub-X/ses-Y/..._msk.nii.gz.
"""

from collections import Counter
from collections.abc import Iterable
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

Session = tuple[str, str]  # names of the subject's and the session's folder


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a session; patient = subject. Suffixes in any case, .nii or .nii.gz.

    Raises:
        DataError: no case; or all channels and labels that are missing or found twice.
    """
    root = settings.root_path
    images = _images_by_session(root)
    masks = _files_by_session([root / "derivatives", *([root.parent / "derivatives"] * (root.name == "rawdata"))])
    masks = {session: files for session, files in masks.items() if files}
    if not images:
        raise NoCasesError(f"{root}: no case found. {_expected(settings.channels)}")

    sessions = sorted(images | masks)
    sessions_of_subject = Counter(subject for subject, _ in sessions)
    cases: list[Case] = []
    faults: list[str] = []
    for session in sessions:
        name = "_".join(session) if sessions_of_subject[session[0]] > 1 else session[0]
        candidates = images.get(session, [])
        found = {channel: _matching(candidates, channel) for channel in settings.channels}
        labels = _matching(masks.get(session, []), "msk")
        files, wrong = choose(name, found, candidates, settings)
        if labelled:
            wrong += one_file_faults(name, "label", labels, masks.get(session, []))
        faults += wrong
        if not wrong:
            cases.append(Case(name, files, labels[0] if len(labels) == 1 else None, patient=session[0]))
    refuse_faults(root, faults, _expected(settings.channels), cases)
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The suffixes of the images, in how many sessions each."""
    sessions = _images_by_session(root).values()
    return count_names([stem_of(file).rpartition("_")[2] for file in files if "_" in file.name] for files in sessions)


def _images_by_session(root: Path) -> dict[Session, list[Path]]:
    return _files_by_session([root, root / "rawdata"])


def _files_by_session(trees: Iterable[Path]) -> dict[Session, list[Path]]:
    """List the image files of every session, those in its folders dwi/ and anat/ too."""
    found: dict[Session, list[Path]] = {}
    for tree in trees:
        for subject in visible_folders(tree, "sub-*"):
            # A subject without a session is a case whose channels are missing, not one to pass over.
            for session in visible_folders(subject, "ses-*") or [subject / "ses-*"]:
                files = visible_images([*session.glob("*"), *session.glob("*/*")])
                found.setdefault((subject.name, session.name), []).extend(files)
    return found


def _matching(files: Iterable[Path], suffix: str) -> list[Path]:
    endings = (f"_{suffix.lower()}.nii", f"_{suffix.lower()}.nii.gz")
    return [file for file in files if file.name.lower().endswith(endings)]


def _expected(channels: tuple[str, ...]) -> str:
    suffixes = channels[0] if len(channels) == 1 else "{" + ",".join(channels) + "}"
    return (
        f"data.layout=isles2022 expects [rawdata/]sub-*/ses-*/[dwi/ or anat/]*_{suffixes}.nii[.gz] "
        "and derivatives/sub-*/ses-*/*_msk.nii[.gz]"
    )
