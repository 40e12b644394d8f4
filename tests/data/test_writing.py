from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from mlproject.data import writing
from mlproject.data.writing import write_like
from mlproject.errors import DataError

SHAPE = (6, 7, 5)
ROTATION = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.0]])
MASK = (np.arange(210).reshape(SHAPE) % 3 == 0).astype(np.uint8)


def oblique() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = ROTATION @ np.diag([-2, 2, 3])
    affine[:3, 3] = [10, -20, 30]
    return affine


def nifti_reference(path: Path, sform_code: int, qform_code: int) -> nib.Nifti1Header:
    """A scan whose header says more than its grid: patient, scaling, an intent, an extension."""
    image = nib.Nifti1Image(np.arange(210, dtype=np.int16).reshape(SHAPE), oblique())
    image.set_sform(oblique(), sform_code)
    image.set_qform(oblique(), qform_code)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_intent("z score", name="JANE DOE")
    for field in ("descrip", "db_name", "aux_file"):
        image.header[field] = b"JANE DOE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"JANE DOE"))
    image.header.set_slope_inter(3, 5)
    nib.save(image, path)
    return nib.load(path).header


@pytest.mark.parametrize("codes", [(1, 2), (0, 1), (4, 0), (2, 1), (0, 0)])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_nifti_keeps_the_grid_to_the_bit_and_nothing_else(
    tmp_path: Path, codes: tuple[int, int], extension: str
) -> None:
    reference = nifti_reference(tmp_path / "scan.nii.gz", *codes)
    output = tmp_path / "new folder" / f"mask{extension}"
    write_like(MASK, tmp_path / "scan.nii.gz", output)
    image = nib.load(output)
    np.testing.assert_array_equal(np.asarray(image.dataobj), MASK)
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    for field in (*writing.NIFTI_GEOMETRY, "dim"):
        np.testing.assert_array_equal(image.header[field], reference[field], err_msg=field)
    np.testing.assert_array_equal(image.header["pixdim"][:4], reference["pixdim"][:4])
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == codes
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_slope_inter() in [(1, 0), (None, None)]  # nibabel reads 1, 0 as "no scaling"
    assert image.header.get_intent()[0] == "none"
    assert not image.header.extensions
    stored = output.read_bytes() if extension == ".nii" else nib.openers.Opener(output).read()
    assert b"JANE" not in stored
    assert [path.name for path in output.parent.iterdir()] == [output.name]  # no temporary file stays


def test_a_probability_is_float32(tmp_path: Path) -> None:
    nifti_reference(tmp_path / "scan.nii", 1, 1)
    probability = np.random.default_rng(0).random(SHAPE)
    write_like(probability, tmp_path / "scan.nii", tmp_path / "p.nii.gz")
    image = nib.load(tmp_path / "p.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj), probability.astype(np.float32))


@pytest.mark.parametrize("reference", [".mha", ".nrrd", ".nii.gz"])
@pytest.mark.parametrize("output", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_other_formats_keep_origin_spacing_and_direction(tmp_path: Path, reference: str, output: str) -> None:
    scan = SimpleITK.GetImageFromArray(np.arange(210, dtype=np.float32).reshape(SHAPE).transpose())
    scan.SetSpacing((1.5, 2.25, 4))
    scan.SetOrigin((-31, 17.5, 8))
    scan.SetDirection(tuple((ROTATION @ ROTATION[[2, 0, 1]]).ravel()))
    SimpleITK.WriteImage(scan, tmp_path / f"scan{reference}")
    scan = SimpleITK.ReadImage(tmp_path / f"scan{reference}")
    write_like(MASK, tmp_path / f"scan{reference}", tmp_path / f"mask{output}")
    mask = SimpleITK.ReadImage(tmp_path / f"mask{output}")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).transpose(), MASK)
    assert mask.GetPixelID() == SimpleITK.sitkUInt8
    np.testing.assert_allclose(mask.GetSpacing(), scan.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(mask.GetDirection(), scan.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("reference", [".mha", ".nrrd"])
@pytest.mark.parametrize("output", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_what_other_formats_say_in_words_is_not_copied(tmp_path: Path, reference: str, output: str) -> None:
    scan = SimpleITK.GetImageFromArray(np.arange(210, dtype=np.float32).reshape(SHAPE).transpose())
    scan.SetMetaData("PatientName", "JANE DOE")
    scan.SetMetaData("descrip", "JANE DOE")
    SimpleITK.WriteImage(scan, tmp_path / f"scan{reference}")
    assert b"JANE" in (tmp_path / f"scan{reference}").read_bytes()
    write_like(MASK, tmp_path / f"scan{reference}", tmp_path / f"mask{output}")
    assert b"JANE" not in nib.openers.Opener(str(tmp_path / f"mask{output}")).read()
    assert not any("JANE" in str(value) for value in metadata(tmp_path / f"mask{output}"))


def metadata(path: Path) -> list[str]:
    image = SimpleITK.ReadImage(path)
    return [image.GetMetaData(key) for key in image.GetMetaDataKeys()]


def test_a_reference_with_a_trailing_axis_of_one(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 1), dtype=np.float32), oblique()), tmp_path / "scan.nii")
    write_like(MASK, tmp_path / "scan.nii", tmp_path / "mask.nii")
    assert nib.load(tmp_path / "mask.nii").shape == SHAPE


def test_a_nifti_2_reference_stays_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.zeros(SHAPE, dtype=np.float32), oblique()), tmp_path / "scan.nii")
    write_like(MASK, tmp_path / "scan.nii", tmp_path / "mask.nii")
    image = nib.load(tmp_path / "mask.nii")
    assert isinstance(image, nib.Nifti2Image)
    np.testing.assert_array_equal(image.affine, oblique())


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    nifti_reference(tmp_path / "scan.nii", 1, 1)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_like(MASK, tmp_path / "scan.nii", tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_old_output_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti_reference(tmp_path / "scan.nii", 1, 1)
    output = tmp_path / "out" / "mask.nii"
    write_like(MASK, tmp_path / "scan.nii", output)
    before = output.read_bytes()

    def full(image: nib.Nifti1Image, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(DataError, match=r"mask\.nii: cannot be written .*No space left"):
        write_like(1 - MASK, tmp_path / "scan.nii", output)
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["mask.nii"]


def test_an_unknown_format_is_refused_with_those_known(tmp_path: Path) -> None:
    nifti_reference(tmp_path / "scan.nii", 1, 1)
    with pytest.raises(DataError, match=r"mask\.png: unknown image format.*\.nii\.gz.*\.nrrd"):
        write_like(MASK, tmp_path / "scan.nii", tmp_path / "mask.png")


@pytest.mark.parametrize("output", ["mask.nii", "mask.mha"])
def test_values_of_another_shape_are_a_mistake_of_the_caller(tmp_path: Path, output: str) -> None:
    nifti_reference(tmp_path / "scan.nii", 1, 1)
    with pytest.raises(ValueError, match="shape"):
        write_like(MASK[1:], tmp_path / "scan.nii", tmp_path / output)
