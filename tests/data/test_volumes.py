import gzip
import logging
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from mlproject.data.case import Case
from mlproject.data.image_files import ImageFile
from mlproject.data.volumes import read_volume
from mlproject.errors import DataError

SHAPE = (10, 12, 8)
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -11], [0, 0, 3, -7], [0, 0, 0, 1]])


def head(seed: int = 0) -> np.ndarray:
    """A box of noisy tissue in a background of zero."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[2:8, 2:10, 1:7] = np.random.default_rng(seed).uniform(50, 100, (6, 8, 6))
    return image


def mask() -> np.ndarray:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:5, 3:6, 2:4] = 1
    return label


def write(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    images = {"dwi": write(tmp_path / "dwi.nii.gz", head(0)), "adc": write(tmp_path / "adc.nii.gz", head(1))}
    return Case("sub-1", images, write(tmp_path / "msk.nii.gz", mask()), "sub-1")


def fault_of(case: Case, labelled: bool = True) -> str:
    with pytest.raises(DataError) as error:
        read_volume(case, labelled)
    return str(error.value)


def test_a_case_is_read_voxel_by_voxel(case: Case) -> None:
    volume = read_volume(case)
    np.testing.assert_array_equal(volume.image, [head(0), head(1)])
    np.testing.assert_array_equal(volume.label, mask())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert volume.image.dtype == np.float32
    assert volume.label.dtype == np.uint8
    assert volume.spacing_mm == pytest.approx((2, 2, 3))
    assert volume.voxel_ml == pytest.approx(0.012)
    assert volume.lesion_ml == pytest.approx(12 * 0.012)


@pytest.mark.parametrize("extension", [".nii", ".mha", ".mhd", ".nrrd", ".hdr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_formats_and_types_read_alike(case: Case, tmp_path: Path, extension: str, dtype: type) -> None:
    values = head().astype(dtype)
    image = SimpleITK.GetImageFromArray(values.transpose())
    image.SetSpacing((2, 2, 3))
    image.SetOrigin((-9, 11, -7))  # ITK's world is LPS: x and y are mirrored
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, tmp_path / f"other{extension}")
    volume = read_volume(Case("c", {"dwi": tmp_path / f"other{extension}"}, case.label, "c"))
    np.testing.assert_array_equal(volume.image[0], values.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


def test_a_trailing_axis_of_one_is_accepted_and_more_volumes_are_not(case: Case) -> None:
    write(case.images["dwi"], head()[..., None])
    assert read_volume(case).image.shape == (2, *SHAPE)
    write(case.images["dwi"], np.stack([head(), head()], axis=-1))
    assert "dwi.nii.gz: holds 2 values a voxel" in fault_of(case)
    write(case.images["dwi"], np.stack([head()] * 3, axis=-1)[..., None, :])  # 5-D, as perfusion series are
    assert "dwi.nii.gz: holds 3 values a voxel" in fault_of(case)


def test_a_channel_on_another_grid_is_interpolated_in_scanner_space(case: Case) -> None:
    # What the channel shows is its place in mm, x + 10 y + 100 z, sampled on an oblique, shifted, finer grid.
    angle = 0.2
    rotation = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    other = np.eye(4)
    other[:3, :3] = rotation @ np.diag([1.5, -1.2, 2.5])
    other[:3, 3] = rotation @ [-20, 25, -15] + [1, 2, 3]
    index = np.stack(np.meshgrid(*map(np.arange, (30, 42, 16)), indexing="ij"), axis=-1)
    ramp = np.array([1, 10, 100])
    write(case.images["adc"], ((index @ other[:3, :3].T + other[:3, 3]) @ ramp).astype(np.float32), other)
    place = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    volume = read_volume(case)
    np.testing.assert_allclose(volume.image[1], place @ ramp, atol=0.05)
    np.testing.assert_array_equal(volume.image[0], head(0))


def test_a_channel_that_ends_early_is_zero_beyond_its_field_of_view(case: Case) -> None:
    write(case.images["adc"], head(1)[:, :, :4])
    volume = read_volume(case)
    np.testing.assert_array_equal(volume.image[1][:, :, :4], head(1)[:, :, :4])
    assert not volume.image[1][:, :, 5:].any()


def test_header_rounding_does_not_make_another_grid(case: Case) -> None:
    rounded = AFFINE.copy()
    rounded[0, 0] += 2e-4
    write(case.images["adc"], head(1), rounded)
    write(case.label, mask(), rounded)
    np.testing.assert_array_equal(read_volume(case).image[1], head(1))


def damaged_files(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "nearly whole": whole[: int(len(whole) * 0.99)],
        "without checksum": whole[:-6],
        "one byte wrong": bytes(flipped),
        "not an image": b"hello" * 100,
        "short inside": gzip.compress(gzip.decompress(whole)[:-1]),
    }


@pytest.mark.parametrize("damage", damaged_files(gzip.compress(b"0123456789")))
def test_a_damaged_file_is_one_clear_line(case: Case, damage: str) -> None:
    path = case.images["adc"]
    path.write_bytes(damaged_files(path.read_bytes())[damage])
    text = fault_of(case)
    assert text.startswith(f"sub-1: adc {path}: ")
    assert "\n" not in text


@pytest.mark.parametrize("joined", [False, True], ids=["padded", "joined"])
def test_a_file_compressed_in_parts_or_padded_with_zeros_is_sound(case: Case, joined: bool) -> None:
    path = case.images["adc"]
    whole = path.read_bytes()
    content = gzip.decompress(whole)
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) if joined else whole + bytes(512))
    np.testing.assert_array_equal(read_volume(case).image[1], head(1))


@pytest.mark.parametrize("extension", [".nii", ".mha", ".nrrd"])
def test_a_truncated_file_of_any_format_is_refused(case: Case, tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"short{extension}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(case.images["dwi"], SimpleITK.sitkInt16), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in fault_of(Case("c", {"dwi": path}, None, "c"), labelled=False)


def test_a_header_that_claims_a_giant_volume_is_refused_before_allocation(tmp_path: Path) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 9000 9000 9000\nElementType = MET_FLOAT\n"
    path = tmp_path / "giant.mha"
    path.write_text(header + "ElementDataFile = LOCAL\n")
    assert "9000" in fault_of(Case("c", {"dwi": path}, None, "c"), labelled=False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.where(head() > 90, np.nan, head()), "voxels are NaN or infinite"),
        (np.where(head() > 99.5, np.inf, head()), "voxels are NaN or infinite"),
        (head().astype(np.float64) * 1e38, "voxels are NaN or infinite"),  # beyond float32
        (np.full(SHAPE, 7, dtype=np.float32), "every voxel is 7"),
        (head().astype(np.complex64), "complex numbers"),
    ],
)
def test_unusable_intensities_are_refused(case: Case, values: np.ndarray, expected: str) -> None:
    write(case.images["adc"], values)
    assert expected in fault_of(case)


def test_the_number_of_bad_voxels_is_said(case: Case) -> None:
    values = head()
    values[0, 0, :3] = np.nan
    write(case.images["dwi"], values)
    assert "3 of 960 voxels" in fault_of(case)


@pytest.mark.parametrize(
    ("field", "value", "sform_code"),
    [("srow_x", (0, 0, 0, 5), 1), ("srow_x", (2, 0, 0, np.nan), 1), ("quatern_b", np.nan, 0)],
)
def test_an_affine_without_meaning_is_refused(case: Case, field: str, value: object, sform_code: int) -> None:
    path = case.images["dwi"].with_suffix("").with_suffix(".nii")
    write(path, head())
    header = nib.load(path).header
    header["qform_code"], header["sform_code"], header["vox_offset"] = 1 - sform_code, sform_code, 352
    header[field] = value
    with path.open("r+b") as file:
        file.write(header.binaryblock)
    assert "affine" in fault_of(Case("c", {"dwi": path}, None, "c"), labelled=False)


def test_sform_and_qform_that_disagree_are_reported(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(head(), AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 30
    image.set_sform(shifted, 4)
    image.set_qform(AFFINE, 1)
    nib.save(image, case.images["dwi"])
    with caplog.at_level(logging.WARNING):
        read_volume(case, labelled=False)
    assert "30.0 mm apart" in caplog.text
    caplog.clear()
    read_volume(Case("c", {"adc": case.images["adc"]}, None, "c"), labelled=False)
    assert not caplog.text


def test_a_channel_of_another_place_is_refused(case: Case) -> None:
    elsewhere = AFFINE.copy()
    elsewhere[2, 3] += 500
    write(case.images["adc"], head(1), elsewhere)
    assert "shows nothing where the reference channel is" in fault_of(case)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (mask() * 2, "(0, 2)"),
        (mask() * 0.5, "(0, 0.5)"),
        (np.arange(960).reshape(SHAPE), "960 values (0, 1, 2,"),
    ],
)
def test_a_label_that_is_not_binary_is_refused(case: Case, values: np.ndarray, shown: str) -> None:
    write(case.label, values.astype(np.float32))
    assert f"is not binary: it holds {shown}" in fault_of(case).replace("2 values ", "")


def test_a_label_without_lesion_is_a_label(case: Case) -> None:
    write(case.label, mask() * 0)
    assert read_volume(case).lesion_ml == 0


def other_grids() -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    shifted = AFFINE.copy()
    shifted[1, 3] += 1
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    return {
        "shape": (mask()[:-1], AFFINE, "9x12x8"),
        "shift": (mask(), shifted, "up to 1 mm apart"),
        "orientation": (mask(), flipped, "orientation RAS"),
        "spacing": (mask(), AFFINE @ np.diag([1, 1, 0.5, 1]), "2x2x1.5 mm"),
    }


@pytest.mark.parametrize("difference", other_grids())
def test_a_label_on_another_grid_is_refused(case: Case, difference: str) -> None:
    values, affine, shown = other_grids()[difference]
    write(case.label, values, affine)
    text = fault_of(case)
    assert shown in text
    assert "10x12x8 voxels of 2x2x3 mm, orientation LAS" in text


def test_without_labels_the_label_is_not_read(case: Case) -> None:
    case.label.write_bytes(b"")
    volume = read_volume(case, labelled=False)
    assert volume.label is None
    assert volume.lesion_ml is None


def test_digests_follow_content_not_compression(case: Case, tmp_path: Path) -> None:
    digests = read_volume(case).channel_digests
    copies = {name: write(tmp_path / f"copy-{name}.nii", head(i)) for i, name in enumerate(("dwi", "adc"))}
    assert read_volume(Case("c", copies, None, "c"), labelled=False).channel_digests == digests
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    write(copies["dwi"], head(0), moved)
    changed = head(1)
    changed[4, 4, 4] += 1e-3
    write(copies["adc"], changed)
    again = read_volume(Case("c", copies, None, "c"), labelled=False).channel_digests
    assert again["dwi"] != digests["dwi"]
    assert again["adc"] != digests["adc"]


def test_digests_do_not_follow_header_rounding() -> None:
    rounded = AFFINE.copy()
    rounded[0, 1] = -1e-7  # and -0.0 after rounding
    assert ImageFile(head(), rounded).digest() == ImageFile(head(), AFFINE).digest()


def test_the_real_case(lesion_data: Path) -> None:
    folder = lesion_data / "isles22"
    images = {c: next(folder.rglob(f"*_{c}.nii.gz")) for c in ("dwi", "adc", "flair")}
    volume = read_volume(Case("real", images, next(folder.rglob("*_msk.nii.gz")), "real"))
    assert volume.image.shape == (3, 112, 112, 73)
    assert volume.lesion_ml == pytest.approx(4.18, abs=0.005)
    dwi, adc, flair = volume.image[:, volume.image[0] != 0]
    assert np.corrcoef(dwi, flair)[0, 1] > 0.4  # 0.57; of a wrongly placed FLAIR it is below 0.2
    assert np.corrcoef(dwi, adc)[0, 1] < -0.4
    assert np.mean(flair != 0) > 0.95


def test_the_real_metaimage_case(lesion_data: Path) -> None:
    images = {c: lesion_data / "inference_only" / f"{c}.mha" for c in ("dwi", "adc", "flair")}
    volume = read_volume(Case("mha", images, None, "mha"), labelled=False)
    assert volume.image.shape == (3, 128, 128, 25)
    assert np.corrcoef(volume.image[0].ravel(), volume.image[2].ravel())[0, 1] > 0.8
