"""All that changes while a network is fitted, and how it is kept in a checkpoint."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from mlproject.errors import ModelError
from mlproject.evaluation.slice_picture import Picture
from mlproject.training.progress import Epoch, Point

PICTURES = 25
"""How many pictures of the validation case a fit yields at the most."""


class FitState:
    """Network, optimizer and position of a fit.

    Attributes:
        module: the network that is trained.
        average: the moving average of its weights, or None.
        optimizer: what trains it.
        step: optimizer steps done.
        closed: the step at which the last epoch was closed (validated, written and reported).
        epochs_done: how many were.
        seconds: spent in optimizer steps.
        best: the best validation Dice, -1 before there is one.
        window: sums over the steps since the last point of the curve: three losses, seconds, steps.
        points: of the curve, since the last epoch was closed.
        next_picture: share of the budget from which on an epoch has a picture again.
        last_epoch: what was reported of the last epoch closed, as plain values.
    """

    def __init__(self, module: nn.Module, average: AveragedModel | None, optimizer: Optimizer) -> None:
        self.module, self.average, self.optimizer = module, average, optimizer
        self.step, self.closed, self.epochs_done, self.seconds, self.best = 0, 0, 0, 0.0, -1.0
        self.window = [0.0] * 5
        self.next_picture = 0.0
        self.points: list[Point] = []
        self.last_epoch: dict[str, Any] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to keep: the average, where there is one."""
        return self.module if self.average is None else self.average.module

    def close_epoch(self, validation_dice: float | None, share: float, picture: Picture | None = None) -> Epoch:
        """End an epoch at the present step and `share` of the budget; its points are handed over with it.

        Of the pictures, PICTURES at the most, and the last one, spread over the budget.
        """
        improved = validation_dice is not None and validation_dice > self.best
        if improved and validation_dice is not None:
            self.best = validation_dice
        self.epochs_done, self.closed = self.epochs_done + 1, self.step
        self.last_epoch = {
            "points": [point.to_dict() for point in self.points],
            "validation_dice": validation_dice,
            "improved": improved,
            "share": share,
            "picture": None,
        }
        if picture is not None and (share >= 1 or share >= self.next_picture):
            self.next_picture = share + 1 / PICTURES
            self.last_epoch["picture"] = torch.from_numpy(picture)
        self.points = []
        return self.closed_epoch()

    def closed_epoch(self) -> Epoch:
        """The last epoch closed, as it was reported (or should have been, had the process lived)."""
        last = self.last_epoch
        points = tuple(Point(**point) for point in last.get("points", ()))
        dice, improved = last.get("validation_dice"), last.get("improved", False)
        picture = None if last.get("picture") is None else last["picture"].numpy()
        share = last.get("share", 0.0)
        return Epoch(self.epochs_done, self.closed, share, points, dice, improved, stopped=False, picture=picture)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "step": self.step,
            "closed": self.closed,
            "epochs_done": self.epochs_done,
            "seconds": self.seconds,
            "best": self.best,
            "window": self.window,
            "points": [point.to_dict() for point in self.points],
            "next_picture": self.next_picture,
            "last_epoch": self.last_epoch,
            "network": self.module.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": torch.get_rng_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `to_dict` gave, torch's global generator included; ModelError for another network's."""
        try:
            self.module.load_state_dict(saved["network"])
        except RuntimeError as error:
            raise ModelError(
                "the checkpoint's weights do not fit this network: another version of this software made them; "
                "use that version, or begin a run"
            ) from error
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random_state"])
        self.step, self.closed, self.epochs_done = saved["step"], saved["closed"], saved["epochs_done"]
        self.seconds, self.best, self.window = saved["seconds"], saved["best"], saved["window"]
        self.points = [Point(**point) for point in saved["points"]]
        self.next_picture = saved.get("next_picture", 0.0)  # absent before there were such
        self.last_epoch = saved["last_epoch"]
