"""A data set as a whole: its cases found, checked, prepared and split."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlproject.data.cache import PreparedCache
from mlproject.data.case import kinds_of_labels
from mlproject.data.case_names import CaseNaming
from mlproject.data.cases import Case, DataSettings, find_cases, refuse_absent_channels
from mlproject.data.fetching import Watch, fetch, unwatched
from mlproject.data.preprocessing import PreparedCase
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.splits import Split, make_split
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

PLAIN = CaseNaming()
THREADS = 2  # each holds one whole case in memory
Result = PreparedCase | DataError


@dataclass(frozen=True)
class DataSet:
    """Checked cases, their split, and where their prepared volumes are.

    Attributes:
        cases: all of them, by name.
        split: names of the cases in each part.
        lesion_ml: lesion volume of each case.
        digest: of all voxels of all cases and the split; equal digests are equal data.
        cache: of the prepared volumes.
    """

    cases: dict[str, Case]
    split: Split
    lesion_ml: dict[str, float]
    digest: str
    cache: PreparedCache

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """The channels that cases lack, by the names of these cases."""
        return {name: case.missing for name, case in self.cases.items() if case.missing}

    def load(self, names: Sequence[str]) -> list[PreparedCase]:
        """The prepared cases of these names, memory-mapped."""
        return [self.cache.load(self.cases[name]) for name in names]


def open_dataset(
    data: DataSettings,
    preprocessing: PreprocessingSettings,
    cache: Path,
    naming: CaseNaming = PLAIN,
    watch: Watch[Any] = unwatched,
) -> DataSet:
    """Find, fetch, check, prepare and split the labelled cases of a data set, and give them the names of `naming`.

    The split, the order of the cases and the digest are the same whatever they are called. All cases are fetched where
    they lie in a bucket, of any part: the split goes by the volume of their lesions, and the digest is of them all.
    `watch` shows how far it is.

    Raises:
        DataError: with all faults of all cases together, because no case has one of the channels, or because no valid
            split can be made.
    """
    cases = naming.apply(find_cases(data, cache=cache), data)
    refuse_absent_channels(data, cases)
    if len(kinds := kinds_of_labels(cases)) > 1:
        shown = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        logger.warning("%s: the labels have different names: %s. Do they show the same?", data.where, shown)
    fetch(cases, data.copies_gb, watch=watch)
    prepared_cache = PreparedCache(cache, preprocessing)
    prepared = load_all(prepared_cache, cases, watch=watch)
    lesion_ml = {case.name: _lesion_ml(case) for case in prepared}
    split = make_split(cases, lesion_ml, data)
    digest = _digest(cases, prepared, split)
    return DataSet({case.name: case for case in cases}, split, lesion_ml, digest, prepared_cache)


def folds_of(dataset: DataSet, data: DataSettings) -> list[DataSet]:
    """The same cases, split as each fold of a cross-validation has them: fold k is what `data.fold=k` opens.

    Raises:
        DataError: the cases cannot be split so.
    """
    cases, prepared = list(dataset.cases.values()), dataset.load(list(dataset.cases))
    splits = [make_split(cases, dataset.lesion_ml, replace(data, fold=fold)) for fold in range(data.folds)]
    return [replace(dataset, split=split, digest=_digest(cases, prepared, split)) for split in splits]


def _digest(cases: Sequence[Case], prepared: Sequence[PreparedCase], split: Split) -> str:
    return digest_of(prepared, split.renamed({case.name: case.own_name or case.name for case in cases}))


def digest_of(cases: Sequence[PreparedCase], split: Split | None = None) -> str:
    """What all voxels and labels of some cases come to, and their split: 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(split).encode())
    for case in cases:
        digest.update("".join(case.channel_digests.values()).encode())
        digest.update("".join(case.missing).encode())
        digest.update(np.ascontiguousarray(case.native_label).tobytes())
    return digest.hexdigest()[:16]


def load_all(
    cache: PreparedCache, cases: Sequence[Case], labelled: bool = True, watch: Watch[Result] = unwatched
) -> list[PreparedCase]:
    """Load cases through the cache, those that are new to it a few at a time.

    Those of a bucket have been fetched before. `watch` shows how far it is.

    Raises:
        DataError: with the faults of all cases together.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        loaded = pool.map(partial(_loaded_or_fault, cache, labelled), cases)
        results = list(watch("reading and preparing cases", loaded, len(cases)))
    finally:
        pool.shutdown(cancel_futures=True)  # where it is stopped, only the cases in hand are waited for
    faults = [result for result in results if isinstance(result, DataError)]
    if faults:
        lines = "\n".join(str(fault) for fault in faults)
        raise DataError(f"{len(faults)} of {len(cases)} cases cannot be used:\n{lines}")
    return [result for result in results if not isinstance(result, DataError)]


def _loaded_or_fault(cache: PreparedCache, labelled: bool, case: Case) -> Result:
    try:
        return cache.load(case, labelled)
    except DataError as error:
        text = case.said(str(error))
        return DataError(text if case.name in text else f"{case.name}: {text}")


def _lesion_ml(case: PreparedCase) -> float:
    assert case.native_label is not None
    return float(case.native_label.sum() * np.prod(case.geometry.native_spacing_mm) / 1000)
