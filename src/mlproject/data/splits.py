"""Splits into train, validation and test, or folds: by patient, stratified by lesion volume, or given."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, get_args

import numpy as np

from mlproject.data.case import Case, DataSettings, SplitName, refuse_faults
from mlproject.data.layouts.table import read_rows
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

PARTS: tuple[SplitName, ...] = get_args(SplitName)
Parts = dict[str, set[SplitName]]  # of each case, by its name


@dataclass(frozen=True)
class Split:
    """The names of the cases in each part, in the order of the data set."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same cases under other names, in the same order."""
        return type(self)(*(tuple(names[name] for name in getattr(self, part)) for part in PARTS))

    def to_rows(self) -> list[tuple[str, SplitName]]:
        """Give (case, part) rows, the parts in order: what a split_file holds."""
        return [(name, part) for part in PARTS for name in getattr(self, part)]


def make_split(cases: Sequence[Case], lesion_ml: Mapping[str, float], settings: DataSettings) -> Split:
    """Split the cases: as `settings.split_file` says, else as the cases themselves say, else by the shares.

    Args:
        cases: all cases of the data set.
        lesion_ml: lesion volume of each case in ml, NaN where there is no label.
        settings: split_file, or the shares, the folds and the seed.

    Raises:
        DataError: a given split is incomplete or divides a patient; a part is empty; train or validation has
            no lesion.
    """
    if settings.split_file is not None:
        parts = _read_split_file(Path(settings.split_file).expanduser().absolute(), cases)
        advice = "change data.split_file"
    elif any(case.split for case in cases) and not settings.folds:
        parts = {case.name: {case.split} if case.split else set() for case in cases}
        advice = "change the column split"
        if unassigned := [name for name, assigned in parts.items() if not assigned]:
            raise DataError(f"no split for {', '.join(unassigned)}: give each case one, or none to any")
    else:
        parts = _stratified(cases, lesion_ml, settings)
        advice = "give more cases, larger data.validation_share and data.test_share, or a data.split_file"
    _refuse_divided_patients(cases, parts, settings.where)
    ordered = sorted(cases, key=lambda case: case.own_name or case.name)
    split = Split(*(tuple(case.name for case in ordered if part in parts[case.name]) for part in PARTS))
    _check_lesions(split, lesion_ml, advice)
    return split


def split_in_words(settings: DataSettings, cases: Iterable[Case], split: Split) -> str:
    """By what `make_split` splits the cases, without the path of a file."""
    seed = f"data.split_seed={settings.split_seed}"
    if settings.split_file is not None:
        return "by a data.split_file"
    if settings.folds:
        fold = f"data.fold={settings.fold}, " if split.train else ""  # `crossvalidate` tests on all folds in turn
        return f"data.folds={settings.folds}, {fold}data.validation_share={settings.validation_share:g}, {seed}"
    if any(case.split for case in cases):
        return "by the data set itself"
    return f"data.validation_share={settings.validation_share:g}, data.test_share={settings.test_share:g}, {seed}"


def _stratified(cases: Sequence[Case], lesion_ml: Mapping[str, float], settings: DataSettings) -> Parts:
    """Deal the patients out so that small, large and no lesions are spread over all parts alike."""
    volume_ml: dict[str, float] = {}
    for case in cases:
        volume_ml[case.patient] = volume_ml.get(case.patient, 0.0) + float(np.nan_to_num(lesion_ml[case.name]))
    by_volume = sorted(volume_ml, key=lambda patient: (volume_ml[patient], patient))
    groups = [
        [patient for patient in by_volume if volume_ml[patient] > 0],
        [patient for patient in by_volume if volume_ml[patient] == 0],
    ]
    generator = np.random.default_rng(settings.split_seed)
    part_of = dict.fromkeys(by_volume, PARTS[0])
    held_out: set[str] = set()
    if settings.folds:
        if len(groups[0]) < settings.folds:
            raise DataError(
                f"data.folds={settings.folds}, but {len(groups[0])} patients have a lesion: give at most so many folds"
            )
        fold_of = _deal(groups, settings.folds, generator)
        held_out = {patient for patient, fold in fold_of.items() if fold == settings.fold}
        part_of |= dict.fromkeys(held_out, "test")
        generator = np.random.default_rng([settings.split_seed, settings.fold])
    for group in groups:
        count = len(group)
        # At least one each where the group is large enough, and always one left to train on.
        test = 0 if settings.folds else min(max(round(count * settings.test_share), 1), max(count - 2, 0))
        rest = count - test - len(held_out.intersection(group))
        validation = min(max(round(count * settings.validation_share), 1), max(rest - 1, 0))
        wanted: dict[SplitName, int] = {"test": test, "validation": validation}
        for part, number in wanted.items():
            left = [patient for patient in group if part_of[patient] == "train"]
            for stratum in range(number):  # neighbours in volume, of whom one is drawn
                start, end = (len(left) * edge // number for edge in (stratum, stratum + 1))
                part_of[left[generator.integers(start, end)]] = part
    return {case.name: {part_of[case.patient]} for case in cases}


def _deal(groups: Sequence[Sequence[str]], folds: int, generator: np.random.Generator) -> dict[str, int]:
    """The fold of each patient: neighbours in volume go to different folds, whose sizes differ by one at the most."""
    fold_of: dict[str, int] = {}
    order: list[int] = []
    for patient in (patient for group in groups for patient in group):
        if not order:
            order = generator.permutation(folds).tolist()
        fold_of[patient] = order.pop()
    return fold_of


def _read_split_file(path: Path, cases: Sequence[Case]) -> Parts:
    """Read the columns case and split; a case may stand in several parts, each in a row of its own.

    A case that has a pseudonym may stand there under its own name, too.
    """
    parts: Parts = {case.name: set() for case in cases}
    name_of = {case.own_name: case.name for case in cases if case.own_name} | {name: name for name in parts}
    faults = []
    for line, row in read_rows(path, ["case", "split"]):
        part = next((part for part in PARTS if part == row["split"]), None)
        if part is None:
            faults.append(f"line {line}: split is {row['split']!r}, not one of {', '.join(PARTS)}")
        elif row["case"] not in name_of:
            faults.append(f"line {line}: the data set has no case {row['case']!r}")
        elif part in parts[name_of[row["case"]]]:
            faults.append(f"line {line}: {row['case']} is in {part} already")
        else:
            parts[name_of[row["case"]]].add(part)
    if not faults:
        faults = [f"case {name} of the data set is not in the file" for name in parts if not parts[name]]
    refuse_faults(path, faults, "data.split_file must give each case of the data set a split")
    if several := [name for name, assigned in parts.items() if len(assigned) > 1]:
        logger.warning(
            "%s puts %s into several parts: the test result is no estimate for new patients",
            path,
            ", ".join(several),
        )
    return parts


def _refuse_divided_patients(cases: Sequence[Case], parts: Parts, root: str) -> None:
    first_case: dict[str, str] = {}
    faults = []
    for case in cases:
        first = first_case.setdefault(case.patient, case.name)
        if parts[case.name] != parts[first]:
            where = [f"{name} in {' and '.join(sorted(parts[name]))}" for name in (first, case.name)]
            faults.append(f"patient {case.patient}: {', '.join(where)}")
    refuse_faults(root, faults, "All cases of a patient must go to the same part of the split")


def _check_lesions(split: Split, lesion_ml: Mapping[str, float], advice: str) -> None:
    for part in PARTS:
        names = getattr(split, part)
        if not names:
            raise DataError(f"the {part} part of the split is empty: {advice}")
        if not any(lesion_ml[name] > 0 for name in names):
            raise DataError(f"the {part} part of the split holds no lesion ({', '.join(names)}): {advice}")
