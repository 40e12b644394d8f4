"""Whatever is sent, a served model answers it or refuses it in one line; `make fuzz` sends thousands of inputs."""

import base64
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pandas as pd
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlproject.prediction.crf import CrfSettings
from mlproject.tracking.served_model import BadRequestError, StrokeLesionModel
from nifti_faults import fields, mutated, sound_file

INPUTS = int(os.environ.get("FUZZ_INPUTS", "40"))
GROWTH = 400 * 2**20
"""Bytes by which the process may grow: the limits below allow images of 8 MiB."""
GOOD = [sound_file(0), sound_file(1)]
FUZZ = settings(
    max_examples=INPUTS, deadline=None, database=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture
def model(served: Callable[..., StrokeLesionModel], monkeypatch: pytest.MonkeyPatch) -> StrokeLesionModel:
    """With a CRF, whose library ends the process where it is given what it does not like."""
    for name, value in {"VOXELS": 2**20, "BYTES": 2**23, "BASE64": 2**24, "EDGE": 256}.items():
        monkeypatch.setenv(f"STROKE_LESION_MAX_{name}", str(value))
    return served(crf=CrfSettings())


def row(dwi: object, adc: object) -> dict[str, object]:
    return {
        name: base64.b64encode(image).decode() if isinstance(image, bytes) else image
        for name, image in (("dwi", dwi), ("adc", adc))
    }


def answered_or_refused(model: StrokeLesionModel, asked: dict[str, object], **params: object) -> str:
    """What a request was refused with; "" where it was answered. Anything else fails the test."""
    try:
        answer = model.predict(None, pd.DataFrame([asked]), params)  # type: ignore[arg-type]
    except BadRequestError as error:
        assert "\n" not in error.message and len(error.message) < 600, error.message
        return error.message
    assert len(answer) == 1 and answer["lesion_volume_ml"].iloc[0] >= 0
    return ""


def within_bounds(model: StrokeLesionModel, ask: Callable[[], None]) -> None:
    """Memory stays where it was, and a correct request is answered right after, as it was before."""
    before = model.predict(None, pd.DataFrame([row(*GOOD)]))  # type: ignore[arg-type]
    held = psutil.Process().memory_info().rss
    ask()
    assert psutil.Process().memory_info().rss < held + GROWTH
    assert model.predict(None, pd.DataFrame([row(*GOOD)])).equals(before)  # type: ignore[arg-type]


def test_changed_headers(model: StrokeLesionModel) -> None:
    @FUZZ
    @given(st.lists(fields(), min_size=1, max_size=4), st.booleans(), st.booleans())
    def ask(changes: list[Callable[[bytes], bytes]], packed: bool, reference: bool) -> None:
        file = GOOD[0]
        for change in changes:
            file = change(file)
        file = gzip.compress(file, 1) if packed else file
        answered_or_refused(model, row(file, GOOD[1]) if reference else row(GOOD[0], file))

    within_bounds(model, ask)


def test_changed_bytes(model: StrokeLesionModel) -> None:
    @FUZZ
    @given(st.randoms(use_true_random=False))
    def ask(chance: Random) -> None:
        answered_or_refused(model, row(mutated(gzip.compress(GOOD[0], 1), chance), GOOD[1]))

    within_bounds(model, ask)


def test_anything_in_a_cell(model: StrokeLesionModel) -> None:
    cell = st.one_of(st.none(), st.text(), st.binary(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2))
    head = st.binary(max_size=600).map(lambda rest: GOOD[0][:348] + rest)
    start = st.sampled_from([b"\x1f\x8b", b"\x1f\x8b\x08\x00", GOOD[0][:4], GOOD[0][:352]])
    begun = st.builds(lambda first, rest: first + rest, start, st.binary(max_size=600))

    @FUZZ
    @given(st.one_of(cell, head, begun), st.one_of(cell, st.just(GOOD[1])))
    def ask(dwi: object, adc: object) -> None:
        assert answered_or_refused(model, row(dwi, adc))

    within_bounds(model, ask)


def test_odd_parameters(model: StrokeLesionModel) -> None:
    odd = st.one_of(st.none(), st.floats(), st.booleans(), st.integers(), st.text(max_size=5), st.just([0.5]))

    @FUZZ
    @given(odd, odd, odd)
    def ask(threshold: object, crf: object, probability: object) -> None:
        answered_or_refused(model, row(*GOOD), threshold=threshold, crf=crf, return_probability=probability)

    within_bounds(model, ask)


def test_changed_real_scans(model: StrokeLesionModel, lesion_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lesion_data / "isles22"
    scans = {channel: next(folder.rglob(f"*_{channel}.nii.gz")).read_bytes() for channel in ("dwi", "adc")}
    chance = Random(0)

    def ask() -> None:
        for _ in range(INPUTS // 20):
            answered_or_refused(model, row(mutated(scans["dwi"], chance), scans["adc"]))

    assert not answered_or_refused(model, row(scans["dwi"], scans["adc"]))
    within_bounds(model, ask)
