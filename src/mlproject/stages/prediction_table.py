"""predictions.csv: which cases of a folder are segmented, by what, with which result; and so, which are left to do."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlproject.data.case import Case
from mlproject.data.image_files import read_image_file
from mlproject.data.storage import Folder
from mlproject.data.writing import EXTENSIONS
from mlproject.errors import DataError, SettingsError
from mlproject.tracking.answers import Answer

FILE = "predictions.csv"
COLUMNS = (
    "case", "status", "mask", "probability", "lesion_volume_ml", "lesion_count",
    "model_version", "model_id", "threshold", "crf", "seconds", "images", "error",
)  # fmt: skip
DECISIVE = ("mask", "probability", "model_id", "threshold", "crf", "images")
"""Columns in which a finished case must agree with what is wanted now, or it is another result."""
WITH_RESULT = ("done", "kept")
SHOWN = 3

Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """One case to segment.

    Attributes:
        case: the scan.
        names: file name of its `mask` (and of its `probability`).
        model_version, model_id, threshold, crf: by what, as text.
    """

    case: Case
    names: dict[str, str]
    model_version: str
    model_id: str
    threshold: str
    crf: str

    def row(self, status: Literal["pending", "failed", "done"]) -> Row:
        """Its row in the table, without a result."""
        return dict.fromkeys(COLUMNS, "") | {
            "case": self.case.name, "status": status, **(self.names if status != "failed" else {}),
            "model_version": self.model_version, "model_id": self.model_id,
            "threshold": self.threshold, "crf": self.crf,
        }  # fmt: skip


class PredictionTable:
    """The table of an output folder, written anew with each change.

    The files that a row names are the table's own; no other file is replaced unasked or removed. A row is

    - pending: to be done; where a command was killed in the midst, the files may be there;
    - failed: there is no file;
    - done: the files are what the row says;
    - kept: the case failed (`error`), and files and row are those of an earlier command.
    """

    def __init__(self, folder: Folder) -> None:
        """Read the table, if there is one. Raises DataError where another file has its name."""
        self.folder = folder
        self.there = folder.names()
        self.rows: dict[str, Row] = {}
        if FILE in self.there:
            self.rows = _parsed(folder.read(FILE), folder.locate(FILE))

    def left_to_do(self, jobs: Sequence[Job], force: bool) -> list[Job]:
        """The jobs that are not done as they are wanted now.

        Raises:
            SettingsError: some are done in another way, or files of theirs exist that are no results (unless `force`).
        """
        left, others, foreign = [], [], []
        for job in jobs:
            row = self.rows.get(job.case.name)
            if row is not None and row["status"] in WITH_RESULT:
                differences = _differences(row, job)
                if differences == [] and self.there.issuperset(job.names.values()):
                    row |= {"status": "done", "error": ""}
                    continue
                if differences:
                    others.append(f"{job.case.name}: {', '.join(differences)}")
            foreign += self._foreign(job)
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
        """Enter the jobs that are now to be done; what earlier commands left without a result is forgotten."""
        pending = {}
        for job in jobs:
            foreign = dict.fromkeys((what for what, name in job.names.items() if name in self._foreign(job)), "")
            pending[job.case.name] = job.row("pending") | foreign
        self.rows = pending | {name: row for name, row in self.rows.items() if row["status"] in WITH_RESULT}
        self._write()

    def store(self, job: Job, answer: Answer, files: Mapping[str, Path], images: str, seconds: float) -> None:
        """Write the files of an answer into the folder, and enter it.

        Args:
            job: what was done.
            answer: the model's.
            files: the `mask` (and the `probability`) in the format of the job's names.
            images: what `digest_of` said of the case before it was segmented.
            seconds: that it took.
        """
        name = job.case.name
        if self.rows[name]["status"] in WITH_RESULT:  # killed from here on, it must not be taken for that result
            self._enter(job.row("pending"))
        for what, file in files.items():
            self.folder.write(job.names[what], file.read_bytes())
            self.there.add(job.names[what])
        self._enter(
            job.row("done")
            | {
                "lesion_volume_ml": f"{answer.lesion_ml:.4f}",
                "lesion_count": str(answer.lesion_count),
                "seconds": f"{seconds:.2f}",
                "images": images,
            }
        )

    def failed(self, name: str, error: str, job: Job | None = None) -> None:
        """Enter that a case failed. A result that it has stays; half a result is removed."""
        row = self.rows.get(name)
        if row is not None and row["status"] in WITH_RESULT:
            self._enter(row | {"status": "kept", "error": error})
            return
        for file in _files_of(row) & self.there if row else ():
            self.folder.remove(file)
            self.there.remove(file)
        blank = job.row("failed") if job else dict.fromkeys(COLUMNS, "") | {"case": name, "status": "failed"}
        self._enter(blank | {"error": error})

    def kept(self) -> int:
        """How many cases failed that have the result of an earlier command."""
        return sum(row["status"] == "kept" for row in self.rows.values())

    def _foreign(self, job: Job) -> list[str]:
        """The files that have a job's names and are not the table's own."""
        row = self.rows.get(job.case.name)
        own = _files_of(row) if row else set()
        return [name for name in job.names.values() if name in self.there and name not in own]

    def _enter(self, row: Row) -> None:
        self.rows[row["case"]] = row
        self._write()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self.rows.items()))
        self.folder.write(FILE, text.getvalue().encode())


def digest_of(case: Case) -> str:
    """What a case's images are known by: SHA-256 (its first 16 hex digits) of the files, in their order.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for channel, file in case.images.items():
        component = case.components.get(channel)
        try:
            digest.update(f"{channel} {'' if component is None else component} {file.stat().st_size} ".encode())
            if not file.name.lower().endswith(EXTENSIONS):  # .hdr, .mhd, .nhdr: the voxels are in a second file
                digest.update(read_image_file(file, component).digest().encode())
                continue
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{channel} {file.name}: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"{channel} {file.name}: {error}") from error
    return digest.hexdigest()[:16]


def _files_of(row: Row) -> set[str]:
    return {row["mask"], row["probability"]} - {""}


def _differences(row: Row, job: Job) -> list[str] | None:
    """In what a result is another than the wanted one; None where only the images cannot be read, which fails later."""
    wanted = job.row("done")
    readable = True
    try:
        wanted["images"] = digest_of(job.case)
    except DataError:
        wanted["images"], readable = row["images"], False
    differing = [column for column in DECISIVE if row[column] != wanted[column]]
    return [_difference(column, row, wanted) for column in differing] if differing or readable else None


def _difference(column: str, row: Row, wanted: Row) -> str:
    if column == "images":
        return "its images were others"
    if column == "model_id":
        models = [f"{of['model_version']} ({of['model_id']})" for of in (row, wanted)]
        return f"the model was {models[0]}, now {models[1]}"
    return f"{column} {row[column] or 'none'} (now {wanted[column] or 'none'})"


def _parsed(content: bytes, where: str) -> dict[str, Row]:
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is no CSV file in UTF-8 ({error}): rename it, or give another output") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise DataError(
            f"{where} is no table of this version's predict, or was changed: rename it, or give another output folder"
        )
    return {row["case"]: row for row in rows}


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
