"""A CSV table: a row a case; columns case, one a channel, label, and if wanted split and patient."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from mlproject.data.case import TABLE_COLUMNS, Case, DataSettings, Fault, SplitName, refuse_faults
from mlproject.data.dicom import why_no_file
from mlproject.data.layouts.choosing import EXTENSIONS, count_names
from mlproject.errors import DataError


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Read the cases of the table `settings.root`; relative paths start at the table's folder.

    Files may have any extension. Without a column patient each case is a patient of its own. An empty cell is a
    missing channel.

    Raises:
        DataError: not a CSV file, columns missing, no row; or all faults of the rows.
    """
    table = settings.root_path
    cases: list[Case] = []
    faults: list[str] = []
    first_use: dict[str, str] = {}  # a case's name or a file -> where it stood first
    columns = [channel.lower() for channel in settings.channels]
    needed = columns if settings.missing == "refuse" else columns[:1]
    read = [*columns, *(["label"] if labelled else [])]
    for line, row in read_rows(table, ["case", *read]):
        where = f"line {line}, case {row['case']!r}"
        named = [column for column in (*columns, "label") if row.get(column)]
        files = {column: table.parent / Path(row[column]).expanduser() for column in named}
        files_read = {column: file for column, file in files.items() if column in read}
        wrong = [Fault(row["case"], fault, where) for fault in _row_faults(row, files_read, needed, labelled)]
        for key in [row["case"], *map(str, files_read.values())]:
            if key in first_use:
                wrong.append(Fault(row["case"], f"{key} stands already in {first_use[key]}", where))
            first_use.setdefault(key, where)
        faults += wrong
        if not wrong:
            images = {c: files[c.lower()] for c in settings.channels if c.lower() in files}
            split = next((name for name in get_args(SplitName) if name == row.get("split")), None)
            label = file if (file := files.get("label")) and file.is_file() else None
            patient, has_patient = row.get("patient", row["case"]), "patient" in row
            cases.append(Case(row["case"], images, label, patient, split, patient_named=has_patient))
    refuse_faults(table, faults, "Each row needs a case of its own and files that exist", cases)
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The columns that are images, in how many rows each is filled: those with a cell that names an image file."""
    rows = [row for _, row in read_rows(root, ["case"])]
    names = {name for row in rows for name, cell in row.items() if name not in TABLE_COLUMNS and _is_image(root, cell)}
    return count_names([name for name, cell in row.items() if cell and name in names] for row in rows)


def _is_image(table: Path, cell: str) -> bool:
    """Whether a cell names an existing file or ends as an image does; age, sex and remarks do not."""
    try:
        return cell.lower().endswith(EXTENSIONS) or (bool(cell) and (table.parent / Path(cell).expanduser()).is_file())
    except (OSError, RuntimeError):  # text too long for a file's name, or ~NAME of no user
        return False


def read_rows(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file into (line number, row) pairs; column names in lower case, cells without outer blanks.

    Raises:
        DataError: no such file, no CSV file in UTF-8, a column missing, no row, or rows of unequal length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {error}") from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    missing = [name for name in needed if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"the columns {', '.join(missing)} are missing" if missing else "two columns have the same name"
        raise DataError(f"{path}: {problem}; found {', '.join(header)}. Columns are separated by commas")
    if len(rows) == 1:
        raise DataError(f"{path}: no case found: there is no row below the header")
    faults = [f"line {line}: {len(row)} cells" for line, row in rows if len(row) != len(header)]
    refuse_faults(path, faults, f"Each row needs {len(header)} cells, as the header has")
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]


def _row_faults(row: dict[str, str], files: dict[str, Path], needed: list[str], labelled: bool) -> list[str]:
    faults = []
    # Cases name files in the cache and the report.
    if not row["case"] or row["case"].startswith(".") or any(mark in row["case"] for mark in "/\\"):
        faults.append("a case needs a name without slashes or a leading dot")
    faults += [f"{name} is empty" for name in needed if name not in files]
    if labelled and "label" not in files:
        faults.append("label is empty")
    faults += [f"{name}: {file} {why_no_file(file)}" for name, file in files.items() if not file.is_file()]
    if row.get("split") and row["split"] not in get_args(SplitName):
        faults.append(f"split is {row['split']!r}, not one of {', '.join(get_args(SplitName))}")
    if row.get("patient") == "":
        faults.append("patient is empty: fill or drop the column")
    return faults
