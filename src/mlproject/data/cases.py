"""Finding the cases of a data set, whatever its layout."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from mlproject.data import dicom
from mlproject.data.case import Case, DataSettings, FaultsError, LayoutName, NoCasesError, SplitName
from mlproject.data.layouts import atlas, bids, demo, folders, isles2017, isles2022, msd, nnunet, table
from mlproject.errors import DataError

__all__ = ["Case", "DataSettings", "SplitName", "channels_in", "find_cases", "fitting_layouts"]

# Those that ask more of a tree come first: a tree that fits them is no chance.
LAYOUTS: dict[LayoutName, ModuleType] = {
    "demo": demo,
    "table": table,
    "isles2017": isles2017,
    "atlas": atlas,
    "isles2022": isles2022,
    "nnunet": nnunet,
    "msd": msd,
    "bids": bids,
    "folders": folders,
}


def find_cases(settings: DataSettings, labelled: bool = True) -> list[Case]:
    """Find all cases under `settings.root`, sorted by name. No image is read.

    Args:
        settings: where to look, and for which channels.
        labelled: every case needs a label; otherwise `Case.label` is None where there is none.

    Raises:
        FaultsError: files are missing or ambiguous: all at once, with the cases that are sound.
        DataError: the root is missing or holds no case; a channel is missing in all cases; two cases have one name.
    """
    if not settings.root:
        raise DataError("data.root is empty: give data.root=/path/to/the/data")
    root = settings.root_path
    try:
        _check_root(settings.layout, root)
        found = LAYOUTS[settings.layout].find(settings, labelled)
    except FaultsError as error:
        sound = [_completed(case, settings) for case in error.sound]
        raise FaultsError(str(error), error.faults, sorted(sound, key=lambda case: case.name)) from None
    except NoCasesError as error:
        raise NoCasesError(f"{error}{_advice(settings.layout, root)}") from None
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}. See data.root={root}") from error
    cases = sorted((_completed(case, settings) for case in found), key=lambda case: case.name)
    _refuse_equal_names(root, cases)
    for channel in settings.channels:
        if all(channel in case.missing for case in cases):
            raise DataError(f"{root}: no case has the channel {channel}: leave it out of data.channels")
    return cases


def channels_in(layout: LayoutName, root: Path) -> dict[str, int]:
    """The channels that a layout finds below `root`, in how many cases each; empty where it does not fit."""
    try:
        _check_root(layout, root)
        channels: dict[str, int] = LAYOUTS[layout].channels(root)
    except (DataError, OSError):
        return {}
    return channels


def fitting_layouts(root: Path) -> list[LayoutName]:
    """The layouts that find images below `root`; first those that find a label for every case, too."""
    fitting = [layout for layout in LAYOUTS if layout != "demo" and channels_in(layout, root)]
    return sorted(fitting, key=lambda layout: not _opens(layout, root))


def _opens(layout: LayoutName, root: Path) -> bool:
    channel = next(iter(channels_in(layout, root)))
    try:
        cases = LAYOUTS[layout].find(DataSettings(layout, str(root), (channel,), missing="zero"), True)
    except (DataError, OSError):
        return False
    return bool(cases)


def _check_root(layout: LayoutName, root: Path) -> None:
    """Refuse a root that is missing, is DICOM, or is a file for a folder or a folder for a file."""
    if layout == "demo":
        return
    if not root.exists():
        raise DataError(f"data.root={root} does not exist: give the folder or file of your data set")
    if root.is_file() and dicom.is_dicom(root):
        raise DataError(f"data.root={root} is DICOM: {dicom.ADVICE}")
    if layout == "table" and not root.is_file():
        raise NoCasesError(f"data.root={root} is a folder: data.layout=table needs a CSV file")
    if layout != "table" and not root.is_dir():
        raise NoCasesError(f"data.root={root} is a file: data.layout={layout} needs a folder")


def _advice(layout: LayoutName, root: Path) -> str:
    """What could be meant where a layout finds no case."""
    if root.is_dir() and dicom.is_dicom(root):
        return f". The folder holds DICOM: {dicom.ADVICE}"
    if others := [other for other in fitting_layouts(root) if other != layout]:
        return f". This {'folder' if root.is_dir() else 'file'} looks like data.layout={others[0]}"
    return ""


def _completed(case: Case, settings: DataSettings) -> Case:
    """The case with what the settings say of all cases, and the channels that it lacks."""
    missing = tuple(channel for channel in settings.channels if channel not in case.images)
    order = settings.channels if missing else ()
    return replace(case, missing=missing, order=order, lesion_labels=settings.lesion_labels)


def _refuse_equal_names(root: Path, cases: Sequence[Case]) -> None:
    several = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if several:
        raise DataError(
            f"{root}: several cases are called {', '.join(several)}: give one of the folders in it as data.root"
        )
