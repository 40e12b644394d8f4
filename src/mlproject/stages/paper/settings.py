"""Settings of `reproduce`. Imports nothing heavy, so that --help is quick."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from mlproject.errors import SettingsError

PartName = Literal["network", "loss", "crf", "workers"]


@dataclass(frozen=True)
class PaperSettings:
    """The experiments on the paper's claims, and their budget.

    Attributes:
        study: its name; a command with the same name and settings goes on with the study, another name begins one. One
            machine does all of it, as times are compared.
        parts: the claims to test: network, loss, crf, workers. What is done already is not done again.
        document: Markdown file to write the findings to, with its figures in a folder of the same name beside it; only
            to MLflow if empty.
        about: what readers must know of the data, in Markdown: said at the head of that file, and beneath each verdict.
        paper: YAML with the network and training of the paper.
        platform: YAML with the platform's own, beside which the paper's is measured.
        seeds: of the trainings that are repeated (parts loss and workers): weights at the start, and batches.
        loss_steps: optimizer steps of each training of the part loss.
        workers_steps: optimizer steps of each training of the part workers, of two patches a process.
        rates: learning rates that are tried for each loss, with a seed of their own.
        validations: how often a training is validated at least, where it has so many epochs (see patches.per_case).
        processes: how many processes the part workers compares with one.
    """

    study: str = "paper"
    parts: tuple[PartName, ...] = get_args(PartName)
    document: str = ""
    about: str = ""
    paper: str = "conf/paper.yaml"
    platform: str = "conf/isles2022.yaml"
    seeds: tuple[int, ...] = (0, 1, 2)
    loss_steps: int = 200
    workers_steps: int = 100
    rates: tuple[float, ...] = (1.6e-3, 5e-3, 1.6e-2)
    validations: int = 8
    processes: int = 2

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.study):
            raise SettingsError(f"reproduce.study={self.study!r}: give a name of letters, digits, dots and dashes")
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise SettingsError(f"reproduce.parts={list(self.parts)}: give one or more, each once")
        if len(set(self.seeds)) < max(2, len(self.seeds)) or min(self.seeds) < 0:
            raise SettingsError(
                f"reproduce.seeds={list(self.seeds)}: give two or more, all different and none below 0; differences "
                "between trainings are tested across them"
            )
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise SettingsError(f"reproduce.rates={list(self.rates)}: give one or more, above 0 and all different")
        for name, least in {"validations": 1, "processes": 2}.items():
            if getattr(self, name) < least:
                raise SettingsError(f"reproduce.{name}={getattr(self, name)}: give {least} or more")
        for name in ("loss_steps", "workers_steps"):
            if getattr(self, name) < self.validations:
                raise SettingsError(
                    f"reproduce.validations={self.validations} in reproduce.{name}={getattr(self, name)}: give fewer, "
                    "or more steps"
                )
