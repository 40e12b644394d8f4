"""ISLES 2022 (Hernandez Petzsche et al., Scientific Data 2022): both of the trees that it was published in.

sub-X/ses-Y/dwi/sub-X_ses-Y_dwi.nii.gz, dwi/..._adc.nii.gz, anat/..._FLAIR.nii.gz, or
rawdata/sub-X/ses-Y/sub-X_ses-Y_{dwi,adc,flair}.nii.gz; masks in derivatives/sub-X/ses-Y/..._msk.nii.gz.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mlproject.data.case import Case, DataSettings, refuse_faults
from mlproject.errors import DataError

Session = tuple[str, str]  # names of the subject's and the session's folder


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases: one a session; patient = subject. Suffixes in any case, .nii or .nii.gz.

    Raises:
        DataError: no case; or all channels and labels that are missing or found twice.
    """
    root = settings.root_path
    images = _files_by_session([root, root / "rawdata"])
    masks = _files_by_session([root / "derivatives", *([root.parent / "derivatives"] * (root.name == "rawdata"))])
    masks = {session: files for session, files in masks.items() if files}
    if not images:
        raise DataError(f"{root}: no case found. {_expected(settings.channels)}")

    sessions = sorted(images | masks)
    sessions_of_subject = Counter(subject for subject, _ in sessions)
    cases: list[Case] = []
    faults: list[str] = []
    for session in sessions:
        name = "_".join(session) if sessions_of_subject[session[0]] > 1 else session[0]
        candidates = images.get(session, [])
        found = {channel: _matching(candidates, channel) for channel in settings.channels}
        labels = _matching(masks.get(session, []), "msk")
        for what, files in found.items():
            faults += _faults(name, what, files, candidates)
        if labelled or labels:
            faults += _faults(name, "label", labels, masks.get(session, []))
        if not faults:
            files_of_channel = {channel: files[0] for channel, files in found.items()}
            cases.append(Case(name, files_of_channel, labels[0] if labels else None, patient=session[0]))
    refuse_faults(root, faults, _expected(settings.channels))
    return cases


def _files_by_session(trees: Iterable[Path]) -> dict[Session, list[Path]]:
    """List the files of every session, those in its folders dwi/ and anat/ too."""
    found: dict[Session, list[Path]] = {}
    for tree in trees:
        for subject in _folders(tree, "sub-*"):
            # A subject without a session is a case whose channels are missing, not one to pass over.
            for session in _folders(subject, "ses-*") or [subject / "ses-*"]:
                files = [*session.glob("*"), *session.glob("*/*")]
                # Hidden files: macOS leaves a ._NAME beside each NAME in its archives.
                visible = [file for file in files if file.is_file() and not file.name.startswith(".")]
                found.setdefault((subject.name, session.name), []).extend(sorted(visible))
    return found


def _folders(parent: Path, pattern: str) -> list[Path]:
    return [path for path in parent.glob(pattern) if path.is_dir()]


def _matching(files: Iterable[Path], suffix: str) -> list[Path]:
    endings = (f"_{suffix.lower()}.nii", f"_{suffix.lower()}.nii.gz")
    return [file for file in files if file.name.lower().endswith(endings)]


def _faults(case: str, what: str, matches: list[Path], candidates: list[Path]) -> list[str]:
    """Say what is wrong unless exactly one file matches."""
    if len(matches) > 1:
        return [f"{case}: {len(matches)} files match {what}, keep one of: {', '.join(map(str, matches))}"]
    if not matches:
        names = ", ".join(file.name for file in candidates) or "no file"
        return [f"{case}: {what} is missing; found {names}"]
    return []


def _expected(channels: tuple[str, ...]) -> str:
    suffixes = channels[0] if len(channels) == 1 else "{" + ",".join(channels) + "}"
    return (
        f"data.layout=isles2022 expects [rawdata/]sub-*/ses-*/[dwi/ or anat/]*_{suffixes}.nii[.gz] "
        "and derivatives/sub-*/ses-*/*_msk.nii[.gz]"
    )
