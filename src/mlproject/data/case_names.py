"""What cases are called in what leaves the machine: names that identify nobody, or pseudonyms.

The names of the public challenges' cases are pseudonyms already. Those of a hospital's own files may be a patient's
name or number, so they are replaced by case-0001, case-0002 ... The table of both lies beside the data, where those
who may see the scans may see it, and is never logged. A case keeps its pseudonym in every run; a new case gets the
next number.
"""

import csv
import errno
import fcntl
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Literal

from mlproject import credentials
from mlproject.data.case import LONGEST_NAME, Case, DataSettings, LayoutName, is_plain
from mlproject.data.storage import is_s3
from mlproject.errors import DataError

CaseNames = Literal["auto", "plain", "pseudonym"]
PUBLIC: tuple[LayoutName, ...] = ("demo", "isles2017", "isles2022", "atlas")
"""Layouts of one public data set. The others (a table, folders, BIDS ...) are anybody's way of keeping files."""
HEADER = ("pseudonym", "case")
TABLE = "case_names.csv"
ADVICE = (
    "set tracking.case_table to a file that only those can read who may see the scans, the same one for every run on "
    "these data, or tracking.case_names=plain if the cases' names identify nobody"
)
_hidden: dict[
    str, str
] = {}  # what no text for others may hold, of all data sets of this process, and what stands for it


@dataclass(frozen=True)
class CaseNaming:
    """How the cases of a data set are called.

    Attributes:
        names: auto gives pseudonyms unless the layout is that of a public challenge, and there, too, where the table
            is; plain leaves the names as they are; pseudonym replaces them in every layout.
        table: CSV file with the columns pseudonym and case; None is one beside the data.
    """

    names: CaseNames = "plain"
    table: str | None = None

    def apply(self, cases: Sequence[Case], data: DataSettings) -> list[Case]:
        """The same cases in the same order, under the names that may be logged; from now on `without_names` knows them.

        Raises:
            DataError: the table cannot be read or written, or is no such table; a case is called as another's
                pseudonym is, or has a name that is no line of text.
        """
        _refuse_odd_names(cases, data.root)
        if not self.pseudonyms(data):
            return list(cases)
        pseudonyms = _look_up(self.table_of(data), [case.name for case in cases])
        named = [replace(case, name=pseudonyms[_key(case.name)], own_name=case.name) for case in cases]
        _hide(named, data)
        return named

    def pseudonyms(self, data: DataSettings) -> bool:
        """Whether the cases of a data set get pseudonyms; once they had, a later run need not say so again."""
        if self.names != "auto":
            return self.names == "pseudonym"
        return data.layout not in PUBLIC or (not is_s3(data.root) and self.table_of(data).exists())

    def table_of(self, data: DataSettings) -> Path:
        """Where the pseudonyms of a data set are kept. Raises DataError where that must be said."""
        if self.table is not None:
            return Path(self.table).expanduser().absolute()
        if is_s3(data.root):
            raise DataError(f"the pseudonyms of the cases in {data.root} have no place beside them: {ADVICE}")
        root = data.root_path
        return root.with_name(f"{root.stem}_{TABLE}") if root.is_file() else root / TABLE


def without_names(text: str) -> str:
    """A text without the names, patients and files of cases that have pseudonyms: for MLflow, and any other store."""
    words = sorted(_hidden, key=len, reverse=True)
    if not words:
        return text
    # A short name is found as a word of its own alone, or it would be found in half of all words.
    patterns = [re.escape(word) if len(word) >= 6 else rf"(?<!\w){re.escape(word)}(?!\w)" for word in words]
    return re.sub("|".join(patterns), lambda found: _hidden[found[0]], text)


def for_others(text: str) -> str:
    """A text as it may be stored where others read it: `without_names`, and without secrets."""
    return without_names(credentials.without(text))


def _refuse_odd_names(cases: Sequence[Case], root: str) -> None:
    """Names stand in tables and texts, and name folders."""
    spellings: dict[str, str] = {}
    for case in cases:
        if not is_plain(case.name, LONGEST_NAME):
            raise DataError(
                f"{root}: a case cannot be called {case.name!r}: give a name of at most {LONGEST_NAME} bytes of UTF-8, "
                "without slashes and line breaks, and without a dot or dash at its beginning"
            )
        if (other := spellings.setdefault(_key(case.name), case.name)) != case.name:
            raise DataError(
                f"{root}: the names of the cases {other!r} and {case.name!r} look alike, and are the same name on some "
                "file systems: rename one"
            )


def _look_up(table: Path, names: Sequence[str]) -> dict[str, str]:
    """The pseudonym of each case by its key; those that are new to the table are added to it."""
    known = _parse(_read(table), table)
    if any(_key(name) not in known for name in names):
        known = _extend(table, names)
    of_case = {pseudonym: case for case, pseudonym in known.items()}
    for name in names:
        if (other := of_case.get(name, _key(name))) != _key(name):
            raise DataError(
                f"{table}: the case {name!r} is called as the pseudonym of another case is ({other!r}): rename the case"
            )
    return known


def _extend(table: Path, names: Sequence[str]) -> dict[str, str]:
    """Add the cases that the table lacks, one process at a time; returns the whole table."""
    try:
        mode = table.parent.stat().st_mode & 0o660  # who can use the folder can use the table
        handle = os.open(table, os.O_RDWR | os.O_CREAT, mode)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]  # a process that was killed may have left half a line
            known = _parse(whole.decode("utf-8-sig"), table)
            addition = _new_rows(known, names, with_header=not whole)
            file.seek(len(whole))
            try:
                file.truncate()
                if file.write(addition.encode()) < len(addition.encode()):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(whole))
                raise
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(table, error) from error
    return _parse(whole.decode("utf-8-sig") + addition, table)


def _new_rows(known: dict[str, str], names: Sequence[str], with_header: bool) -> str:
    """CSV rows for the cases that are not known; a number that is some case's own name is passed over."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if with_header:
        writer.writerow(HEADER)
    taken = {*known.values(), *map(_key, names), *known}
    number = max((int(found[1]) for name in known.values() if (found := re.fullmatch(r"case-(\d+)", name))), default=0)
    for name in names:
        if _key(name) in known:
            continue
        number += 1
        while f"case-{number:04d}" in taken:
            number += 1
        writer.writerow((f"case-{number:04d}", name))
    return text.getvalue()


def _read(table: Path) -> str:
    """The whole lines of the table; "" where there is none yet."""
    try:
        content = table.read_bytes()
        return content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(table, error) from error


def _parse(text: str, table: Path) -> dict[str, str]:
    """Pseudonyms by the keys of their cases."""
    rows = [row for row in csv.reader(StringIO(text)) if row]
    if not rows:
        return {}
    pairs = [(pseudonym, _key(case)) for pseudonym, case in (row for row in rows[1:] if len(row) == 2)]
    pseudonyms = [pseudonym for pseudonym, _ in pairs]
    sound = (
        tuple(rows[0]) == HEADER
        and len(pairs) == len(rows) - 1
        and all(re.fullmatch(r"\w[\w.-]*", pseudonym) for pseudonym in pseudonyms)
        and len(set(pseudonyms)) == len({case for _, case in pairs}) == len(pairs)
    )
    if not sound:
        raise DataError(
            f"{table} is no table of case names: it needs the columns pseudonym and case, each pseudonym (letters, "
            "digits, dots, dashes) and each case once. Restore it from a backup: a new one would give other pseudonyms "
            "than earlier runs have"
        )
    return {case: pseudonym for pseudonym, case in pairs}


def _unusable(table: Path, error: OSError | UnicodeDecodeError) -> DataError:
    reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
    return DataError(f"{table}: the table of the cases' pseudonyms cannot be kept there ({reason}): {ADVICE}")


def _key(name: str) -> str:
    """One spelling of a name: file systems write the same letters in two ways."""
    return unicodedata.normalize("NFC", name)


def _hide(cases: Sequence[Case], data: DataSettings) -> None:
    """Remember what may identify the patients: files, names, patients, and what folders and files are called."""
    parts_of: dict[str, set[str]] = {}
    for case in cases:
        files = [*case.images.values(), *([case.label] if case.label else [])]
        own = [case.objects[file][0].uri if file in case.objects else str(file) for file in files]
        parts_of[case.name] = {part for name in own for part in Path(os.path.relpath(name, data.folder)).parts}
        _hidden.update((name, f"<a file of {case.name}>") for name in (*own, *map(str, files)))
    shared = set.intersection(*parts_of.values()) if len(cases) > 1 else {".."}
    for case in cases:
        stand_ins = {
            **dict.fromkeys(parts_of[case.name] - shared, f"<a file of {case.name}>"),
            case.patient: f"<the patient of {case.name}>",
            case.own_name: case.name,
        }
        for word, instead in stand_ins.items():
            if word and not (word.isdecimal() and len(word) < 4):  # 1, 2, 3 ... identify nobody
                _hidden.update(dict.fromkeys((word, _key(word), repr(word)[1:-1]), instead))
