"""Radiological correctness of the report's pictures, and of the volumes that its viewer gets."""

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from mlproject.evaluation.palette import ORANGE, SKY_BLUE
from mlproject.evaluation.sampling import cut, for_viewer, sample
from mlproject.evaluation.slices import PLANE_PX, encoded, planes, slice_with_most, thumbnail

CODES = ["RAS", "LAS", "LPS", "RPI", "PIR", "SRA", "ILP"]


def case(shape=(30, 40, 24), spacing=(2.0, 2.0, 3.0)):
    """RAS: a box of brain. The reference lies on the patient's LEFT, in front, above; the prediction on the RIGHT."""
    image = np.zeros(shape, np.float32)
    brain = tuple(slice(n // 10, -(n // 10)) for n in shape)
    image[brain] = np.random.default_rng(0).normal(0, 1, image[brain].shape)
    reference, prediction = np.zeros((2, *shape), np.uint8)
    i, j, k = (n // 4 for n in shape)
    reference[i - 2 : i + 2, -j - 2 : -j + 2, -k - 2 : -k + 2] = 1
    prediction[-i - 2 : -i + 2, j - 2 : j + 2, k - 2 : k + 2] = 1
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-31, -40, -20]
    return image, reference, prediction, affine


def stored_as(codes, *arrays, affine):
    """The same case with its voxels in another order on disk."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(codes))
    )
    moved = [nib.orientations.apply_orientation(array, turn) for array in arrays]
    return *moved, affine @ nib.orientations.inv_ornt_aff(turn, arrays[0].shape)


def cut_case(codes="RAS", **options):
    *arrays, affine = case(**options)
    image, reference, prediction, affine = stored_as(codes, *arrays, affine=affine)
    return cut(image, [reference, prediction], affine)


def centre_of(picture, colour):
    """Mean (row, column) of the pixels of a colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    rows, columns = np.nonzero((np.asarray(picture) == wanted).all(axis=2))
    assert len(rows), f"nothing in {colour}"
    return rows.mean(), columns.mean()


def opened(text):
    return Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


@pytest.mark.parametrize("codes", CODES)
def test_a_lesion_on_the_patients_left_is_on_the_viewers_right(codes):
    seen = cut_case(codes)
    sheet = planes(seen, [SKY_BLUE, ORANGE])
    widths = [round(PLANE_PX * across / up) for across, up in ((48, 64), (48, 60), (64, 60))]
    corners = np.cumsum([0, *(width + 8 for width in widths)])
    assert sheet.width == corners[-1] - 8
    for number, (row_is_above, column_is_right) in enumerate([(True, True), (True, True), (True, False)]):
        left = int(corners[number])
        plane = sheet.crop((left, 0, left + widths[number], PLANE_PX))
        row, column = centre_of(plane, SKY_BLUE)
        assert (row < PLANE_PX / 2) == row_is_above  # in front in the axial slice, above in the others
        assert (column > plane.width / 2) == column_is_right  # in front is left in the sagittal one
    assert thumbnail(seen, [SKY_BLUE]).height < PLANE_PX


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("budget", [10**6, 4000])
def test_the_viewers_volumes_lie_where_the_scan_does(codes, budget):
    _, reference, prediction, affine = case()
    data = for_viewer(cut_case(codes), budget)
    grey, masks = opened(data.grey), opened(data.masks)
    np.testing.assert_array_equal(grey.affine, masks.affine)
    assert nib.aff2axcodes(masks.affine) == ("R", "A", "S")
    bits = np.asarray(masks.dataobj)
    for bit, mask in ((1, reference), (2, prediction)):
        there = nib.affines.apply_affine(masks.affine, np.argwhere(bits & bit).mean(axis=0))
        meant = nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))
        assert np.abs(there - meant).max() <= max(data.spacing_mm) / 2


def test_what_fits_the_budget_keeps_its_grid():
    seen = cut_case()
    data = for_viewer(seen, 10**6)
    assert data.spacing_mm == pytest.approx((2, 2, 3))
    np.testing.assert_array_equal(np.asarray(opened(data.masks).dataobj), seen.masks)
    np.testing.assert_allclose(np.asarray(opened(data.grey).dataobj) / 252, seen.grey, atol=0.01)


@pytest.mark.parametrize("budget", [3000, 10_000, 25_000])
def test_the_budget_is_kept_and_used(budget):
    data = for_viewer(cut_case(shape=(48, 56, 40)), budget)
    assert budget / 2 < len(data.grey) + len(data.masks) <= budget
    assert max(data.spacing_mm) < 3 * min(data.spacing_mm)  # the finest axes are sampled down first


def test_no_lesion_is_lost_by_the_sampling():
    image, _, _, affine = case()
    lesions = np.zeros(image.shape, np.uint8)
    for at in ((6, 7, 5), (15, 20, 12), (22, 30, 18)):
        lesions[at] = 1
    data = for_viewer(cut(image, [lesions * 0, lesions], affine), 2000)
    assert min(data.spacing_mm) > 4
    assert np.count_nonzero(np.asarray(opened(data.masks).dataobj) == 2) == 3


def test_only_what_there_is_to_see_is_kept():
    image, reference, prediction, affine = case()
    wide = [np.pad(array, 9) for array in (image, reference, prediction)]
    wide_affine = affine.copy()
    wide_affine[:3, 3] -= 9 * np.diag(affine)[:3]
    seen = cut(wide[0], wide[1:], wide_affine)
    assert seen.grey.shape == (24, 32, 20)
    np.testing.assert_allclose(seen.affine @ [0, 0, 0, 1], affine @ [3, 4, 2, 1])
    assert ((seen.grey > 0) == (image[3:-3, 4:-4, 2:-2] != 0)).all()  # black outside the brain, never inside
    outside = np.zeros_like(wide[1])
    outside[0, 0, 0] = 1
    assert cut(wide[0], [outside], wide_affine).masks[0, 0, 0] == 1  # a mask far outside the brain stays in view


def test_sampling_keeps_means_and_places():
    values = np.zeros((9, 8, 8), np.float32)
    values[:4, :4, :4] = 1
    coarse, affine = sample(values, np.eye(4), np.array([2.0, 4.0, 8.0]))
    assert coarse.shape == (5, 2, 1)
    np.testing.assert_allclose(coarse[:, 0, 0], [0.5, 0.5, 0, 0, 0])
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [0.5, 1.5, 3.5, 1])
    coarse, affine = sample(values, np.eye(4), np.array([1.5, 1.5, 1.5]))
    assert coarse.shape == (6, 6, 6)
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [0.25, 0.25, 0.25, 1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5, 3)])
def test_an_image_without_anything_in_it(shape):
    nothing = np.zeros(shape, np.float32)
    seen = cut(nothing, [nothing, nothing], np.eye(4))
    assert planes(seen, [SKY_BLUE, ORANGE]).height == PLANE_PX
    assert opened(for_viewer(seen, 10_000).grey).shape == shape


def test_the_slice_with_most_of_the_reference_else_of_the_prediction_else_of_the_brain():
    image, reference, prediction, affine = case()
    reference[:, :, 6] |= image[:, :, 6] > 1.5
    assert slice_with_most(cut(image, [reference, prediction], affine), 2) == 6 - 2
    assert slice_with_most(cut(image, [reference * 0, prediction], affine), 2) in range(4 - 2, 8 - 2)
    image[:, :, 9] = 1
    assert slice_with_most(cut(image, [reference * 0, prediction * 0], affine), 2) == 9 - 2


def test_pictures_are_files_of_their_kind():
    sheet = planes(cut_case(), [SKY_BLUE, ORANGE])
    assert encoded(sheet, "PNG").startswith(b"\x89PNG")
    assert encoded(sheet, "WEBP")[8:12] == b"WEBP"
