"""predictions.csv: which cases of a folder are segmented, by what, with which result; and so, which are left to do."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlproject.data.storage import Folder
from mlproject.errors import DataError, SettingsError
from mlproject.stages.prediction_rows import COLUMNS, Job, Row, differences, files_of, parsed
from mlproject.tracking.answers import Answer

FILE = "predictions.csv"
WITH_RESULT = ("done", "kept")
SHOWN = 3


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
            self.rows = parsed(folder.read(FILE), folder.locate(FILE))

    def left_to_do(self, jobs: Sequence[Job], force: bool) -> list[Job]:
        """The jobs that are not done as they are wanted now.

        Raises:
            SettingsError: some are done in another way, or files of theirs exist that are no results (unless `force`).
        """
        left, others, foreign = [], [], []
        for job in jobs:
            row = self.rows.get(job.case.name)
            if row is not None and row["status"] in WITH_RESULT:
                found = differences(row, job)
                if found == [] and self.there.issuperset(job.names.values()):
                    row |= {"status": "done", "error": ""}
                    continue
                if found:
                    others.append(f"{job.case.name}: {', '.join(found)}")
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
        before, written = self.rows[job.case.name], set[str]()
        try:
            if before["status"] in WITH_RESULT:  # killed from here on, it must not be taken for that result
                self._enter(job.row("pending"))
            for what, file in files.items():
                self.folder.write(job.names[what], file.read_bytes())
                written.add(job.names[what])
        except DataError:
            if not written:
                self.rows[job.case.name] = before
            raise
        finally:
            self.there |= written
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
        if row is not None and row["status"] in WITH_RESULT and files_of(row) <= self.there:
            self._enter(row | {"status": "kept", "error": error})
            return
        for file in files_of(row) & self.there if row else ():
            self.folder.remove(file)
            self.there.remove(file)
        blank = job.row("failed") if job else dict.fromkeys(COLUMNS, "") | {"case": name, "status": "failed"}
        self._enter(blank | {"error": error})

    def _foreign(self, job: Job) -> list[str]:
        """The files that have a job's names and are not the table's own."""
        row = self.rows.get(job.case.name)
        own = files_of(row) if row else set()
        return [name for name in job.names.values() if name in self.there and name not in own]

    def _enter(self, row: Row) -> None:
        self.rows[row["case"]] = row
        self._write()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(row for _, row in sorted(self.rows.items()))
        self.folder.write(FILE, text.getvalue().encode(errors="backslashreplace"))


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
