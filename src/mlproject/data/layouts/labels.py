"""Which masks of a data set are its labels: the same thing in every case, never just what is left in one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mlproject.data.layouts.choosing import one_file_faults

Key = TypeVar("Key")

LESION_WORDS = ("lesion", "stroke", "infarct")


def names_lesion(name: str) -> bool:
    """Whether a name, or a part of one, says that it is about lesions."""
    return any(word in name.casefold() for word in LESION_WORDS)


def pick_labels(masks: Mapping[Key, Mapping[Path, str]]) -> dict[Key, list[Path]]:
    """Of each case's masks those that can be its label.

    Where the name of any mask of the data set has a lesion word, only such are labels. Otherwise a case's only mask
    must be called what most cases' masks are called: a lone mask of another kind, as wm_mask, is no label.

    Args:
        masks: of each case, each file with its kind: what it is called beside the case's name.
    """
    if any(names_lesion(kind) for kinds in masks.values() for kind in kinds.values()):
        return {case: [file for file in kinds if names_lesion(kinds[file])] for case, kinds in masks.items()}
    counts = Counter(kind for kinds in masks.values() for kind in set(kinds.values()))
    usual = max(counts, key=lambda kind: counts[kind], default="")
    return {
        case: list(kinds) if len(set(kinds.values())) > 1 or usual in kinds.values() else []
        for case, kinds in masks.items()
    }


def label_faults(
    case: str, labels: Sequence[Path], masks: Sequence[Path], files: Sequence[Path], label_name: str | None
) -> list[str]:
    """Say what is wrong unless a case has exactly one label.

    Args:
        case: named in the fault.
        labels: the files that can be the label.
        masks: those that look like a mask, named where `labels` is empty.
        files: all image files of the case, named where there is no mask, or none is called `label_name`.
        label_name: the setting.
    """
    if label_name is not None:
        candidates, if_missing = files, f"; none is called {label_name}, as data.label_name says"
    elif masks:
        candidates, if_missing = masks, "; if one of these is the label, name it with data.label_name"
    else:
        candidates, if_missing = files, ""
    several = "say which by more of its name, as data.label_name=label-lesion_mask or consensus"
    return one_file_faults(case, "label", labels, candidates, several, if_missing)
