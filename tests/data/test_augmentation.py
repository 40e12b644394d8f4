from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from torch import Tensor

from mlproject.data.affine import affine_to_source
from mlproject.data.augmentation import Augmentation, AugmentationSettings, draw_augmentation
from mlproject.errors import SettingsError

OFF = AugmentationSettings(
    flip_probability=0,
    affine_probability=0,
    intensity_probability=0,
    gamma_probability=0,
    noise_probability=0,
)
ISOTROPIC = (2.0, 2.0, 2.0)


def draw(seed: int = 0, channels: int = 1, **settings: Any) -> Augmentation:
    return draw_augmentation(replace(OFF, **settings), channels, np.random.default_rng(seed))


def blob(*shape: int) -> Tensor:
    """A lopsided box, as uint8 (1, I, J, K), whose flips and rotations all differ."""
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[:, shape[0] // 3 : -3, shape[1] // 4 : shape[1] // 2, shape[2] // 2 : -2] = 1
    return mask


def patch_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """An image that equals the label, in a brain that is everywhere."""
    return mask.float(), torch.cat([torch.ones_like(mask), mask])


def test_nothing_changes_with_every_probability_at_zero() -> None:
    image = torch.randn(2, 8, 9, 10)
    masks = torch.cat([torch.ones(1, 8, 9, 10, dtype=torch.uint8), blob(8, 9, 10)])
    augmentation = draw(channels=2)
    assert augmentation.margin((8, 9, 10), ISOTROPIC) == (0, 0, 0)
    changed, changed_masks = augmentation.apply(image.clone(), masks, (0, 0, 0), ISOTROPIC)
    assert torch.equal(changed, image)
    assert torch.equal(changed_masks, masks)


def test_flips_move_image_and_label_together_along_the_chosen_axes() -> None:
    image, masks = patch_of(blob(8, 9, 10))
    flipped, flipped_masks = draw(flip_probability=1, flip_axes=(0, 2)).apply(
        image.clone(), masks, (0, 0, 0), ISOTROPIC
    )
    assert torch.equal(flipped, image.flip(1, 3))
    assert torch.equal(flipped_masks, masks.flip(1, 3))


def test_each_axis_is_flipped_on_its_own() -> None:
    image, masks = patch_of(blob(8, 9, 10))
    drawn = [draw(seed, flip_probability=0.5) for seed in range(60)]
    seen = {tuple(each.apply(image.clone(), masks, (0, 0, 0), ISOTROPIC)[0].flatten().tolist()) for each in drawn}
    assert len(seen) == 8


@pytest.mark.parametrize("spacing", [ISOTROPIC, (1.0, 1.0, 4.0)])
@pytest.mark.parametrize("seed", range(3))
def test_affine_keeps_image_and_label_aligned(spacing: tuple[float, float, float], seed: int) -> None:
    size = (24, 24, 24)
    augmentation = draw(seed, affine_probability=1, affine_degrees=30, affine_scale=0.2)
    margin = augmentation.margin(size, spacing)
    image, masks = patch_of(blob(*(n + 2 * m for n, m in zip(size, margin, strict=True))))
    moved, moved_masks = augmentation.apply(image, masks, margin, spacing)
    assert moved.shape == (1, *size)
    assert moved_masks.shape == (2, *size)
    assert moved_masks.dtype == torch.uint8
    i, j, k = margin
    before, after = masks[1, i : i + 24, j : j + 24, k : k + 24].bool(), moved_masks[1].bool()
    assert 2 * (before & after).sum() / (before.sum() + after.sum()) < 0.95  # it did move
    binary = moved[0] > 0.5
    assert 2 * (binary & after).sum() / (binary.sum() + after.sum()) > 0.93
    centres = [each.nonzero().float().mean(0) for each in (binary, after)]
    assert (centres[0] - centres[1]).abs().max() < 0.3


@pytest.mark.parametrize("size", [(24, 24, 24), (20, 12, 7)])
@pytest.mark.parametrize("spacing", [ISOTROPIC, (0.5, 0.5, 2.0)])
def test_the_margin_fills_the_corners_of_a_rotated_patch(
    size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    for seed in range(8):
        augmentation = draw(seed, affine_probability=1, affine_degrees=40, affine_scale=0.3)
        margin = augmentation.margin(size, spacing)
        shape = [n + 2 * m for n, m in zip(size, margin, strict=True)]
        ones = torch.ones(1, *shape)
        image, masks = augmentation.apply(ones, ones.repeat(2, 1, 1, 1).to(torch.uint8), margin, spacing)
        assert image.min() == pytest.approx(1)
        assert masks.min() == 1


def test_rotation_does_not_shear_anisotropic_voxels() -> None:
    """A ball in mm stays a ball, though its voxels are four times as long along the last axis."""
    size, spacing = (32, 32, 16), (1.0, 1.0, 4.0)
    augmentation = draw(1, affine_probability=1, affine_degrees=45, affine_scale=0)
    margin = augmentation.margin(size, spacing)
    axes = [(torch.arange(n + 2 * m) - (n + 2 * m - 1) / 2) * s for n, m, s in zip(size, margin, spacing, strict=True)]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    ball = (i**2 + j**2 + k**2 < 14**2).to(torch.uint8)[None]
    _, masks = augmentation.apply(*patch_of(ball), margin, spacing)
    original = ball[0, margin[0] : -margin[0], margin[1] : -margin[1], margin[2] : -margin[2]].bool()
    turned = masks[1].bool()
    assert 2 * (original & turned).sum() / (original.sum() + turned.sum()) > 0.93


def test_contrast_and_brightness_stay_in_their_ranges_and_differ_between_channels() -> None:
    ramp = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4).repeat(2, 1, 1, 1)
    masks = torch.ones(2, 4, 4, 4, dtype=torch.uint8)
    for seed in range(20):
        augmentation = draw(seed, 2, intensity_probability=1, intensity_scale=0.2, intensity_shift=0.3)
        changed, _ = augmentation.apply(ramp.clone(), masks, (0, 0, 0), ISOTROPIC)
        scale, shift = (changed.amax((1, 2, 3)) - changed.amin((1, 2, 3))) / 2, changed.mean((1, 2, 3))
        assert ((scale - 1).abs() <= 0.2 + 1e-5).all()
        assert (shift.abs() <= 0.3 + 1e-5).all()
        assert scale[0] != scale[1]


@pytest.mark.parametrize("change", ["affine", "intensity", "gamma", "bias", "noise"])
def test_outside_the_brain_the_image_stays_zero_and_inside_it_changes(change: str) -> None:
    brain = torch.zeros(1, 12, 12, 12, dtype=torch.uint8)
    brain[:, 3:10, 2:9, 3:8] = 1
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 12, 12, 12, generator=generator) * brain
    augmentation = draw(0, 2, **{f"{change}_probability": 1})
    margin = augmentation.margin((6, 6, 6), ISOTROPIC) if change == "affine" else (0, 0, 0)
    changed, masks = augmentation.apply(image.clone(), torch.cat([brain, brain]), margin, ISOTROPIC)
    assert torch.isfinite(changed).all()
    assert changed[:, masks[0] == 0].abs().sum() == 0
    if change != "affine":
        assert (changed != image)[:, masks[0] == 1].float().mean() > 0.9


def test_gamma_keeps_sign_and_order() -> None:
    ramp = torch.linspace(-2, 2, 64).reshape(1, 4, 4, 4)
    masks = torch.ones(2, 4, 4, 4, dtype=torch.uint8)
    changed, _ = draw(gamma_probability=1, gamma_log=0.5).apply(ramp.clone(), masks, (0, 0, 0), ISOTROPIC)
    assert torch.equal(changed.sign(), ramp.sign())
    assert (changed.flatten().diff() > 0).all()


def test_noise_has_at_most_the_given_standard_deviation() -> None:
    image, masks = torch.zeros(1, 16, 16, 16), torch.ones(2, 16, 16, 16, dtype=torch.uint8)
    drawn = [draw(seed, noise_probability=1, noise_sd=0.5) for seed in range(10)]
    deviations = [each.apply(image.clone(), masks, (0, 0, 0), ISOTROPIC)[0].std().item() for each in drawn]
    assert 0.3 < max(deviations) < 0.53
    assert min(deviations) < 0.3


def test_each_change_happens_as_often_as_asked() -> None:
    settings = AugmentationSettings(
        flip_probability=0,
        affine_probability=0.2,
        gamma_probability=0.4,
        bias_probability=0,
        noise_probability=0.7,
    )
    drawn = [draw_augmentation(settings, 1, np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean([each.to_source is not None for each in drawn]) == pytest.approx(0.2, abs=0.07)
    assert np.mean([each.gamma is not None for each in drawn]) == pytest.approx(0.4, abs=0.08)
    assert np.mean([each.noise_sd > 0 for each in drawn]) == pytest.approx(0.7, abs=0.08)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip_probability", 1.1),
        ("noise_probability", -0.1),
        ("gamma_probability", float("nan")),
        ("affine_scale", 1.0),
        ("affine_degrees", 200.0),
        ("noise_sd", -1.0),
        ("flip_axes", (0, 3)),
        ("flip_axes", (1, 1)),
    ],
)
def test_wrong_settings_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"patches.augmentation.{name}"):
        AugmentationSettings(**{name: value})


def as_subject(image: Tensor, masks: Tensor, spacing_mm: tuple[float, float, float]) -> tio.Subject:
    affine = np.diag([*spacing_mm, 1.0])
    return tio.Subject(
        image=tio.ScalarImage(tensor=image.clone(), affine=affine), masks=tio.LabelMap(tensor=masks, affine=affine)
    )


@pytest.mark.parametrize("spacing", [ISOTROPIC, (0.9, 1.1, 4.0)])
def test_rotation_and_scaling_are_those_of_torchio(spacing: tuple[float, float, float]) -> None:
    size, generator = (14, 12, 9), torch.Generator().manual_seed(0)
    scales, degrees = [0.8, 1.3, 1.1], [20.0, -35.0, 12.0]
    augmentation = replace(draw(), to_source=affine_to_source(scales, degrees))
    margin = augmentation.margin(size, spacing)
    shape = [n + 2 * m for n, m in zip(size, margin, strict=True)]
    image = torch.randn(2, *shape, generator=generator)
    masks = (torch.rand(2, *shape, generator=generator) > 0.3).to(torch.uint8)
    masks[0] = 1
    affine = tio.Affine(tuple(scales), tuple(degrees), translation=(0, 0, 0), default_pad_value=0)
    theirs = tio.Crop(margin)(affine(as_subject(image, masks, spacing)))
    ours, our_masks = augmentation.apply(image, masks, margin, spacing)
    torch.testing.assert_close(ours, theirs.image.data, rtol=0, atol=2e-4)
    assert (our_masks != theirs.masks.data).float().mean() < 1e-3  # where a place lies between two voxels


def test_intensities_are_changed_as_by_torchio() -> None:
    image = torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(2, 8, 9, 7, dtype=torch.uint8)
    gamma, bias = [0.8, 1.2], [0.1 * (n - 4) for n in range(10)]
    augmentation = replace(draw(channels=2), gamma=gamma, bias=bias)
    subject = tio.BiasField(bias, 2)(tio.Gamma(gamma)(as_subject(image, masks, ISOTROPIC)))
    ours, _ = augmentation.apply(image, masks, (0, 0, 0), ISOTROPIC)
    torch.testing.assert_close(ours, subject.image.data, rtol=1e-4, atol=1e-5)
