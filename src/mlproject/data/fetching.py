"""Fetching the objects of chosen cases from their bucket into the cache: several at a time, each checked, each once."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar

from mlproject.data.case import Case
from mlproject.data.copies import LOCKS, USED, Copy, discard, locked, reserve
from mlproject.data.objects import SCHEME
from mlproject.errors import DataError

logger = logging.getLogger(__name__)

MB = 1e6

T = TypeVar("T")
Watch = Callable[[str, Iterable[T], int], Iterable[T]]
"""Given what is done, the results as they come and their number, passes them on; it shows a user how far it is."""


def unwatched(_what: str, results: Iterable[T], _total: int) -> Iterable[T]:
    """A Watch that shows nothing."""
    return results


def fetch(cases: Sequence[Case], limit_gb: float, labelled: bool = True, watch: Watch[Any] = unwatched) -> None:
    """Bring the images of cases here, and the labels if `labelled`; what is here already is not fetched again.

    For cases of this machine nothing is done. Until this process ends, nobody removes these copies to make room.

    Args:
        cases: as `find_cases` finds them.
        limit_gb: the bound of all copies in the cache (`DataSettings.copies_gb`).
        labelled: whether the labels are needed, where there are any.
        watch: shows how far it is.

    Raises:
        DataError: the copies do not fit; or about the first object that cannot be fetched. The others that are whole
            stay, nothing half-written does.
    """
    copies = list(dict.fromkeys(copy for case in cases for copy in _copies_of(case, labelled)))
    if not copies:
        return
    reserve(copies, limit_gb)
    began = time.monotonic()
    missing = [copy for copy in copies if not copy.is_whole()]
    for copy in copies:
        copy.mark_used()
    if not missing:
        return
    unchecked = _fetch_all(missing, watch).count(False)
    logger.info(
        "fetched %d objects, %.1f MB, in %.0f s (%d were here already)%s",
        len(missing), sum(copy.size for copy in missing) / MB, time.monotonic() - began, len(copies) - len(missing),
        f"; the server gives no checksum of {unchecked}: their size alone was checked" if unchecked else "",
    )  # fmt: skip


def _copies_of(case: Case, labelled: bool) -> list[Copy]:
    paths = [*case.images.values(), *([case.label] if labelled and case.label else [])]
    return [Copy(path.parent, case.objects[path]) for path in paths if path in case.objects]


def _fetch_all(copies: Sequence[Copy], watch: Watch[bool]) -> list[bool]:
    """Fetch copies, and say of each whether more than its size was checked."""
    from mlproject.data import s3, s3_errors  # only now: boto3 takes a third of a second

    bucket = f"{SCHEME}{copies[0].objects[0].bucket}"
    with s3_errors.in_words(bucket):
        client = s3.client()
    stop = threading.Event()
    # Its threads do not keep a process that is stopped from ending, as those of ThreadPoolExecutor do: one may wait
    # a minute for a server that says nothing.
    with ThreadPool(s3.CONNECTIONS) as pool:
        try:
            results = pool.imap_unordered(partial(_fetch_one, client=client, stop=stop), copies)
            return list(watch(f"fetching from {bucket}", results, len(copies)))
        finally:
            stop.set()


def _fetch_one(copy: Copy, client: Any, stop: threading.Event) -> bool:
    """Fetch what is not whole here; while another process does so, wait for it."""
    from mlproject.data import s3

    parent, name = copy.folder.parent, copy.folder.name
    unfinished = parent / f".{name}"
    try:
        with locked(parent / LOCKS / name[:2], stop.is_set):
            if copy.is_whole():
                return True
            discard(copy.folder)
            unfinished.mkdir()
            try:
                checked = [s3.download(client, one, unfinished / one.name, stop.is_set) for one in copy.objects]
                (unfinished / USED).touch()
                unfinished.rename(copy.folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            return all(checked)
    except OSError as error:
        raise DataError(f"{copy.objects[0].uri}: its copy cannot be written to {parent} ({error.strerror})") from error
