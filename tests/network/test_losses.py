import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlproject.errors import SettingsError
from mlproject.network.losses import LossSettings, SegmentationLoss

EMPTY = -1e4  # a logit whose probability is 0 in float32


def grid(*values: float) -> Tensor:
    """One patch (1, 1, 1, 1, n) of the given voxels."""
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def loss(outputs: list[Tensor], target: Tensor, **settings: Any) -> tuple[float, float, float]:
    terms = SegmentationLoss(LossSettings(**settings))(outputs, target)
    return terms.total.item(), terms.cross_entropy.item(), terms.dice.item()


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_terms_equal_the_hand_computation() -> None:
    """p = 0.8, 0.4, 0.1, 0.5 against g = 1, 1, 0, 0: Σpg = 1.2, Σp = 1.8, Σg = 2; s = 1."""
    logits, target = grid(logit(0.8), logit(0.4), logit(0.1), 0.0), grid(1, 1, 0, 0)
    cross_entropy = -(math.log(0.8) + math.log(0.4) + math.log(0.9) + math.log(0.5)) / 4
    dice = 1 - (2 * 1.2 + 1) / (1.8 + 2 + 1)
    assert loss([logits], target) == pytest.approx((cross_entropy + dice, cross_entropy, dice), abs=1e-6)
    weighted = loss([logits], target, cross_entropy=0.5, dice=3)
    assert weighted == pytest.approx((0.5 * cross_entropy + 3 * dice, cross_entropy, dice), abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "target", "dice"),
    [
        (grid(EMPTY, EMPTY, EMPTY), grid(0, 0, 0), 0.0),  # nothing there, nothing predicted
        (grid(-EMPTY, -EMPTY, EMPTY), grid(0, 0, 0), 2 / 3),  # a false alarm of 2 voxels: V / (V + 1)
        (grid(EMPTY, EMPTY, EMPTY), grid(1, 1, 0), 1 - 1 / 3),  # a miss of 2 voxels
        (grid(-EMPTY, -EMPTY, EMPTY), grid(1, 1, 0), 0.0),
        (grid(-EMPTY, EMPTY, -EMPTY), grid(1, 1, 0), 1 - 3 / 5),
    ],
)
def test_dice_of_empty_and_full_targets(logits: Tensor, target: Tensor, dice: float) -> None:
    assert loss([logits], target)[2] == pytest.approx(dice, abs=1e-6)


def test_a_patch_without_lesion_asks_for_less() -> None:
    logits = grid(-3.0, -2.0, 0.0).requires_grad_()
    SegmentationLoss(LossSettings(cross_entropy=0))([logits], grid(0, 0, 0)).total.backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_dice_is_the_mean_over_patches_or_that_of_the_batch() -> None:
    """The first patch is missed (2 voxels), the second has none: each 1 - Dice by hand, then both as one."""
    logits, target = torch.cat([grid(EMPTY, EMPTY), grid(EMPTY, EMPTY)]), torch.cat([grid(1, 1), grid(0, 0)])
    assert loss([logits], target)[2] == pytest.approx((2 / 3 + 0) / 2)
    assert loss([logits], target, batch_dice=True)[2] == pytest.approx(2 / 3)


def test_lower_outputs_weigh_half_of_the_one_above_and_see_small_lesions() -> None:
    target = torch.zeros(1, 1, 4, 4, 4)
    target[0, 0, 1, 2, 3] = 1
    full, half, quarter = (torch.randn(1, 1, n, n, n) for n in (4, 2, 1))
    half_target = torch.zeros(1, 1, 2, 2, 2)
    half_target[0, 0, 0, 1, 1] = 1  # the one voxel is not lost
    alone = [loss([full], target), loss([half], half_target), loss([quarter], torch.ones(1, 1, 1, 1, 1))]
    total, cross_entropy, dice = loss([full, half, quarter], target)
    assert total == pytest.approx((4 * alone[0][0] + 2 * alone[1][0] + alone[2][0]) / 7, rel=1e-5)
    assert (cross_entropy, dice) == alone[0][1:]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_half_precision_logits_of_any_size_give_finite_losses_and_gradients(
    dtype: torch.dtype, batch_dice: bool
) -> None:
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4]).repeat(2, 1, 4, 4, 1).to(dtype).requires_grad_()
    target = torch.tensor([0.0, 1.0, 1.0, 0.0]).repeat(2, 1, 4, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        terms = SegmentationLoss(LossSettings(batch_dice=batch_dice))([logits], target)
    terms.total.backward()
    assert terms.total.dtype == torch.float32
    assert torch.isfinite(terms.total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_sums_over_a_large_patch_are_not_taken_in_half_precision() -> None:
    """64³ probabilities of 0.5 sum to 131072, beyond float16 and not countable one by one in bfloat16."""
    logits, target = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float16), torch.zeros(1, 1, 64, 64, 64)
    target[..., :32] = 1
    with torch.autocast("cpu", torch.bfloat16):
        terms = SegmentationLoss(LossSettings())([logits], target)
    assert terms.dice.item() == pytest.approx(0.5, abs=1e-5)


def test_half_precision_outputs_are_computed_with_in_float32() -> None:
    logits = torch.linspace(-8, 8, 64).reshape(1, 1, 4, 4, 4).to(torch.bfloat16)
    target = (logits > 1).float()
    assert loss([logits], target) == loss([logits.float()], target)


def test_only_the_total_keeps_the_graph() -> None:
    terms = SegmentationLoss(LossSettings())([grid(0.1).requires_grad_()], grid(1))
    assert terms.total.requires_grad
    assert not terms.cross_entropy.requires_grad
    assert not terms.dice.requires_grad


@pytest.mark.parametrize("weights", [(0, 0), (-1, 1), (1, -0.5), (float("nan"), 1), (float("inf"), 1)])
def test_wrong_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match=r"loss\.cross_entropy=.* and loss\.dice="):
        LossSettings(*weights)


def batch() -> tuple[Tensor, Tensor]:
    """Four patches of two channels; lesion volumes differ, one has none."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 4, 4, 4, generator=generator)
    thresholds = torch.tensor([0.0, 1.0, 9.0, -0.5]).reshape(4, 1, 1, 1, 1)
    return images, (images[:, :1] > thresholds).float()


def gradient(images: Tensor, target: Tensor, criterion: SegmentationLoss, distributed: bool) -> Tensor:
    """The gradient of a linear model's weights, as the optimizer would see it."""
    model: nn.Module = nn.Conv3d(2, 1, 1, bias=False)
    nn.init.constant_(model.get_parameter("weight"), 0.3)
    if distributed:
        model = nn.parallel.DistributedDataParallel(model)
    logits = model(images)
    criterion([logits, nn.functional.avg_pool3d(logits, 2)], target).total.backward()
    grad = next(model.parameters()).grad
    assert grad is not None
    return grad


def one_of_two(rank: int, folder: str) -> None:
    from torch import distributed
    from torch.distributed.nn.functional import all_reduce

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    images, target = (tensor[2 * rank : 2 * rank + 2] for tensor in batch())
    for batch_dice in (False, True):
        criterion = SegmentationLoss(LossSettings(batch_dice=batch_dice), all_reduce)
        torch.save(gradient(images, target, criterion, True), f"{folder}/{batch_dice}-{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    start = torch.multiprocessing.start_processes  # forked: importing torch anew takes seconds
    start(one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for batch_dice in (False, True):
        alone = gradient(*batch(), SegmentationLoss(LossSettings(batch_dice=batch_dice)), False)
        for rank in (0, 1):
            together = torch.load(tmp_path / f"{batch_dice}-{rank}.pt", weights_only=True)
            assert torch.allclose(together, alone, rtol=1e-5, atol=1e-8)
