"""What a data set holds: its layout and channels are found, every case is read, and no fault stops it."""

# mypy: allow-untyped-calls

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path

import torch

from mlproject import interrupts
from mlproject.data.case import Case, DataSettings, FaultsError
from mlproject.data.cases import channels_in, find_in, fitting_layouts, opened, refuse_absent_channels
from mlproject.data.description import CaseFacts, describe_case, read_grid
from mlproject.data.dicom import ADVICE, is_dicom
from mlproject.data.fetching import fetch
from mlproject.data.geometry import GRID_TOLERANCE_MM, largest_shift_mm
from mlproject.data.layouts.choosing import visible_images
from mlproject.data.tree import Tree
from mlproject.errors import DataError

MOST_PROCESSES = 8  # each holds one case: up to 1 GB for a brain of 1 mm with four channels
USUAL_CHANNEL = 0.8
"""A channel that this share of the cases has is proposed; fewer, and most of it would be zeros."""
REFERENCE_ORDER = ("dwi", "adc", "flair", "t1w", "t1")
LOOKED_AT = 5  # cases whose grids decide which channel is the reference
FILES_NAMED = 4  # where no layout fits


@dataclass(frozen=True)
class Found:
    """The cases of a data set before any image is read.

    Attributes:
        data: settings with layout and channels as given or guessed; missing is "zero".
        channels: every channel name that the layout knows here, in how many cases each.
        layouts: all layouts that fit, best first.
        cases: labelled and unlabelled ones, without those that have faults.
        faults: of the others, a line each: files missing or ambiguous.
    """

    data: DataSettings
    channels: dict[str, int]
    layouts: tuple[str, ...]
    cases: tuple[Case, ...]
    faults: tuple[str, ...]


def find(data: DataSettings, layout_given: bool, channels_given: bool, cache: Path | None = None) -> Found:
    """Find the cases; layout and channels are guessed from the files where they are not given.

    Of a bucket, the images of a few cases are fetched where the channels' order is guessed; `cache` is that of
    `find_cases`.

    Raises:
        DataError: there is no such folder, no layout fits, or it finds no case; no case has a given channel.
    """
    with opened(data, cache) as tree:
        return _find(tree, data, layout_given, channels_given)


def _find(tree: Tree, data: DataSettings, layout_given: bool, channels_given: bool) -> Found:
    root = tree.root
    layouts = fitting_layouts(root, data.label_name)
    if not layout_given:
        if not layouts:
            raise DataError(f"{data.where}: {tree.said(_no_layout(root, data.label_name))}")
        data = replace(data, layout=layouts[0])
    data = replace(data, missing="zero")
    channels = channels_in(data.layout, root, data.label_name)
    if not channels_given:
        data = replace(data, channels=_usual_channels(tree, channels, data))
    cases, faults = _cases(tree, data, labelled=True)
    known = {case.name for case in cases}
    others = _cases(tree, data, labelled=False)[0]
    unlabelled = [case for case in others if case.name not in known and case.label is None]
    refuse_absent_channels(data, [*cases, *unlabelled])
    return Found(data, channels, tuple(layouts), (*cases, *unlabelled), tuple(faults))


def _no_layout(root: Path, label_name: str | None) -> str:
    """What there is instead, and what of it could be given: a folder with most of the images, or a table."""
    if root.is_file():
        return "it is a file, and no table (CSV) with the column case and columns that name images; see docs/data.md"
    images = visible_images(root.rglob("*"))
    if not images and is_dicom(root):
        return f"holds DICOM: {ADVICE}"
    files = images or [file for file in islice(root.rglob("[!.]*"), FILES_NAMED) if file.is_file()]
    named = ", ".join(str(file.relative_to(root)) for file in files[:FILES_NAMED])
    found = f"found {named} ..." if files else "the folder holds no file"
    holding = Counter(folder for image in images for folder in image.parents if root in folder.parents)
    between = [folder for folder, count in holding.items() if 2 * count > len(images)]
    between.sort(key=lambda folder: len(folder.parts))
    fits = next((f"{below} ({names[0]})" for below in between if (names := fitting_layouts(below, label_name))), "")
    tables = ", ".join(str(file) for file in sorted(root.glob("*.csv")))
    return (
        f"no layout fits this data set; {found}."
        f"{f' One fits further down: data.root={fits}.' if fits else ''}"
        f"{f' If this is a table of the cases: data.root={tables}.' if tables else ''}"
        " docs/data.md shows what each layout expects; a table fits all"
    )


def _usual_channels(tree: Tree, channels: dict[str, int], data: DataSettings) -> tuple[str, ...]:
    """The channels that most cases have, first the one on whose grid the labels lie."""
    if not channels:
        return data.channels
    most = max(channels.values())
    usual = [name for name, count in channels.items() if count >= USUAL_CHANNEL * most]
    complete = [name for name in usual if channels[name] == most]
    ordered = sorted(complete, key=_usual_place) + sorted(set(usual) - set(complete), key=_usual_place)
    try:
        cases, _ = _cases(tree, replace(data, channels=tuple(ordered)), labelled=True)
    except DataError:
        return tuple(ordered)
    fetch(cases[:LOOKED_AT], data.copies_gb)
    fitting = Counter(name for case in cases[:LOOKED_AT] for name in complete if _label_is_on_grid_of(case, name))
    first = max(complete, key=lambda name: (fitting[name], -ordered.index(name)))
    return (first, *(name for name in ordered if name != first))


def _usual_place(name: str) -> tuple[int, str]:
    folded = name.casefold()
    return (REFERENCE_ORDER.index(folded) if folded in REFERENCE_ORDER else len(REFERENCE_ORDER), folded)


def _label_is_on_grid_of(case: Case, channel: str) -> bool:
    """Whether the headers of label and channel describe one grid; False where they cannot be read."""
    if case.label is None or channel not in case.images:
        return False
    try:
        (shape, affine), (label_shape, label_affine) = read_grid(case.images[channel]), read_grid(case.label)
    except Exception:  # the fault is told when the case is read
        return False
    return shape == label_shape and largest_shift_mm(shape, affine, label_affine) <= GRID_TOLERANCE_MM


def _cases(tree: Tree, data: DataSettings, labelled: bool) -> tuple[list[Case], Sequence[str]]:
    try:
        return find_in(replace(tree, settings=replace(data, root=tree.settings.root)), labelled), ()
    except FaultsError as error:
        return list(error.sound), error.faults


def describe_cases(cases: Sequence[Case], processes: int = 0) -> Iterator[CaseFacts]:
    """The facts of each case, in order; each process holds one case at a time.

    Args:
        cases: what to read.
        processes: 1 reads in this one; 0 is one a core, at most MOST_PROCESSES.

    Raises:
        DataError: a process died.
    """
    processes = min(processes or min(len(os.sched_getaffinity(0)), MOST_PROCESSES), len(cases))
    if processes <= 1:
        yield from map(describe_case, cases)
        return
    # Spawned: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_reader)
    try:
        yield from pool.map(describe_case, cases)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that read cases died, most often because the machine's memory is full: "
            f"give fewer than processes={processes}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_reader() -> None:
    """Signals are for the parent to act on, with which the process ends; one thread, as there is one a core."""
    interrupts.ignore()
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def duplicates(cases: Sequence[CaseFacts]) -> list[tuple[str, str]]:
    """Pairs of "CASE CHANNEL" that hold the same voxels on the same grid, each with the first of its kind."""
    first: dict[str, str] = {}
    pairs = []
    for case in cases:
        for name, channel in (case.channels or {}).items():
            what = f"{case.name} {name}"
            if first.setdefault(channel.digest, what) != what:
                pairs.append((first[channel.digest], what))
    return pairs
