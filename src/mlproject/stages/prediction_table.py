"""predictions.csv: which cases of a folder are segmented, by what, with which result; and so, which are left to do."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlproject.data.case import Case
from mlproject.data.storage import Folder
from mlproject.errors import DataError, SettingsError
from mlproject.tracking.answers import Answer

FILE = "predictions.csv"
COLUMNS = (
    "case", "status", "mask", "probability", "lesion_volume_ml", "lesion_count",
    "model_version", "threshold", "crf", "seconds", "images", "error",
)  # fmt: skip
DECISIVE = ("mask", "probability", "model_version", "threshold", "crf", "images")
"""Columns in which a finished case must agree with what is wanted now, or it is another result."""
SHOWN = 3

Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """One case to segment.

    Attributes:
        case: the scan.
        names: file name of its `mask` (and of its `probability`).
        model_version, threshold, crf: by what, as text.
    """

    case: Case
    names: dict[str, str]
    model_version: str
    threshold: str
    crf: str

    def row(self, status: Literal["pending", "failed", "done"]) -> Row:
        """Its row in the table, without a result."""
        return dict.fromkeys(COLUMNS, "") | {
            "case": self.case.name, "status": status, **(self.names if status == "done" else {}),
            "model_version": self.model_version, "threshold": self.threshold, "crf": self.crf,
        }  # fmt: skip


class PredictionTable:
    """The table of an output folder, written anew with each change.

    A case is `pending` before it is done or failed: the files that have its names are then this table's own.
    """

    def __init__(self, folder: Folder) -> None:
        """Read the table, if there is one. Raises DataError where another file has its name."""
        self.folder = folder
        self.rows: dict[str, Row] = {}
        if FILE in folder.names():
            self.rows = _parsed(folder.read(FILE), folder.locate(FILE))

    def left_to_do(self, jobs: Sequence[Job], force: bool) -> list[Job]:
        """The jobs that are not done as they are wanted now.

        Raises:
            SettingsError: some are done in another way, or files of theirs exist that are no results (unless `force`).
        """
        there = self.folder.names()
        left, others, foreign = [], [], []
        for job in jobs:
            row = self.rows.get(job.case.name)
            files = [name for name in job.names.values() if name in there]
            if row is not None and row["status"] == "done":
                wanted = job.row("done") | {"images": digest_of(job.case)}
                differences = [_difference(n, row[n], wanted[n]) for n in DECISIVE if row[n] != wanted[n]]
                if not differences and len(files) == len(job.names):
                    continue
                if differences:
                    others.append(f"{job.case.name}: {', '.join(differences)}")
            elif row is None:
                foreign += files
            left.append(job)
        if others and not force:
            raise SettingsError(
                f"{self.folder.locate(FILE)} holds {len(others)} cases that were done in another way, as "
                f"{others[0]}. Give another output folder, or --force true to do them again"
            )
        if foreign and not force:
            raise SettingsError(
                f"{len(foreign)} files exist that are no results of predict ({FILE} does not list them): "
                f"{_some([self.folder.locate(name) for name in foreign])}. Give another output folder, or --force true "
                "to replace them"
            )
        return left

    def begin(self, jobs: Sequence[Job]) -> None:
        """Enter the jobs that are now to be done; what earlier commands left undone is forgotten."""
        done = {name: row for name, row in self.rows.items() if row["status"] == "done"}
        self.rows = done | {job.case.name: job.row("pending") for job in jobs}
        self._write()

    def done(self, job: Job, answer: Answer, seconds: float) -> None:
        """Enter a result whose files are stored."""
        self.rows[job.case.name] = job.row("done") | {
            "lesion_volume_ml": f"{answer.lesion_ml:.4f}",
            "lesion_count": str(answer.lesion_count),
            "seconds": f"{seconds:.2f}",
            "images": digest_of(job.case),
        }
        self._write()

    def failed(self, name: str, error: str, job: Job | None = None) -> None:
        """Enter that a case failed, and remove files of its that an earlier command may have made."""
        row = job.row("failed") if job else dict.fromkeys(COLUMNS, "") | {"case": name, "status": "failed"}
        for file in job.names.values() if job else ():
            self.folder.remove(file)
        self.rows[name] = row | {"error": error}
        self._write()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self.rows.items()))
        self.folder.write(FILE, text.getvalue().encode())


def digest_of(case: Case) -> str:
    """What a case's images are known by: SHA-256 (its first 16 hex digits) of the files' bytes, in their order."""
    digest = hashlib.sha256()
    try:
        for channel, file in case.images.items():
            digest.update(f"{channel} {case.components.get(channel, '')} {file.stat().st_size} ".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _parsed(content: bytes, where: str) -> dict[str, Row]:
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is no CSV file in UTF-8 ({error}): rename it, or give another output") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise DataError(f"{where} is no table of predict, or was changed: rename it, or give another output folder")
    return {row["case"]: row for row in rows}


def _difference(column: str, was: str, wanted: str) -> str:
    if column == "images":
        return "its images were others"
    return f"{column} {was or 'none'} (now {wanted or 'none'})"


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
