"""Requests that are none, sent to a real `mlflow models serve`: refused, and the next one is answered as before."""

import base64
import json
import os
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from bench.serving import listening_at, request_of

from end_to_end.conftest import Workplace
from nifti_faults import mutated

JSON = "application/json"
INPUTS = int(os.environ.get("FUZZ_INPUTS", "40"))


def post(server: str, body: bytes, kind: str = JSON) -> requests.Response:
    return requests.post(server, data=body, headers={"Content-Type": kind} if kind else {}, timeout=120)


@pytest.fixture(scope="module")
def good(workplace: Workplace) -> dict[str, str]:
    """A row that is answered."""
    images = {channel: str(next(workplace.data.rglob(f"*0001_{channel}.nii.gz"))) for channel in ("dwi", "adc")}
    return dict(json.loads(request_of(images))["dataframe_records"][0])


def no_requests(good: dict[str, str]) -> dict[str, tuple[bytes, str]]:
    def of(document: Any) -> tuple[bytes, str]:
        return json.dumps(document).encode(), JSON

    def records(records: Any, **more: Any) -> tuple[bytes, str]:
        return of({"dataframe_records": records, **more})

    tree: Any = 1
    for _ in range(500):
        tree = [tree]
    return {
        "nothing": (b"", JSON), "half": (b'{"dataframe_records": [', JSON), "no UTF-8": (b'{"a": "\xff\xfe"}', JSON),
        "null": of(None), "a list": of([]), "a number": of(5), "a text": of("x"), "an empty object": of({}),
        "deep": (b"[" * 100_000, JSON), "deep records": records(tree), "records of null": records(None),
        "records of a number": records(5), "records of a text": records("x"), "records of numbers": records([5, 6]),
        "records of nulls": records([None]), "records of lists": records([[1, 2]]), "one record": records(good),
        "split of nothing": of({"dataframe_split": {}}), "split of a number": of({"dataframe_split": 3}),
        "split without columns": of({"dataframe_split": {"data": [[1]]}}),
        "split of too few": of({"dataframe_split": {"columns": ["dwi", "adc"], "data": [["x"]]}}),
        "inputs of nothing": of({"inputs": None}), "inputs of a number": of({"inputs": 1}),
        "inputs of lists": of({"inputs": [[1, 2], [3]]}), "instances of a text": of({"instances": "x"}),
        "instances of nothing": of({"instances": []}), "two kinds": of({"inputs": [], "dataframe_records": [good]}),
        "another server's": of({"messages": [{"role": "user", "content": "x"}]}),
        "numbers for images": records([{"dwi": 1, "adc": 2.5}]),
        "objects for images": records([{"dwi": {}, "adc": []}]),
        "true for images": records([{"dwi": True, "adc": False}]),
        "half a character": (b'{"dataframe_records": [{"dwi": "\\ud800", "adc": "x"}]}', JSON),
        "other columns": records([{"flair": good["dwi"]}]), "many rows": records([good] * 17),
        "very many rows": records([{"dwi": "x", "adc": "y"}] * 100_000),
        "very many columns": records([{f"c{number}": "x" for number in range(10_000)}]),
        "NaN": (json.dumps({"dataframe_records": [good], "params": {"threshold": float("nan")}}).encode(), JSON),
        "infinity": (json.dumps({"dataframe_records": [good], "params": {"threshold": float("inf")}}).encode(), JSON),
        "a huge number": (b'{"dataframe_records": [{"dwi": "x"}], "params": {"threshold": 1e999}}', JSON),
        "a threshold in words": records([good], params={"threshold": "high"}),
        "a threshold of true": records([good], params={"threshold": True}),
        "thresholds": records([good], params={"threshold": [0.5]}),
        "a switch in words": records([good], params={"crf": "false"}),
        "a switch of 2": records([good], params={"crf": 2}),
        "an object for a switch": records([good], params={"return_probability": {}}),
        "unknown parameter": records([good], params={"device": "cuda"}),
        "parameters that are none": records([good], params=[1]), "parameters in words": records([good], params="x"),
        "CSV": (b"dwi,adc\n/etc/passwd,http://127.0.0.1:9/\n", "text/csv"),
        "CSV of rubbish": (b"\x00\x01\xff", "text/csv"),
        "CSV with a quote": (b'dwi,adc\n"x', "text/csv"), "no CSV": (b"", "text/csv"),
        "no parquet": (b"PAR1", "application/vnd.mlflow.parquet"), "parquet": (b"", "application/x-parquet"),
        "form": (b"dwi=x", "application/x-www-form-urlencoded"), "unknown kind": (b"x", "nonsense"),
        "another charset": (b"{}", "application/json; charset=latin-1"), "no kind": (b"{}", ""),
    }  # fmt: skip


def test_no_request_is_refused(server: str, good: dict[str, str]) -> None:
    expected = post(server, json.dumps({"dataframe_records": [good]}).encode()).content
    refused = {name: post(server, *sent) for name, sent in no_requests(good).items()}
    wrong = {name: (a.status_code, a.text[:200]) for name, a in refused.items() if not 400 <= a.status_code < 500}
    assert not wrong
    assert not [name for name, answer in refused.items() if "Traceback" in answer.text]
    assert post(server, json.dumps({"dataframe_records": [good]}).encode()).content == expected


def test_changed_files_over_http(server: str, good: dict[str, str]) -> None:
    """The server's process stays the same one, and no larger than its images make it."""
    expected = post(server, json.dumps({"dataframe_records": [good]}).encode()).content
    process = listening_at(urlsplit(server).port or 80)
    assert process is not None
    held, chance = process.memory_info().rss, Random(1)
    file = base64.b64decode(good["dwi"])
    for _ in range(INPUTS // 4):
        row = {**good, "dwi": base64.b64encode(mutated(file, chance)).decode()}
        answer = post(server, json.dumps({"dataframe_records": [row]}).encode())
        assert answer.status_code in (200, 400), answer.text[:500]
        assert answer.status_code == 200 or "\n" not in answer.json()["message"]
    assert process.is_running() and process.memory_info().rss < held + 400 * 2**20
    assert post(server, json.dumps({"dataframe_records": [good]}).encode()).content == expected
