"""What the names of BIDS files say: entities, suffix, whether the file is a mask, and which channel's name it fits."""

from collections.abc import Sequence
from pathlib import Path

from mlproject.data.layouts.choosing import stem_of
from mlproject.data.layouts.labels import names_lesion

LABEL_SUFFIXES = ("mask", "dseg", "msk", "roi")
TISSUE_SUFFIXES = ("dseg",)
"""What segmentations of the whole brain have (fMRIPrep's sub-X_dseg): a label only with a lesion word."""
NOT_LESION = (
    "desc-brain", "desc-brainmask", "desc-ribbon", "desc-aseg", "desc-aparcaseg", "desc-head", "label-brain",
    "label-gm", "label-wm", "label-csf",
)  # fmt: skip
OTHER_CONTRAST = ("ce-", "part-", "inv-", "mod-", "rec-")
"""Entities that make an image another channel: never matched unless the channel's name has them."""
OF_THE_SCAN = ("acq-", "rec-", "run-", "space-", "res-")
"""Entities that say which scan a mask was drawn on, not what it shows."""


def parts(file: Path) -> list[str]:
    """The entities of a file's name but for subject and session, then its suffix."""
    return [part for part in stem_of(file).split("_") if not part.startswith(("sub-", "ses-"))]


def matching(files: Sequence[Path], name: str) -> list[Path]:
    """The file that has exactly the parts of `name`, else all that have them and the same suffix."""
    *entities, suffix = name.casefold().split("_")
    same_suffix = [file for file in files if parts(file) and parts(file)[-1].casefold() == suffix]
    exact = [file for file in same_suffix if _folded(file) == {*entities, suffix}]
    return exact or [file for file in same_suffix if _folded(file) >= {*entities, suffix}]


def channel_files(pictures: Sequence[Path], channel: str) -> list[Path]:
    """The files that could be a channel: those that match, but for other contrasts than the channel's name says."""
    asked = set(channel.casefold().split("_"))
    return [
        file
        for file in matching(pictures, channel)
        if not any(part.startswith(OTHER_CONTRAST) for part in _folded(file) - asked)
    ]


def is_other_contrast(file: Path) -> bool:
    """Whether a channel must name this file whole."""
    return any(part.startswith(OTHER_CONTRAST) for part in _folded(file))


def is_mask(file: Path, label_name: str | None = None) -> bool:
    """Whether a file is a mask by its suffix, or is called `label_name`, and so no channel."""
    suffix = parts(file)[-1].casefold() if parts(file) else ""
    is_named = label_name is not None and bool(matching([file], label_name))
    return is_named or not suffix or suffix in LABEL_SUFFIXES or names_lesion(suffix)


def is_of_brain_or_tissue(mask: Path) -> bool:
    """Whether a mask shows anatomy, by its name."""
    is_tissue = not _folded(mask).isdisjoint(TISSUE_SUFFIXES) and not names_lesion(kind(mask))
    return is_tissue or not _folded(mask).isdisjoint(NOT_LESION)


def kind(mask: Path) -> str:
    """What a mask shows: entities and suffix in lower case, without those that say on which scan it was drawn."""
    return "_".join(part for part in map(str.casefold, parts(mask)) if not part.startswith(OF_THE_SCAN))


def space(file: Path) -> set[str]:
    """The space-* of a file, if it has one."""
    return {part for part in _folded(file) if part.startswith("space-")}


def _folded(file: Path) -> set[str]:
    return {part.casefold() for part in parts(file)}
