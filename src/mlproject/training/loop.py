"""The training loop of one process, alone or one of many."""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from mlproject.data.patches import PatchDataset
from mlproject.errors import TrainingError
from mlproject.network.architectures import build_network
from mlproject.network.losses import SegmentationLoss
from mlproject.training import checkpoint
from mlproject.training.job import BEST, LAST, FitJob
from mlproject.training.progress import Epoch, Point, Progress

Batch = dict[str, torch.Tensor]


class Trainer:
    """Network, optimizer and position of a fit. `run` trains; the state on disk is always a whole step."""

    def __init__(self, job: FitJob, fabric: Fabric) -> None:
        settings = job.training
        self.cores = max(1, len(os.sched_getaffinity(0)) // settings.devices)
        torch.set_num_threads(settings.threads or self.cores)
        torch.manual_seed(settings.seed)
        self.job, self.fabric = job, fabric
        self.cases = job.training_cases()
        self.patches = PatchDataset(self.cases, job.patches, settings.seed)
        self.epoch_steps = max(1, self.patches.epoch_length // settings.batch_size)
        # The V-Net's step is a sixth to a third faster in this format on a CPU, the DynUNet's as fast.
        self.module = build_network(job.network, job.channels, job.patches.size)
        self.module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average: AveragedModel | None = None
        if settings.average:
            decayed = get_ema_multi_avg_fn(settings.average)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.module, multi_avg_fn=decayed).to(fabric.device)
        self.loss = SegmentationLoss(job.loss, all_reduce if fabric.world_size > 1 else None)
        optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.network, self.optimizer = fabric.setup(self.module, optimizer)
        self.step, self.closed, self.epochs_done, self.seconds, self.best = 0, 0, 0, 0.0, -1.0
        self.window = [0.0] * 5  # sums over the steps since the last point: loss, cross-entropy, Dice loss, s, steps
        self.points: list[Point] = []
        self.last_epoch: dict[str, Any] = {}
        self.began, self.share_before = time.monotonic(), 0.0

    def run(self, stop: Callable[[], bool]) -> Iterator[Progress | Epoch]:
        """Train to the end of the budget, or until `stop` answers True; see `fit.fit`."""
        if self._resume():
            yield self._epoch_again()
        self.began, self.share_before = time.monotonic(), self._share()
        batches = iter(self._loader())
        while True:
            if self.step > self.closed and (self._over() or self.step % self.epoch_steps == 0):
                epoch = self._close_epoch(stop)
                yield epoch
                if epoch.stopped:
                    return
            if self._over():
                return
            if not self._train_step(next(batches), stop):
                self._write_last()
                yield Epoch(self.epochs_done + 1, self.step, (), None, improved=False, stopped=True)
                return
            if self.step % self.job.training.log_every == 0:
                yield self._log_point()

    def _loader(self) -> DataLoader[Batch]:
        """This process's share of every batch from the present step on, cut ahead by worker processes."""
        share = self.job.training.batch_size // self.fabric.world_size
        on_gpu = self.fabric.device.type == "cuda"
        workers = self.job.training.workers
        if workers is None:
            workers = min(8, self.cores) if on_gpu else 0

        def indices() -> Iterator[list[int]]:
            for step in itertools.count(self.step):
                first = step * self.job.training.batch_size + self.fabric.global_rank * share
                yield list(range(first, first + share))

        return DataLoader(
            self.patches,
            batch_sampler=indices(),
            num_workers=workers,
            worker_init_fn=_ignore_signals,
            pin_memory=on_gpu,
            timeout=300 if workers else 0,
        )

    def _train_step(self, batch: Batch, stop: Callable[[], bool]) -> bool:
        """One optimizer step; False, and nothing done, where the fit shall stop."""
        began = time.monotonic()
        image = batch["image"].to(self.fabric.device, non_blocking=True, memory_format=torch.channels_last_3d)
        label = batch["label"].to(self.fabric.device, non_blocking=True)
        self.network.train()
        terms = self.loss(self.network(image), label)
        wants_stop, not_finite, self.seconds = self._agree(
            [float(stop()), float(not torch.isfinite(terms.total)), self.seconds]
        )
        if wants_stop:
            return False
        if not_finite:
            raise self._not_finite(batch)
        factor = self.job.training.learning_rate_factor(self.step, self._share())
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.training.learning_rate * factor
        self.fabric.backward(terms.total)
        if self.job.training.gradient_clip:
            self.fabric.clip_gradients(
                self.network, self.optimizer, max_norm=self.job.training.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.step += 1
        took = time.monotonic() - began
        self.seconds += took
        losses = [float(term.detach()) for term in (terms.total, terms.cross_entropy, terms.dice)]
        self.window = [total + value for total, value in zip(self.window, [*losses, took, 1.0], strict=True)]
        return True

    def _agree(self, values: list[float]) -> list[float]:
        """The largest of each value over all processes, so that all of them decide alike."""
        if self.fabric.world_size == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX)
        return list(together.tolist())

    def _not_finite(self, batch: Batch) -> TrainingError:
        names = sorted({self.cases[int(i)].name for i in batch["case"]})
        return TrainingError(
            f"the loss is not finite at step {self.step + 1} (cases in the batch: {', '.join(names)}); no weight was "
            f"changed by it. Look at these cases, or lower training.learning_rate={self.job.training.learning_rate}, "
            "set training.gradient_clip, or use training.precision=32-true"
        )

    def _share(self) -> float:
        """Share of the budget used up, 0 to 1."""
        settings = self.job.training
        if settings.minutes is not None:
            return min(1.0, self.seconds / 60 / settings.minutes)
        total = settings.steps if settings.epochs is None else settings.epochs * self.epoch_steps
        return min(1.0, self.step / (total or 1))

    def _over(self) -> bool:
        return self._share() >= 1.0

    def _log_point(self) -> Progress:
        loss, cross_entropy, dice, seconds, count = self._mean_over_processes(self.window)
        metrics = {
            "train/loss": loss / count,
            "train/cross_entropy": cross_entropy / count,
            "train/dice_loss": dice / count,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/patches_per_second": count * self.job.training.batch_size / max(seconds, 1e-9),
        }
        self.points.append(Point(self.step, time.time_ns() // 1_000_000, metrics))
        self.window = [0.0] * 5
        share = self._share()
        left = (time.monotonic() - self.began) * (1 - share) / max(share - self.share_before, 1e-9)
        return Progress(self.step, share, metrics["train/loss"], metrics["train/patches_per_second"], left)

    def _mean_over_processes(self, values: list[float]) -> list[float]:
        if self.fabric.world_size == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        torch.distributed.all_reduce(together)
        return [value / self.fabric.world_size for value in together.tolist()]

    def _close_epoch(self, stop: Callable[[], bool]) -> Epoch:
        """Validate where it is time to, write the checkpoints, and say what happened."""
        dice, number = None, self.epochs_done + 1
        if self._over() or number % self.job.training.validate_every == 0:
            dice = self._validate(stop)
            if dice is None:  # asked to stop: the epoch is closed after the resume
                self._write_last()
                return Epoch(number, self.step, (), None, improved=False, stopped=True)
            self.points.append(Point(self.step, time.time_ns() // 1_000_000, {"validation/dice": dice}))
        improved = dice is not None and dice > self.best
        self.epochs_done, self.closed = number, self.step
        self.last_epoch = {
            "points": [point.to_dict() for point in self.points],
            "validation_dice": dice,
            "improved": improved,
        }
        self.points = []
        if improved and dice is not None:
            self.best = dice
            if self.fabric.is_global_zero:
                weights = self._evaluated().state_dict()
                state = {"weights": weights, "step": self.step, "validation_dice": dice}
                checkpoint.write({**state, "settings": self.job.settings}, self.job.folder / BEST)
        self._write_last()
        return self._epoch_again()

    def _epoch_again(self) -> Epoch:
        """The last epoch closed, as it was reported (or should have been, had the process lived)."""
        last = self.last_epoch
        points = tuple(Point(**point) for point in last.get("points", ()))
        dice, improved = last.get("validation_dice"), last.get("improved", False)
        return Epoch(self.epochs_done, self.step, points, dice, improved, stopped=False)

    def _evaluated(self) -> nn.Module:
        return self.module if self.average is None else self.average.module

    def _validate(self, stop: Callable[[], bool]) -> float | None:
        """Mean Dice of the validation cases, dealt out over the processes; None where asked to stop."""
        network, rank, world = self._evaluated(), self.fabric.global_rank, self.fabric.world_size
        values = []
        for case in self.job.validation_cases()[rank::world]:
            if world == 1 and stop():
                return None
            values.append(self.job.validate(network, case, self.fabric.device))
        if world > 1:
            gathered: list[Any] = [None] * world
            torch.distributed.all_gather_object(gathered, values)
            values = list(itertools.chain.from_iterable(gathered))
        return sum(values) / len(values)

    def _write_last(self) -> None:
        if not self.fabric.is_global_zero:
            return
        state = {
            "step": self.step,
            "closed": self.closed,
            "epochs_done": self.epochs_done,
            "seconds": self.seconds,
            "best": self.best,
            "window": self.window,
            "points": [point.to_dict() for point in self.points],
            "last_epoch": self.last_epoch,
            "network": self.module.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": torch.get_rng_state(),
            "settings": self.job.settings,
        }
        checkpoint.write(state, self.job.folder / LAST)

    def _resume(self) -> bool:
        """Go back to where LAST stands, read by the first process alone: other machines may not have it."""
        path = self.job.folder / LAST
        state = checkpoint.read(path) if self.fabric.is_global_zero and path.exists() else None
        state = self.fabric.broadcast(state)
        if state is None:
            return False
        self.module.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])
        self.step, self.closed, self.epochs_done = state["step"], state["closed"], state["epochs_done"]
        self.seconds, self.best, self.window = state["seconds"], state["best"], state["window"]
        self.points = [Point(**point) for point in state["points"]]
        self.last_epoch = state["last_epoch"]
        return True


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer decides, its data workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
