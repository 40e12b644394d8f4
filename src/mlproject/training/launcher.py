"""What started this command on each machine (torchrun, `fabric run`, SLURM's srun), and which machine this is then.

A launcher starts a command again for every process that it counts. Here it starts one on each machine, which starts
its workers itself: only so does a single process in all talk to MLflow.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from mlproject.errors import SettingsError
from mlproject.training.settings import TrainingSettings

TOGETHER = ("main", "train")  # the stages that work on several machines
ANY_NUMBER = "search"  # whose processes share a study, however many there are
FABRIC = {
    "accelerator": "set training.accelerator instead",
    "precision": "set training.precision instead",
    "strategy": "leave it out, it is DDP",
}
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Launch:
    """How a launcher has started this command.

    Attributes:
        launcher: its name.
        copies: how often it has, on all machines together.
        machines: on how many.
        machine: number of this one, from 0.
        address: HOST:PORT at which machine 0 can be met.
        once: how to tell the launcher to start the command once on each machine.
    """

    launcher: str
    copies: int
    machines: int
    machine: int
    address: str
    once: str


def found(environment: Mapping[str, str]) -> Launch | None:
    """What the environment says of a launcher; None where none has started this command."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return Launch(
            "fabric run" if "LT_CLI_USED" in environment else "torchrun",
            int(environment["WORLD_SIZE"]),
            int(environment["GROUP_WORLD_SIZE"]),
            int(environment["GROUP_RANK"]),
            f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}",
            "--devices 1" if "LT_CLI_USED" in environment else "--nproc-per-node 1",
        )
    if "SLURM_STEP_NUM_TASKS" in environment:
        # nid[001-004,007] stands for nid001, nid002 ...
        first = re.sub(r"\[([^],-]+)[^]]*]", r"\1", environment["SLURM_STEP_NODELIST"]).split(",")[0]
        return Launch(
            "srun",
            int(environment["SLURM_STEP_NUM_TASKS"]),
            int(environment["SLURM_STEP_NUM_NODES"]),
            int(environment["SLURM_NODEID"]),
            f"{first}:{20_000 + int(environment['SLURM_JOB_ID']) % 10_000}",  # another for each job of a machine
            "--ntasks-per-node 1",
        )
    return None


def placed(stage: str, settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings of a stage with the place among the machines that a launcher has given to this one.

    What the launcher says goes before training.nodes, node_rank and main_address: the config.yaml of a run, with which
    it is gone on with, has those of another time. Raises SettingsError where the launcher has started the command in
    a way in which each process would do, and log, the whole work.
    """
    for option, instead in FABRIC.items():
        if f"LT_{option.upper()}" in environment:
            raise SettingsError(f"fabric run --{option} would not be heeded here: {instead}")
    launch = found(environment)
    if launch is None or launch.copies == 1 or stage == ANY_NUMBER:
        return settings
    if stage not in TOGETHER:
        raise SettingsError(
            f"{launch.launcher} has started `{stage}` {launch.copies} times, and each would do the whole work: start "
            "it once, without a launcher"
        )
    if launch.copies > launch.machines:
        raise SettingsError(
            f"{launch.launcher} has started this command {launch.copies} times on {launch.machines} machine(s), and "
            f"each would be a run of its own: give it {launch.once}, and this command --training.devices for the "
            "processes of each machine"
        )
    training: TrainingSettings = settings.training  # type: ignore[attr-defined]
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and not training.resume:
        raise SettingsError(
            f"{launch.launcher} has started this command again after a failure, and it would begin another run: go on "
            "with --training.resume RUN_ID"
        )
    training = replace(training, nodes=launch.machines, node_rank=launch.machine, main_address=launch.address)
    return replace(settings, training=training)  # type: ignore[type-var]
