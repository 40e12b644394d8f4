"""The rows of predictions.csv: what is wanted of a case, and in what a result is another than that."""

import csv
import hashlib
import io
from dataclasses import dataclass
from typing import Literal

from mlproject.data.case import Case
from mlproject.data.image_files import read_image_file
from mlproject.data.writing import EXTENSIONS
from mlproject.errors import DataError

COLUMNS = (
    "case", "status", "mask", "probability", "lesion_volume_ml", "lesion_count",
    "model_version", "model_id", "threshold", "crf", "seconds", "images", "error",
)  # fmt: skip
DECISIVE = ("mask", "probability", "model_id", "threshold", "crf", "images")
"""Columns in which a finished case must agree with what is wanted now, or it is another result."""

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


def files_of(row: Row) -> set[str]:
    """The files that a row names: the table's own."""
    return {row["mask"], row["probability"]} - {""}


def differences(row: Row, job: Job) -> list[str] | None:
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


def parsed(content: bytes, where: str) -> dict[str, Row]:
    """The rows of a table by their cases. Raises DataError where the file `where` is none."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} is no CSV file in UTF-8 ({error}): rename it, or give another output") from error
    if any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
        raise DataError(
            f"{where} is no table of this version's predict, or was changed: rename it, or give another output folder"
        )
    return {row["case"]: row for row in rows}
