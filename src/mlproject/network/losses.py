"""The training loss: cross-entropy plus soft Dice, by the paper's claim faster than either alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlproject.network.settings import LossSettings

SMOOTH_VOXELS = 1.0
"""Added to the Dice's numerator and denominator; without it a patch without lesion gives no gradient."""


@dataclass(frozen=True)
class LossTerms:
    """Scalar tensors: the total is optimised; the others are unweighted and of the full resolution.

    Attributes:
        total: what is optimised, float32 with a gradient.
        cross_entropy: mean binary cross-entropy, without a gradient.
        dice: 1 - soft Dice, without a gradient.
    """

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor


class SegmentationLoss(nn.Module):
    """w_ce · cross-entropy + w_dice · (1 - soft Dice), of logits against a binary target.

    Soft Dice is taken before binarising: (2 Σpg + s) / (Σp + Σg + s) with probabilities p, target g and
    s = SMOOTH_VOXELS. An empty target with an empty prediction costs 0; an empty target with a predicted
    volume of V voxels costs V / (V + s).

    Outputs below full resolution (deep supervision) are compared with the target reduced by maximum, which
    keeps small lesions; they weigh 1/2, 1/4 ... of the first, and all weights sum to 1.

    Everything is computed in float32, whatever the outputs' type.
    """

    def __init__(self, settings: LossSettings, all_reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take the weights, and with several processes a sum over them through which gradients flow.

        Batch Dice alone uses `all_reduce`. Its backward pass must sum the gradients over processes
        (torch.distributed.nn.functional.all_reduce does), and the trainer must average gradients over them
        (DDP does). Together that is the gradient of one process with the whole batch, if every process has
        equally many patches.
        """
        super().__init__()
        self.settings = settings
        self.all_reduce = all_reduce

    def forward(self, outputs: list[Tensor], target: Tensor) -> LossTerms:
        """Compare outputs with the target.

        Args:
            outputs: logits (B, 1, i, j, k), full resolution first.
            target: 0 or 1, (B, 1, I, J, K).
        """
        weights = [0.5**level for level in range(len(outputs))]
        terms = [self._terms(logits.float(), target.float()) for logits in outputs]  # autocast leaves it so
        levels = [self.settings.cross_entropy * a + self.settings.dice * b for a, b in terms]
        total = torch.stack([weight * level for weight, level in zip(weights, levels, strict=True)]).sum()
        return LossTerms(total / sum(weights), terms[0][0].detach(), terms[0][1].detach())

    def _terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and 1 - soft Dice, of one output."""
        if target.shape[2:] != logits.shape[2:]:
            target = functional.adaptive_max_pool3d(target, logits.shape[2:])
        probability = logits.sigmoid()
        sums = torch.stack([probability * target, probability, target]).sum((2, 3, 4, 5))
        if self.settings.batch_dice:
            sums = sums.sum(1)
            if self.all_reduce is not None:
                sums = self.all_reduce(sums)
        overlap, predicted, true = sums
        dice = (2 * overlap + SMOOTH_VOXELS) / (predicted + true + SMOOTH_VOXELS)
        return functional.binary_cross_entropy_with_logits(logits, target), 1 - dice.mean()
