"""What a served model says to images that are too large, or whose headers cannot be believed: one line, status 400."""

import base64
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mlproject.errors import SettingsError
from mlproject.tracking import request_images
from mlproject.tracking.request_images import RequestLimits
from mlproject.tracking.served_model import BadRequestError, StrokeLesionModel
from nifti_faults import sound_file, with_field

GOOD = sound_file(0)
NAN, INFINITE = float("nan"), float("inf")


def ask(model: StrokeLesionModel, file: bytes, packed: bool = True, adc: bytes = GOOD, **more: object) -> pd.DataFrame:
    texts = [gzip.compress(file, 1) if packed else file, gzip.compress(adc, 1)]
    row = dict(zip(("dwi", "adc"), (base64.b64encode(text).decode() for text in texts), strict=True))
    return model.predict(None, pd.DataFrame([row]), more)  # type: ignore[arg-type]


def refusal(model: StrokeLesionModel, file: bytes, packed: bool = True, adc: bytes = GOOD) -> str:
    with pytest.raises(BadRequestError) as caught:
        ask(model, file, packed, adc)
    return caught.value.message


def with_extension(size: int, flag: int = 1) -> bytes:
    """A file with 32 bytes between header and voxels, which one extension of this claimed size begins."""
    moved = with_field(GOOD, "vox_offset", 384)
    return moved[:348] + bytes([flag, 0, 0, 0]) + struct.pack("<2i", size, 6) + bytes(24) + moved[352:]


NONSENSE: dict[str, tuple[bytes, str]] = {
    "negative dimension": (with_field(GOOD, "dim", -5, 1), "claims 3 dimensions of [-5, 20, 16] voxels"),
    "no dimension": (with_field(GOOD, "dim", 0), "claims 0 dimensions"),
    "eight dimensions": (with_field(GOOD, "dim", 8), "claims 8 dimensions"),
    "huge dimension": (with_field(GOOD, "dim", 32767, 1), "32767 voxels along one axis"),
    "more voxels than bytes": (with_field(GOOD, "dim", 2000, 1), "is truncated: 11872 of 1280352 bytes are there"),
    "unknown data type": (with_field(GOOD, "datatype", 3), "there is no data type 3"),
    "another data type": (with_field(GOOD, "datatype", 2), "uint8 has 8 bits, not 16"),
    "complex": (with_field(with_field(GOOD, "datatype", 32), "bitpix", 64), "give one real number a voxel"),
    "voxels beyond the end": (with_field(GOOD, "vox_offset", 1e6), "is truncated"),
    "voxels in the header": (with_field(GOOD, "vox_offset", 100), "begin at byte 100, and 352 is the first possible"),
    "voxels nowhere": (with_field(GOOD, "vox_offset", NAN), "begin at byte nan"),
    "voxels far away": (with_field(GOOD, "vox_offset", 3e8), "bytes of extensions are the most"),
    "no scaling": (with_field(GOOD, "scl_slope", NAN), "scl_slope nan"),
    "endless scaling": (with_field(GOOD, "scl_inter", INFINITE), "scl_inter inf"),
    "an extension without an end": (with_extension(2**31 - 1), "claims 2147483647 bytes"),
    "an extension of nothing": (with_extension(0), "claims 0 bytes"),
    "an affine of NaN": (with_field(GOOD, "srow", NAN, 3), "its affine is not invertible"),
    "a flat affine": (with_field(GOOD, "srow", 0, 0), "affine"),
    "voxels of kilometres": (with_field(GOOD, "srow", 1e6, 0), "1e+06 x 2 x 2 mm"),
    "pair of files": (GOOD[:344] + b"ni1\0" + GOOD[348:], "the header of two files"),
    "ANALYZE": (GOOD[:344] + bytes(4) + GOOD[348:], "is no NIfTI file"),
    "short": (GOOD[:300], "is no NIfTI file"),
    "truncated": (GOOD[:-1], "is truncated: 11871 of 11872 bytes are there"),
    "a tail": (GOOD + bytes(2**21), "bytes behind its voxels"),
}


@pytest.fixture
def model(served: Callable[..., StrokeLesionModel]) -> StrokeLesionModel:
    return served()


def test_nonsense_in_a_header_is_refused_in_one_line(model: StrokeLesionModel) -> None:
    said = {}
    for kind, (file, _) in NONSENSE.items():
        for packed in (False, True):
            print(kind)  # the one that is answered
            said[kind] = refusal(model, file, packed)
    for kind, message in said.items():
        assert NONSENSE[kind][1] in message, f"{kind}: {message}"
        assert "\n" not in message and len(message) < 300 and message.startswith("row 1"), f"{kind}: {message}"


def test_extensions_and_a_filled_up_block_are_no_fault(model: StrokeLesionModel) -> None:
    plain = ask(model, GOOD)
    for file in (with_extension(32), with_extension(-1, flag=0), GOOD + bytes(512)):
        assert ask(model, file).equals(plain)


def test_what_is_too_large_is_refused_before_it_is_held(
    served: Callable[..., StrokeLesionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(limit: str, value: int, file: bytes = GOOD) -> str:
        with monkeypatch.context() as environment:
            environment.setenv(f"STROKE_LESION_MAX_{limit}", str(value))
            model = served()
            environment.setattr(request_images.Path, "open", lambda *_, **__: pytest.fail("it was written"))
            return refusal(model, file)

    assert "has 5760 voxels: 5759 are the most (STROKE_LESION_MAX_VOXELS)" in message("VOXELS", 5759)
    assert "has 20 voxels along one axis: 19 are the most (STROKE_LESION_MAX_EDGE)" in message("EDGE", 19)
    assert "11871 bytes when it is decompressed (STROKE_LESION_MAX_BYTES)" in message("BYTES", 11871)
    large = with_field(with_field(GOOD, "dim", 200, 1), "dim", 200, 2)
    assert "has 1280352 bytes: 20000 are the most (STROKE_LESION_MAX_BYTES)" in message("BYTES", 20000, large)
    characters = len(base64.b64encode(gzip.compress(GOOD, 1)))
    limit = characters - 1
    assert f"{characters} characters of base64: {limit} are the most (STROKE_LESION_MAX_BASE64)" in message(
        "BASE64", limit
    )


def test_a_grid_that_only_resampling_would_make_large_is_refused(
    served: Callable[..., StrokeLesionModel], segmenter: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STROKE_LESION_MAX_VOXELS", "100000")
    model = served()
    described = model.segmenter.description
    preprocessing = type(described.preprocessing)(spacing_mm=(1.0, 1.0, 1.0))
    object.__setattr__(described, "preprocessing", preprocessing)
    coarse = GOOD
    for axis in range(3):
        coarse = with_field(with_field(coarse, "srow", 4, 5 * axis), "pixdim", 4, axis + 1)
    assert "100000 are the most" in refusal(model, coarse, adc=coarse)


def test_a_gzip_bomb_ends_at_the_limit(
    served: Callable[..., StrokeLesionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(GOOD + bytes(2**28))
    assert len(bomb) < 2**20
    taken = []
    original = request_images._Source.take

    def take(self: request_images._Source, count: int) -> bytes:
        taken.append(len(part := original(self, count)))
        return part

    monkeypatch.setattr(request_images._Source, "take", take)
    assert "bytes behind its voxels" in refusal(served(), bomb, packed=False)
    assert sum(taken) < 2**21
    monkeypatch.setenv("STROKE_LESION_MAX_BYTES", str(2**20))
    assert "has more than 1048576 bytes when it is decompressed" in refusal(served(), bomb, packed=False)


def test_a_million_empty_gzip_streams_are_refused(model: StrokeLesionModel) -> None:
    assert "gzip streams" in refusal(model, gzip.compress(b"") * 10**5 + gzip.compress(GOOD), packed=False)


def test_rows(served: Callable[..., StrokeLesionModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROKE_LESION_MAX_ROWS", "2")
    with pytest.raises(BadRequestError, match="3 cases in one request: send 2 at the most"):
        served().predict(None, pd.DataFrame([{"dwi": "x", "adc": "y"}] * 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1e9", "²"])
def test_a_limit_that_is_no_number_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match=r"STROKE_LESION_MAX_VOXELS=.*whole number above 0, as 134217728"):
        RequestLimits.of({"STROKE_LESION_MAX_VOXELS": text})


def test_the_answer_is_on_the_grid_that_was_sent(model: StrokeLesionModel, tmp_path: Path) -> None:
    expected = nib.Nifti1Image.from_bytes(GOOD).affine.copy()
    expected[0, 3] = 11.5
    answer = ask(model, with_field(with_extension(32), "srow", 11.5, 3), return_probability=True).iloc[0]
    for name in ("mask", "probability"):
        (tmp_path / f"{name}.nii.gz").write_bytes(base64.b64decode(answer[name]))
        np.testing.assert_array_equal(nib.load(tmp_path / f"{name}.nii.gz").affine, expected)
