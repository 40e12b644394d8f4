"""What the layouts share: image files of a folder, and exactly one of them for each channel."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlproject.data.case import DataSettings, Fault

SHOWN = 12  # files that a fault names
KEEP_ONE = "keep one of"
EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr")  # .hdr stands for its .img


def visible_images(files: Iterable[Path]) -> list[Path]:
    """The image files among `files`, sorted; no hidden ones: macOS leaves a ._NAME beside each NAME in its archives."""
    return sorted(
        file
        for file in files
        if not file.name.startswith(".") and file.name.lower().endswith(EXTENSIONS) and file.is_file()
    )


def stem_of(file: Path) -> str:
    """The file's name without its image extension."""
    return file.name[: -len(next(end for end in EXTENSIONS if file.name.lower().endswith(end)))]


def visible_folders(parent: Path, pattern: str = "*") -> list[Path]:
    """The folders of a folder, sorted, without hidden ones."""
    return sorted(path for path in parent.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def distinct_names(places: Iterable[Path]) -> dict[Path, str]:
    """The name of each place; of those called alike after the name of its folder: TRAINING_case_1, TESTING_case_1."""
    places = dict.fromkeys(places)
    counts = Counter(place.name for place in places)
    return {place: place.name if counts[place.name] == 1 else f"{place.parent.name}_{place.name}" for place in places}


def choose(
    case: str,
    found: dict[str, list[Path]],
    candidates: Sequence[Path],
    settings: DataSettings,
    advice: str = KEEP_ONE,
    if_missing: str = "",
) -> tuple[dict[str, Path], list[str]]:
    """Take the one file of each channel.

    Args:
        case: named in the faults.
        found: the files that match each channel, in the channels' order.
        candidates: what the case has, for the faults.
        settings: `missing` says whether a channel other than the first may have no file.
        advice: what to do where several files match.
        if_missing: what to do where a channel is missing.

    Returns:
        The file of each channel that has one, and a fault for each that has several, or none and needs one.
    """
    faults: list[str] = []
    for number, (channel, files) in enumerate(found.items()):
        if files or number == 0 or settings.missing == "refuse":
            faults += one_file_faults(case, channel, files, candidates, advice, if_missing)
    return {channel: files[0] for channel, files in found.items() if files}, faults


def one_file_faults(
    case: str,
    what: str,
    matches: Sequence[Path],
    candidates: Sequence[Path],
    advice: str = KEEP_ONE,
    if_missing: str = "",
) -> list[str]:
    """Say what is wrong unless exactly one file matches."""
    if len(matches) > 1:
        return [Fault(case, f"{len(matches)} files match {what}, {advice}: {_listed(list(map(str, matches)))}")]
    if not matches:
        found = _listed([file.name for file in candidates])
        return [Fault(case, f"{what} is missing; found {found or 'no file'}{if_missing}")]
    return []


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def count_names(names_of_cases: Iterable[Iterable[str]]) -> dict[str, int]:
    """In how many cases each channel name is, most first; upper and lower case are the same, shown as seen first."""
    shown: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for names in names_of_cases:
        folded = {name.casefold(): name for name in names}
        for key, name in folded.items():
            shown.setdefault(key, name)
        counts.update(folded.keys())
    return {shown[key]: count for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}
