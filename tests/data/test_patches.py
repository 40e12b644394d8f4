import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mlproject.data.augmentation import AugmentationSettings
from mlproject.data.cutting import Batch, CaseVolumes
from mlproject.data.patches import PatchDataset, PatchSettings, sample_centres
from mlproject.data.prepared_grid import Geometry
from mlproject.data.preprocessing import PreparedCase
from mlproject.errors import DataError, SettingsError

PLAIN = AugmentationSettings(
    flip_probability=0,
    affine_probability=0,
    intensity_probability=0,
    gamma_probability=0,
    noise_probability=0,
)


def make_case(
    name: str = "a", shape: tuple[int, int, int] = (12, 14, 10), lesion: tuple[slice, ...] | None = None
) -> PreparedCase:
    """Channel 0 numbers the voxels, channel 1 is the label; all is brain but the first plane of axis 0."""
    label = np.zeros(shape, np.uint8)
    if lesion is not None:
        label[lesion] = 1
    brain = np.ones(shape, bool)
    brain[0] = False
    image = np.stack([np.arange(1, label.size + 1).reshape(shape) * brain, label * brain]).astype(np.float32)
    rows = tuple(tuple(row) for row in np.diag([2.0, 2.0, 2.0, 1.0]).tolist())
    return PreparedCase(name, image, brain, label, None, Geometry(shape, rows, shape, rows), {})


CORNER = (slice(11, 12), slice(0, 1), slice(9, 10))
MIDDLE = (slice(5, 7), slice(5, 8), slice(4, 6))


def patch_at(data: PatchDataset, index: int) -> dict[str, Any]:
    """The patch at an index, changed, as a batch of its own gives it."""
    batch = CaseVolumes(data.cases).batch([data[index]])
    return {"image": batch.image[0], "label": batch.label[0], "case": batch.cases[0]}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["case"] == b["case"] and torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])


def test_a_patch_has_the_stated_shapes_types_and_values() -> None:
    patch = patch_at(PatchDataset([make_case(lesion=MIDDLE)], PatchSettings(size=(8, 6, 4)), seed=0), 3)
    assert patch["image"].shape == (2, 8, 6, 4)
    assert patch["label"].shape == (1, 8, 6, 4)
    assert patch["image"].dtype == patch["label"].dtype == torch.float32
    assert set(patch["label"].unique().tolist()) <= {0.0, 1.0}


def test_an_epoch_takes_every_case_equally_and_neighbours_from_different_cases() -> None:
    cases = [make_case(str(n), lesion=MIDDLE) for n in range(5)]
    data = PatchDataset(cases, PatchSettings(size=(4, 4, 4), per_case=3, augmentation=PLAIN), seed=1)
    assert data.epoch_length == len(data) == 15
    epochs = [[data[15 * epoch + n].case for n in range(15)] for epoch in range(4)]
    for order in epochs:
        assert sorted(order[:5]) == [0, 1, 2, 3, 4]
        assert order[:5] * 3 == order
    assert len({tuple(order) for order in epochs}) > 1


def test_a_patch_depends_on_seed_and_index_alone() -> None:
    cases = [make_case(str(n), lesion=MIDDLE) for n in range(3)]
    data = PatchDataset(cases, PatchSettings(size=(8, 8, 8), per_case=2), seed=7)
    indices = [0, 1, 5, 6, 4_000_003]
    first = [patch_at(data, index) for index in indices]
    torch.manual_seed(99)
    np.random.seed(99)
    fresh = PatchDataset(cases, PatchSettings(size=(8, 8, 8), per_case=2), seed=7)
    for index, patch in reversed(list(zip(indices, first, strict=True))):
        assert same(patch, patch_at(fresh, index)), index
    other_seed = PatchDataset(cases, PatchSettings(size=(8, 8, 8), per_case=2), seed=8)
    assert not any(same(patch, patch_at(other_seed, index)) for index, patch in zip(indices, first, strict=True))
    assert not same(patch_at(data, 0), patch_at(data, 6))  # the same place in the next epoch


def test_each_patch_of_an_epoch_is_changed_in_its_own_way() -> None:
    settings = PatchSettings(size=(8, 8, 8), lesion_share=1, augmentation=AugmentationSettings())
    data = PatchDataset([make_case(lesion=CORNER)], settings, seed=0)  # all patches have the same centre
    assert len({tuple(patch_at(data, index)["image"].flatten().tolist()) for index in range(8)}) == 8


def test_worker_processes_give_the_same_patches() -> None:
    cases = [make_case(str(n), lesion=MIDDLE) for n in range(3)]
    settings = PatchSettings(
        size=(8, 8, 8),
        per_case=2,
        augmentation=AugmentationSettings(affine_probability=0.5, noise_probability=0.5),
    )
    indices = list(range(4, 12))

    def batches(workers: int) -> list[Batch]:
        data, timeout = PatchDataset(cases, settings, seed=0), 60 * (workers > 0)
        return list(
            DataLoader(
                data, 2, sampler=indices, collate_fn=CaseVolumes(cases).batch, num_workers=workers, timeout=timeout
            )
        )

    alone, shared = batches(0), batches(2)
    assert len(alone) == len(shared) == 4
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
        assert a.cases == b.cases


def test_threads_give_the_same_patches() -> None:
    cases = [make_case(str(n), lesion=MIDDLE) for n in range(8)]
    settings = PatchSettings(size=(4, 4, 4), per_case=2)
    expected = PatchDataset(cases, settings, seed=0)
    shared = PatchDataset(cases, settings, seed=0)
    found: dict[int, dict[str, Any]] = {}

    def work(start: int) -> None:
        for index in range(start, 32, 4):
            found[index] = patch_at(shared, index)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[index], patch_at(expected, index)) for index in range(32))


def test_the_global_generators_are_left_as_they_were() -> None:
    every = AugmentationSettings(
        affine_probability=1,
        intensity_probability=1,
        gamma_probability=1,
        bias_probability=1,
        noise_probability=1,
    )
    data = PatchDataset([make_case(lesion=MIDDLE)], PatchSettings(size=(8, 8, 8), augmentation=every), seed=0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    patch_at(data, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_image_is_cut_around_the_centre_and_zero_beyond_the_volume() -> None:
    case = make_case(lesion=CORNER)
    data = PatchDataset([case], PatchSettings(size=(5, 6, 4), lesion_share=1, augmentation=PLAIN), seed=0)
    patch = patch_at(data, 0)
    assert patch["label"][0, 2, 3, 2] == 1  # the centre, at half the size, is the lesion's one voxel
    assert patch["label"].sum() == 1
    padded = np.pad(case.image[0], ((0, 9), (9, 9), (0, 9)))
    assert np.array_equal(patch["image"][0], padded[9:14, 6:12, 7:11])
    assert patch["image"][:, 3:].abs().sum() == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_chosen_share_of_patches_is_centred_on_lesions(share: float) -> None:
    case = make_case(lesion=MIDDLE)
    assert case.label is not None
    centres = np.array(sample_centres(case, share, 1500, seed=3))
    hits = case.label[tuple(centres.T)].mean()
    by_chance = (1 - share) * case.label.sum() / case.brain.sum()
    assert hits == pytest.approx(share + by_chance, abs=0.04)
    assert (centres[:, 0] > 0).all()  # plane 0 is not brain
    assert np.ptp(centres, axis=0).min() >= (8 if share < 1 else 1)


def test_a_lesion_in_the_corner_is_centred() -> None:
    centres = sample_centres(make_case(lesion=CORNER), 0.5, 40, seed=0)
    assert 10 <= centres.count([11, 0, 9]) <= 30


def test_a_case_without_lesion_gives_brain_patches() -> None:
    centres = np.array(sample_centres(make_case(), 1.0, 300, seed=0))
    assert np.ptp(centres, axis=0).tolist() == [10, 13, 9]
    patch = patch_at(PatchDataset([make_case()], PatchSettings(size=(4, 4, 4)), seed=0), 0)
    assert patch["label"].sum() == 0


def test_a_channel_that_the_case_lacks_stays_zero_whatever_is_added_to_the_others() -> None:
    every = AugmentationSettings(affine_probability=1, intensity_probability=1, bias_probability=1, noise_probability=1)
    case = make_case(lesion=MIDDLE)
    case.image[0] = 0
    gap = replace(case, missing={"adc": 0})
    data = PatchDataset([gap], PatchSettings(size=(8, 8, 8), augmentation=every), seed=0)
    for patch in (patch_at(data, index)["image"] for index in range(4)):
        assert not patch[0].any()
        assert patch[1].any()


@pytest.mark.parametrize("size", [(12, 14, 10), (13, 16, 13), (40, 40, 40)])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_patch_of_the_volumes_size_or_more_holds_all_of_it(size: tuple[int, int, int], share: float) -> None:
    case = make_case(lesion=CORNER)
    settings = PatchSettings(size=size, lesion_share=share, augmentation=PLAIN)
    before = [(n - length) // 2 + (n - length) % 2 for n, length in zip(size, case.geometry.shape, strict=True)]
    inside = tuple(slice(first, first + n) for first, n in zip(before, case.geometry.shape, strict=True))
    patch = patch_at(PatchDataset([case], settings, seed=0), 0)
    assert np.array_equal(patch["image"][:, *inside], case.image)
    assert patch["image"].sum() == pytest.approx(case.image.sum()) and patch["label"].sum() == 1


def test_along_a_longer_axis_such_a_patch_lies_around_its_centre() -> None:
    case = make_case(lesion=CORNER)
    patch = patch_at(
        PatchDataset([case], PatchSettings(size=(5, 14, 4), lesion_share=1, augmentation=PLAIN), seed=0), 0
    )
    padded = np.pad(case.image[0], ((0, 9), (0, 0), (0, 9)))
    assert np.array_equal(patch["image"][0], padded[9:14, :, 7:11])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size": (64, 0, 64)}, "patches.size"),
        ({"lesion_share": 1.2}, "patches.lesion_share"),
        ({"lesion_share": float("nan")}, "patches.lesion_share"),
        ({"per_case": 0}, "patches.per_case"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        PatchSettings(**wrong)


def test_cases_must_exist_and_have_labels() -> None:
    with pytest.raises(DataError, match="training split is empty"):
        PatchDataset([], PatchSettings(), seed=0)
    unlabelled = make_case("b")
    object.__setattr__(unlabelled, "label", None)
    with pytest.raises(DataError, match="none for b"):
        PatchDataset([make_case(), unlabelled], PatchSettings(), seed=0)
