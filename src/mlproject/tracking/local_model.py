"""A logged model on this machine, in a process of its own with the code that was logged with it."""

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from mlproject import interrupts
from mlproject.data.case import Case
from mlproject.errors import DataError, ModelError
from mlproject.tracking import model_process
from mlproject.tracking.answers import Answer, Params, about, request_files
from mlproject.tracking.registry import read_description
from mlproject.tracking.served_model import id_of, version_of

SECONDS_TO_END = 30
"""For a process that has closed its output; on a machine with much to do, letting PyTorch go takes a while."""


class LocalModel:
    """A fetched model, ready to segment. The model is loaded once, in `start` or with the first case.

    Attributes:
        channels: what it takes, the reference first.
        version: what it calls itself in its answers.
        model_id: the id under which MLflow logged it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.channels: tuple[str, ...] = tuple(read_description(folder)["channels"])
        self.version, self.model_id = version_of(folder), id_of(folder)
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
        self._end()
        self._errors.close()

    def segment(self, case: Case, params: Params, folder: Path) -> Answer:
        """Segment a case; see answers.Model."""
        images = {channel: str(file) for channel, file in request_files(case, folder).items()}
        self.start()
        request = {"images": images, "params": dict(params), "folder": str(folder)}
        assert self._process is not None
        answer = _exchange(self._process, json.dumps(request))
        if answer is None:
            raise DataError(f"the model's process ended in the midst of this case ({self._end()})")
        if "error" in answer:
            raise DataError(about(case, answer["error"]))
        probability = folder / "probability.nii.gz"
        return Answer(
            mask=folder / "mask.nii.gz",
            probability=probability if probability.exists() else None,
            lesion_ml=float(answer["lesion_volume_ml"]),
            lesion_count=int(answer["lesion_count"]),
            model_version=str(answer["model_version"]),
            model_id=self.model_id,
        )

    def start(self) -> None:
        """Load the model, unless that is done; see answers.Model."""
        if self._process is not None:
            return
        command = [sys.executable, model_process.__file__, str(self.folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        if _exchange(self._process, None) is None:
            raise ModelError(f"the model {self.version} does not run ({self._end()})")

    def _end(self) -> str:
        """Let go of the process, which has ended or is to end now, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "not started"
        try:
            code = process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        with suppress(BrokenPipeError):
            process.__exit__(None, None, None)  # closes its pipes
        if code < 0:
            return f"{interrupts.end_in_words(code)}; was there too little memory?"
        self._errors.seek(0)
        last_line = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        return f"{interrupts.end_in_words(code)}: {last_line}"


def _exchange(process: subprocess.Popen[str], request: str | None) -> dict[str, Any] | None:
    """Send a request, if there is one, and wait for the next answer; None where the process has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        if request is not None:
            process.stdin.write(f"{request}\n")
            process.stdin.flush()
        line = process.stdout.readline()
    except (BrokenPipeError, ValueError):
        return None
    return dict(json.loads(line)) if line else None
