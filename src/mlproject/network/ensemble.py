"""Several networks that answer as one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of its members' lesion probabilities, as the logit of that mean, so that it stands where a network does.

    (B, C, I, J, K) -> logits (B, 1, I, J, K). For prediction alone: in training mode, too, it gives one tensor.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Logit of the mean probability of the lesion at every voxel; infinite where all members are sure."""
        total = torch.stack([member(x).float().sigmoid() for member in self.members]).mean(dim=0)
        return torch.logit(total)
