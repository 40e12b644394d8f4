"""The training loop of one process, alone or one of many."""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.distributed.nn.functional import all_reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlproject.data.cutting import Batch, CaseVolumes
from mlproject.data.patches import PatchDataset
from mlproject.errors import TrainingError
from mlproject.evaluation.validation import CaseValidation
from mlproject.network.architectures import build_network
from mlproject.network.losses import SegmentationLoss
from mlproject.training import checkpoint
from mlproject.training.batches import batches_of, cores_of, home_of
from mlproject.training.execution import begin_threads, denormals_as_zero, executed
from mlproject.training.job import BEST, LAST, FitJob
from mlproject.training.progress import Epoch, Event, Point, Progress, Validating
from mlproject.training.state import FitState
from mlproject.training.stopping import left_if


class Trainer:
    """One process of a fit. What it keeps on disk is always the state after a whole step."""

    def __init__(self, job: FitJob, fabric: Fabric) -> None:
        settings = job.training
        torch.set_num_threads(settings.threads or cores_of(settings))
        begin_threads()
        torch.manual_seed(settings.seed)
        self.job, self.fabric = job, fabric
        self.cases, self.validation = job.training_cases(), job.validation_cases()
        self.on_gpu = fabric.device.type == "cuda"
        self.patches = PatchDataset(self.cases, job.patches, settings.seed)
        self.volumes = CaseVolumes(self.cases, home_of(self.cases, settings, fabric.device))
        self.epoch_steps = max(1, self.patches.epoch_length // settings.batch_size)
        module = build_network(job.network, job.channels, job.patches.size)
        # The V-Net's step is a sixth to a third faster in this format on a CPU, the DynUNet's by half.
        module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        average: AveragedModel | None = None
        if settings.average:
            decayed = get_ema_multi_avg_fn(settings.average)  # type: ignore[no-untyped-call]
            average = AveragedModel(module, multi_avg_fn=decayed).to(fabric.device)
        loss = SegmentationLoss(job.loss, all_reduce if fabric.world_size > 1 else None)
        self.compute, self.optimizer = executed(module, loss, settings, fabric)
        self.state = FitState(module, average, self.optimizer)
        self.unread: list[tuple[int, torch.Tensor, tuple[int, ...]]] = []  # step, its figures on the device, its cases
        # What the processes agree on lies in the computer's memory, where no GPU has to be waited for.
        self.group: Any = None
        if self.on_gpu and fabric.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=settings.timeout_s))
        self.took = 0.0  # by the last step, in seconds; not yet in the state's, on which all processes agree
        self.began, self.share_before = time.monotonic(), 0.0

    def run(self, stop: Callable[[], bool]) -> Iterator[Event]:
        """Train to the end of the budget, or until `stop` answers True; see `fit.fit`."""
        if self._resume():
            yield self.state.closed_epoch()
        self.began, self.share_before = time.monotonic(), self._share()
        batches = self.batches(stop)
        while True:
            if self.state.step > self.state.closed and (self._over() or self.state.step % self.epoch_steps == 0):
                epoch = yield from self._close_epoch(stop)
                yield epoch
                if epoch.stopped:
                    return
            if self._over():
                return
            if not self.step(batches, stop):
                self._read()
                self._write_last()
                yield self._stopped()
                return
            if self.state.step % self.job.training.log_every == 0:
                yield self._log_point()

    def batches(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """This process's share of the batches from the present step on, without end; see `watched` for `stop`."""
        return batches_of(self.patches, self.volumes, self.job.training, self.fabric, self.state.step, stop)

    def step(self, batches: Iterator[Batch], stop: Callable[[], bool] = lambda: False) -> bool:
        """One optimizer step on the next batch; False, and nothing done, where the fit shall stop."""
        state, began = self.state, time.monotonic()
        batch = next(batches, None)
        wants_stop, state.seconds = self._agree([float(batch is None or stop()), state.seconds + self.took])
        if batch is None or wants_stop:
            return False
        with denormals_as_zero():
            self._update(batch)
        self.took = time.monotonic() - began
        state.step += 1
        state.window[3:] = state.window[3] + self.took, state.window[4] + 1
        return True

    def _update(self, batch: Batch) -> None:
        """Change the weights by one batch."""
        state, settings = self.state, self.job.training
        total, cross_entropy, dice = self.compute(batch.image, batch.label)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.learning_rate_factor(state.step, self._share())
        self.fabric.backward(total)
        norm: torch.Tensor | None = total
        if clip := settings.gradient_clip:
            norm = self.fabric.clip_gradients(state.module, self.optimizer, max_norm=clip, error_if_nonfinite=False)
        assert norm is not None
        figures = torch.stack([total, cross_entropy, dice, norm]).detach()
        self.unread.append((state.step + 1, figures, batch.cases))
        if not self.on_gpu:  # which would have to be waited for
            self._read()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update_parameters(state.module)

    def _read(self) -> None:
        """Add the figures of the steps since the last reading to the window, or raise where one is not finite.

        A CPU reads before each step changes the weights, a GPU once for every point of the curve, and before anything
        is written.
        """
        began = time.monotonic()
        rows = torch.stack([figures for _, figures, _ in self.unread]).tolist() if self.unread else []
        overflow_is_usual = self.job.training.precision == "16-mixed"  # the gradient scaler leaves such a step out
        checked = [row[:3] if overflow_is_usual else row for row in rows]
        bad = [entry for entry, row in zip(self.unread, checked, strict=True) if not all(map(math.isfinite, row))]
        (any_bad,) = self._agree([float(bool(bad))])
        if any_bad:
            raise self._not_finite(bad[0][0] if bad else self.state.step + 1, bad[0][2] if bad else ())
        self.state.window[:3] = [sum(values) for values in zip(self.state.window, *rows, strict=False)][:3]
        self.unread.clear()
        waited = time.monotonic() - began
        if self.on_gpu:  # within no step
            self.took += waited
            self.state.window[3] += waited

    def _agree(self, values: list[float]) -> list[float]:
        """The largest of each value over all processes, so that all of them decide alike."""
        if self.fabric.world_size == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(together, torch.distributed.ReduceOp.MAX, self.group)
        return list(together.tolist())

    def _gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes as one."""
        if self.fabric.world_size == 1:
            return values
        gathered: list[list[Any]] = [[] for _ in range(self.fabric.world_size)]
        torch.distributed.all_gather_object(gathered, values, self.group)
        return list(itertools.chain.from_iterable(gathered))

    def _not_finite(self, step: int, cases: Sequence[int]) -> TrainingError:
        names = ", ".join(sorted({self.cases[case].name for case in self._gather(list(cases))}))
        return TrainingError(
            f"the loss or its gradient is not finite at step {step} (cases in the batch: {names}); the checkpoints are "
            "from before it. Look at these cases, or set training.gradient_clip, "
            f"training.precision=32-true, or a training.learning_rate below {self.job.training.learning_rate}"
        )

    def _share(self) -> float:
        """Share of the budget used up, 0 to 1."""
        settings = self.job.training
        if settings.minutes is not None:
            return min(1.0, self.state.seconds / 60 / settings.minutes)
        total = settings.steps if settings.epochs is None else settings.epochs * self.epoch_steps
        return min(1.0, self.state.step / (total or 1))

    def _over(self) -> bool:
        return self._share() >= 1.0

    def _log_point(self) -> Progress:
        self._read()
        loss, cross_entropy, dice, seconds, count = self._mean_over_processes(self.state.window)
        metrics = {
            "train/loss": loss / count,
            "train/cross_entropy": cross_entropy / count,
            "train/dice_loss": dice / count,
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "train/patches_per_second": count * self.job.training.batch_size / max(seconds, 1e-9),
        }
        self.state.points.append(Point(self.state.step, time.time_ns() // 1_000_000, metrics))
        self.state.window = [0.0] * 5
        share = self._share()
        left = (time.monotonic() - self.began) * (1 - share) / max(share - self.share_before, 1e-9)
        return Progress(self.state.step, share, metrics["train/loss"], metrics["train/patches_per_second"], left)

    def _mean_over_processes(self, values: list[float]) -> list[float]:
        if self.fabric.world_size == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(together, group=self.group)
        return [value / self.fabric.world_size for value in together.tolist()]

    def _close_epoch(self, stop: Callable[[], bool]) -> Generator[Validating, None, Epoch]:
        """Validate where it is time to, write the checkpoints, and say what happened."""
        self._read()
        dice, picture, number = None, None, self.state.epochs_done + 1
        if self._over() or number % self.job.training.validate_every == 0:
            validated = yield from self._validate(stop)
            if validated is None:  # asked to stop: the epoch is closed after the resume
                self._write_last()
                return self._stopped()
            dice, picture = validated.dice, validated.picture
            self.state.points.append(Point(self.state.step, time.time_ns() // 1_000_000, {"validation/dice": dice}))
        epoch = self.state.close_epoch(dice, self._share(), picture)
        if epoch.improved and self.fabric.is_global_zero:
            best = {"weights": self.state.evaluated.state_dict(), "step": epoch.step, "validation_dice": dice}
            checkpoint.write({**best, "settings": self.job.settings}, self.job.folder / BEST)
        self._write_last()
        return epoch

    def _stopped(self) -> Epoch:
        return Epoch(self.state.epochs_done + 1, self.state.step, self._share(), (), None, improved=False, stopped=True)

    def _validate(self, stop: Callable[[], bool]) -> Generator[Validating, None, CaseValidation | None]:
        """Mean Dice and the picture of the validation cases, dealt out over the processes; None if asked to stop."""
        network, rank, world = self.state.evaluated, self.fabric.global_rank, self.fabric.world_size
        cases, values = self.validation[rank::world], []
        for number in range(math.ceil(len(self.validation) / world)):  # of the process with the most cases
            (wants_stop,) = self._agree([float(stop())])
            if wants_stop:
                return None
            if number < len(cases):
                yield Validating(self.state.step, self._share(), number + 1, len(cases))
                with left_if(stop, network):
                    values.append(self.job.validate(network, cases[number], self.fabric.device))
        (was_left,) = self._agree([float(len(values) < len(cases))])
        if was_left:
            return None
        values = self._gather(values)
        picture = next((value.picture for value in values if value.picture is not None), None)
        # fsum: the same whichever process has validated which case.
        return CaseValidation(math.fsum(value.dice for value in values) / len(values), picture)

    def _write_last(self) -> None:
        if self.fabric.is_global_zero:
            checkpoint.write({**self.state.to_dict(), "settings": self.job.settings}, self.job.folder / LAST)

    def _resume(self) -> bool:
        """Go back to where LAST stands, read by the first process alone: other machines may not have it."""
        path = self.job.folder / LAST
        saved = checkpoint.read(path) if self.fabric.is_global_zero and path.exists() else None
        saved = self.fabric.broadcast(saved)
        if saved is not None:
            self.state.restore(saved)
        return saved is not None
