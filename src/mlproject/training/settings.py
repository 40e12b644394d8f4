"""How long, how fast and on what a network is trained."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from mlproject.errors import SettingsError

Decay = Literal["cosine", "linear", "step", "none"]
Optimizer = Literal["adamw", "adagrad"]
Execution = Literal["auto", "eager", "graph", "compile"]


@dataclass(frozen=True)
class TrainingSettings:
    """The optimisation and its budget. Exactly one of `steps`, `epochs` and `minutes` is the budget.

    Attributes:
        steps: budget in optimizer steps.
        epochs: budget in epochs; one epoch draws patches.per_case patches from every training case.
        minutes: budget in minutes of training; not reproducible to the bit.
        batch_size: patches a step, over all processes together.
        optimizer: adamw (Loshchilov and Hutter 2019), or adagrad (Duchi et al. 2011), the paper's.
        learning_rate: the optimizer's, at the end of the warm-up.
        weight_decay: the optimizer's; adagrad adds it to the gradient (L2), adamw takes it off the weights.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        decay: how the learning rate falls: to 0 over the budget (cosine, linear), in steps of their own (step), not.
        decay_rate: by which decay=step multiplies the learning rate, above 0 to 1.
        decay_steps: every so many optimizer steps.
        gradient_clip: largest norm of the gradient; 0 turns clipping off.
        average: decay of the moving average of the weights, 0 to below 1; 0 turns it off.
        validate_every: epochs between two whole-volume validations.
        upload_every: epochs between two uploads of the last checkpoint to the run's artifacts; 0 for never.
        log_every: steps over which one point of the training curve averages.
        accelerator: auto takes a CUDA GPU where there is one.
        devices: processes on this machine, one a GPU (or several on the CPU).
        nodes: machines that train together; torchrun, `fabric run` and srun set this and the next two.
        node_rank: this machine's number, 0 to nodes - 1; machine 0 alone talks to MLflow.
        main_address: HOST:PORT of machine 0, needed with several nodes.
        timeout_s: seconds for which a process waits for the others, or for those that cut patches, in the middle of
            training before it gives up; the longest that one of them may be busy alone, with a validation case.
        precision: of the arithmetic; losses are always computed in float32.
        execution: how the network runs. graph records a step's GPU work once and replays it, which suits networks
            that a GPU finishes sooner than Python can ask for; compile has PyTorch write code for it, for a minute at
            the start; eager does neither. auto is graph with one GPU, else eager.
        workers: processes a device that cut patches; 0 does it between the steps. null is 0 on a CPU, where they would
            only slow the step down, and on a GPU that has room for the cases, which are then cut there; else up to 8.
        threads: CPU threads of each training process; 0 shares the machine's cores out.
        seed: of weights, patches and augmentation.
        resume: id of the MLflow run to go on with.
    """

    steps: int | None = 2500
    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 2
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    decay: Decay = "cosine"
    decay_rate: float = 0.95
    decay_steps: int = 200
    gradient_clip: float = 5.0
    average: float = 0.0
    validate_every: int = 2
    upload_every: int = 5
    log_every: int = 20
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    node_rank: int = 0
    main_address: str = ""
    timeout_s: float = 600.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    execution: Execution = "auto"
    workers: int | None = None
    threads: int = 0
    seed: int = 0
    resume: str = ""

    def __post_init__(self) -> None:
        budgets = {n: getattr(self, n) for n in ("steps", "epochs", "minutes") if getattr(self, n) is not None}
        if len(budgets) != 1:
            given = ", ".join(f"training.{n}={v}" for n, v in budgets.items()) or "none"
            raise SettingsError(
                f"exactly one of training.steps, training.epochs and training.minutes must be set, got {given}; "
                "set the others to null"
            )
        at_least = {
            **dict.fromkeys(budgets, 1e-9),
            **dict.fromkeys(("batch_size", "devices", "nodes", "validate_every", "log_every", "decay_steps"), 1),
            **dict.fromkeys(("weight_decay", "warmup_steps", "gradient_clip", "average"), 0),
            **dict.fromkeys(("upload_every", "threads", "node_rank", "seed"), 0),
            **({} if self.workers is None else {"workers": 0}),
            **dict.fromkeys(("learning_rate", "decay_rate"), 1e-12),
            "timeout_s": 1,
        }
        for name, least in at_least.items():
            if not least <= getattr(self, name) < math.inf:  # NaN is refused, too
                rule = "positive" if 0 < least < 1 else f"at least {least}"
                raise SettingsError(f"training.{name} must be {rule}, got {getattr(self, name)}")
        if self.decay_rate > 1:
            raise SettingsError(f"training.decay_rate must be at most 1, got {self.decay_rate}; 0.95 is the paper's")
        if self.average >= 1:
            raise SettingsError(f"training.average must be below 1, got {self.average}; 0.999 is a usual value")
        if self.batch_size % self.processes:
            raise SettingsError(
                f"training.batch_size counts the patches of all processes and must be a multiple of their number "
                f"{self.processes} (training.devices x training.nodes), got {self.batch_size}"
            )
        if self.node_rank >= self.nodes:
            raise SettingsError(f"training.node_rank must be below training.nodes={self.nodes}, got {self.node_rank}")
        if (self.nodes > 1 or self.main_address) and not re.fullmatch(r".+:\d+", self.main_address):
            raise SettingsError(
                "training.nodes > 1 needs training.main_address, HOST:PORT of the machine with node_rank 0, "
                f"got {self.main_address!r}"
            )

    @property
    def processes(self) -> int:
        """Processes that train together, over all machines."""
        return self.devices * self.nodes

    def learning_rate_factor(self, step: int, progress: float) -> float:
        """Share of `learning_rate` at a step (from 0), with `progress` in [0, 1] of the budget used up."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        left = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "step": self.decay_rate ** (step // self.decay_steps),
            "none": 1.0,
        }
        return warmup * left[self.decay]
