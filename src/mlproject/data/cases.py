"""Finding the cases of a data set, whatever its layout."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from mlproject.data import dicom
from mlproject.data.case import Case, DataSettings, FaultsError, LayoutName, NoCasesError, SplitName
from mlproject.data.layouts import atlas, bids, demo, folders, isles2017, isles2022, msd, nnunet, table
from mlproject.data.tree import Tree, tree_of
from mlproject.errors import DataError, UserError

__all__ = [
    "Case",
    "DataSettings",
    "SplitName",
    "channels_in",
    "find_cases",
    "find_in",
    "fitting_layouts",
    "opened",
    "refuse_absent_channels",
]

logger = logging.getLogger(__name__)

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


def find_cases(settings: DataSettings, labelled: bool = True, cache: Path | None = None) -> list[Case]:
    """Find all cases under `settings.root`, sorted by name. No image is read, and none is fetched from a bucket.

    With `settings.missing` zero a channel may be missing in all cases, which is logged: a model that was trained with
    it can be used on them. Training calls `refuse_absent_channels`.

    Args:
        settings: where to look, and for which channels.
        labelled: every case needs a label; otherwise `Case.label` is None where there is none.
        cache: where copies from a bucket go (`fetching.fetch`); not used for a data set of this machine.

    Raises:
        FaultsError: files are missing or ambiguous: all at once, with the cases that are sound.
        DataError: the root is missing or holds no case; two cases have one name; a bucket refuses.
    """
    with opened(settings, cache) as tree:
        return find_in(tree, labelled)


@contextmanager
def opened(settings: DataSettings, cache: Path | None) -> Iterator[Tree]:
    """Within, a data set's tree of names is there. Raises DataError where none is given, or it does not exist."""
    if not settings.root:
        raise DataError("data.root is empty: give data.root=/path/to/the/data, or s3://BUCKET/PREFIX")
    with tree_of(settings, cache) as tree:
        if settings.layout != "demo" and not tree.root.exists():
            raise DataError(f"data.root={settings.where} does not exist: give the folder or file of your data set")
        yield tree


def find_in(tree: Tree, labelled: bool = True) -> list[Case]:
    """Find all cases of a tree; as `find_cases`."""
    settings, root = tree.settings, tree.root
    try:
        _check_root(settings.layout, root)
        found = LAYOUTS[settings.layout].find(settings, labelled)
    except FaultsError as error:
        sound = [_completed(tree, case) for case in error.sound]
        faults = [tree.told(fault) for fault in error.faults]
        raise FaultsError(tree.said(str(error)), faults, sorted(sound, key=lambda case: case.name)) from None
    except NoCasesError as error:
        raise NoCasesError(tree.said(f"{error}{_advice(settings, root)}")) from None
    except DataError as error:
        raise DataError(tree.said(str(error))) from None
    except OSError as error:
        text = f"{error.filename or root}: {error.strerror or error}. See data.root={root}"
        raise DataError(tree.said(text)) from error
    cases = sorted((_completed(tree, case) for case in found), key=lambda case: case.name)
    _refuse_equal_names(tree.said(str(root)), cases)
    for channel in _absent_channels(cases, settings.channels):
        logger.warning("%s: no case has the channel %s: do the files call it otherwise?", tree.said(str(root)), channel)
    return cases


def refuse_absent_channels(settings: DataSettings, cases: Sequence[Case]) -> None:
    """Raise DataError where no case has one of the channels: a network cannot learn what to make of it."""
    for channel in _absent_channels(cases, settings.channels):
        raise DataError(f"{settings.where}: no case has the channel {channel}: leave it out of data.channels")


def _absent_channels(cases: Sequence[Case], channels: Sequence[str]) -> list[str]:
    return [channel for channel in channels if cases and all(channel in case.missing for case in cases)]


def channels_in(layout: LayoutName, root: Path, label_name: str | None = None) -> dict[str, int]:
    """The channels that a layout finds below `root`, in how many cases each; empty where it does not fit.

    What `label_name` names is no channel.
    """
    try:
        _check_root(layout, root)
        channels: dict[str, int] = LAYOUTS[layout].channels(root, label_name)
    except (DataError, OSError):
        return {}
    return channels


def fitting_layouts(root: Path, label_name: str | None = None) -> list[LayoutName]:
    """The layouts that find images below `root`; first those in which the most cases are sound, with their labels."""
    sound: dict[LayoutName, int] = {
        layout: _sound_cases(layout, root, next(iter(channels)), label_name)
        for layout in LAYOUTS
        if layout != "demo" and (channels := channels_in(layout, root, label_name))
    }
    return sorted(sound, key=lambda layout: -sound[layout])


def _sound_cases(layout: LayoutName, root: Path, channel: str, label_name: str | None) -> int:
    """How many cases a layout finds whole, judged by one channel and the label."""
    try:
        settings = DataSettings(layout, str(root), (channel,), missing="zero", label_name=label_name)
        return len(LAYOUTS[layout].find(settings, True))
    except FaultsError as error:
        return len(error.sound)
    except (UserError, OSError):
        return 0


def _check_root(layout: LayoutName, root: Path) -> None:
    """Refuse a root that is DICOM, or is a file for a folder or a folder for a file."""
    if layout == "demo":
        return
    if root.is_file() and dicom.is_dicom(root):
        raise DataError(f"data.root={root} is DICOM: {dicom.ADVICE}")
    if layout == "table" and not root.is_file():
        raise NoCasesError(f"data.root={root} is a folder: data.layout=table needs a CSV file")
    if layout != "table" and not root.is_dir():
        raise NoCasesError(f"data.root={root} is a file: data.layout={layout} needs a folder")


def _advice(settings: DataSettings, root: Path) -> str:
    """What could be meant where a layout finds no case."""
    if root.is_dir() and dicom.is_dicom(root):
        return f". The folder holds DICOM: {dicom.ADVICE}"
    if others := [other for other in fitting_layouts(root, settings.label_name) if other != settings.layout]:
        return f". This {'folder' if root.is_dir() else 'file'} looks like data.layout={others[0]}"
    return ""


def _completed(tree: Tree, case: Case) -> Case:
    """The case with what the settings say of all cases, the channels that it lacks, and the places of its files."""
    settings = tree.settings
    missing = tuple(channel for channel in settings.channels if channel not in case.images)
    order = settings.channels if missing else ()
    return tree.located(replace(case, missing=missing, order=order, lesion_labels=settings.lesion_labels))


def _refuse_equal_names(root: str, cases: Sequence[Case]) -> None:
    several = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if several:
        raise DataError(
            f"{root}: several cases are called {', '.join(several)}: rename them, or give one of the folders in it as "
            "data.root"
        )
