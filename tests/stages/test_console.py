"""What the command line prints: one JSON document or text for people, and errors in one line."""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from mlproject import cli
from mlproject.errors import CasesFailedError, DataError, Interrupted
from mlproject.stages.console import clock, console

Stage = Callable[[Any], Mapping[str, Any] | None]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], None]:
    """Puts a function in the place of `clean`, whose settings need nothing."""

    def put(function: Stage) -> None:
        monkeypatch.setitem(sys.modules, "mlproject.stages.clean", SimpleNamespace(run=function))

    return put


def talk(_settings: Any) -> dict[str, Any]:
    console.print("for people")
    print("a library's print")
    logging.getLogger("mlproject").info("making cases")
    os.write(1, b"a library written in C\n")
    subprocess.run(["echo", "a child process"], check=True)
    return {"dice": float("nan"), "file": Path("/a/b"), "rows": [{"low": float("-inf"), "n": 3}]}


def test_json_is_alone_on_standard_output(stage: Callable[[Stage], None], capfd: pytest.CaptureFixture[str]) -> None:
    stage(talk)
    for options in (["--json"], ["--json", "true"], ["--json=true"]):
        assert cli.main(["clean", *options]) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out) == {
            "stage": "clean", "status": "finished", "dice": None, "file": "/a/b", "rows": [{"low": None, "n": 3}],
        }  # fmt: skip
        assert "for people" not in captured.err and "making cases" not in captured.err
        assert "a child process" in captured.err and "a library's print" in captured.err
    assert cli.main(["--json", "false", "clean"]) == 0
    printed = capfd.readouterr().out
    assert "for people\n" in printed and "making cases\n" in printed and "{" not in printed


def raising(error: Exception | Interrupted) -> Stage:
    def run(_settings: Any) -> None:
        raise error

    return run


FULL = OSError(28, "No space left on device", "/work/x")


@pytest.mark.parametrize(
    ("error", "code", "status", "words"),
    [
        (DataError("two cases are bad"), 2, "failed", "error: two cases are bad"),
        (Interrupted("stopped by SIGINT", 2), 130, "stopped", "error: stopped by SIGINT"),
        (ValueError("bad [dwi, adc]\nmore"), 1, "failed", "error: ValueError: bad [dwi, adc]. This is a fault"),
        (FULL, 1, "failed", "error: /work/x: No space left on device"),
        (
            requests.ConnectionError("refused\nlong story"),
            1,
            "failed",
            "error: the tracking server or a bucket failed: refused",
        ),
        (RuntimeError(""), 1, "failed", "error: RuntimeError: RuntimeError. This is a fault"),
    ],
)
def test_errors_are_one_line(
    error: Exception | Interrupted,
    code: int,
    status: str,
    words: str,
    stage: Callable[[Stage], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage(raising(error))
    assert cli.main(["clean", "--json"]) == code
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["status"] == status and captured.err == f"error: {document['error']}\n"
    assert captured.err.startswith(words) and captured.err.count("\n") == 1
    assert cli.main(["clean", "--debug"]) == code
    captured = capsys.readouterr()
    assert "Traceback" in captured.err and words in captured.err and captured.out == ""


def test_what_fails_on_the_way_out_does_not_hide_a_stop(
    stage: Callable[[Stage], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_settings: Any) -> None:
        try:
            raise Interrupted("stopped by SIGINT", 2)
        finally:
            raise OSError(39, "Directory not empty", "model")

    stage(stopped)
    assert cli.main(["clean"]) == 130
    assert capsys.readouterr().err == "error: stopped by SIGINT\n"


def test_cases_that_failed_are_in_the_document(
    stage: Callable[[Stage], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(raising(CasesFailedError("1 of 2 cases failed", {"done": ["a"], "failed": {"b": "no dwi"}})))
    assert cli.main(["clean", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "stage": "clean", "status": "failed", "error": "1 of 2 cases failed", "done": ["a"], "failed": {"b": "no dwi"},
    }  # fmt: skip


def test_a_refusal_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "failed" and "did you mean 'train'" in document["error"]
    assert cli.main(["clean", "--json", "yes"]) == 2
    assert cli.main(["clean", "--json=yes"]) == 2
    assert "--json is true or false, got 'yes'" in capsys.readouterr().err


def test_print_config_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--training.seed", "7", "--print_config"]) == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert cli.main(["train", "--config", str(tmp_path / "a.yaml"), "--print_config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["training"]["seed"] == 7


def test_warnings_are_a_line_each(
    stage: Callable[[Stage], None], capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    logging.captureWarnings(False)  # what pytest has put in its place since
    request.addfinalizer(lambda: logging.captureWarnings(False))

    def run(_settings: Any) -> None:
        logging.getLogger("a.library").info("chatter")
        logging.getLogger("a.library").warning("the disk is slow")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("odd\nvalues", RuntimeWarning, stacklevel=1)

    stage(run)
    assert cli.main(["clean"]) == 0
    assert capsys.readouterr().err == "warning: the disk is slow\nwarning: RuntimeWarning: odd values\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (7265, "2:01:05"), (59.9, "1:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
