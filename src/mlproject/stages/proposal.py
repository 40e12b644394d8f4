"""The configuration that `describe` proposes: each value with its reason, as YAML that people can read and change."""

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import yaml

from mlproject import config
from mlproject.data.description import CaseFacts, classes_in
from mlproject.data.splits import make_split
from mlproject.data.survey import Found
from mlproject.errors import DataError
from mlproject.network.architectures import patch_divisor
from mlproject.network.memory import StepCost, measure_step
from mlproject.network.settings import LossSettings, NetworkSettings
from mlproject.stages.describe_summary import usable
from mlproject.stages.settings import Experiment
from mlproject.training import plan
from mlproject.training.settings import TrainingSettings

GIB = 2**30
COMMENT_WIDTH = 100


@dataclass(frozen=True)
class Setting:
    """A proposed setting: its dotted name, its value, and why."""

    name: str
    value: Any
    reason: str

    @property
    def text(self) -> str:
        """The value as YAML on one line."""
        return yaml.safe_dump(self.value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


@dataclass(frozen=True)
class Proposal:
    """A configuration.

    Attributes:
        choices: the settings that are not left at their defaults.
        warnings: what to know before it is used.
        title: the first comment of the file.
    """

    choices: tuple[Setting, ...]
    warnings: tuple[str, ...]
    title: str

    @property
    def tree(self) -> dict[str, Any]:
        """The settings as nested dictionaries."""
        tree: dict[str, Any] = {}
        for choice in self.choices:
            section = tree
            *parents, last = choice.name.split(".")
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = choice.value
        return tree

    @property
    def yaml(self) -> str:
        """The settings as YAML, a comment above each."""
        lines = _comment("\n".join([self.title, *(f"Note: {warning}." for warning in self.warnings)]), "")
        open_sections: list[str] = []
        for choice in self.choices:
            *sections, last = choice.name.split(".")
            for depth, section in enumerate(sections):
                if open_sections[: depth + 1] != sections[: depth + 1]:
                    lines.append(f"{'  ' * depth}{section}:")
            open_sections = sections
            indent = "  " * len(sections)
            lines += [*_comment(choice.reason, indent), f"{indent}{last}: {choice.text}"]
        return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(
            paragraph, COMMENT_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
    ]


def propose(found: Found, cases: Sequence[CaseFacts], gpu_memory_gb: float | None) -> Proposal:
    """The configuration that fits the usable cases (one at least) and a device.

    Args:
        found: layout, channels and root.
        cases: facts of all cases.
        gpu_memory_gb: free memory of the GPU that will train; None means this machine, its GPU if it has one.
    """
    good = usable(cases)
    choices = _data_choices(found, good)
    spacing, shape, spacing_choices = _spacing_choices(good)
    training_choices, too_large = _training_choices(found, shape, spacing, gpu_memory_gb)
    proposal = Proposal(
        choices=(*choices, *spacing_choices, *training_choices),
        warnings=(*_warnings(found, cases, good), *too_large),
        title=(
            f"Proposed by `describe` for {found.data.where}: {len(good)} of {len(cases)} cases can be used. "
            "What is not here stays at its default; `python src/run.py main --help` lists all settings."
        ),
    )
    config.from_tree(Experiment, proposal.tree, "the proposed configuration")
    return proposal


def _data_choices(found: Found, good: Sequence[CaseFacts]) -> list[Setting]:
    data = found.data
    others = [layout for layout in found.layouts if layout != data.layout]
    fits = f"; these fit too: {', '.join(others)}" if others else ""
    unused = [f"{name} ({count})" for name, count in found.channels.items() if name not in _folded(data.channels)]
    left_out = f"; also found, in so many cases: {', '.join(unused)}" if unused else ""
    choices = [
        Setting("data.layout", data.layout, f"how the files are named{fits}"),
        Setting("data.root", data.where, "where the data set lies"),
        Setting(
            "data.channels",
            list(data.channels),
            f"the first is the reference: the labels and the predictions lie on its grid{left_out}",
        ),
    ]
    if data.label_name:
        choices.append(Setting("data.label_name", data.label_name, "as given"))
    lacking = [case.name for case in good if case.missing]
    if lacking:
        reason = (
            f"{len(lacking)} of {len(good)} cases lack a channel, which is then 0 everywhere (the mean); the "
            "alternative is to leave that channel out of data.channels"
        )
        choices.append(Setting("data.missing", "zero", reason))
    classes = data.lesion_labels or classes_in(tuple(sorted({value for case in good for value in case.label_values})))
    if classes:
        reason = "as given" if data.lesion_labels else "every value but 0 in the labels: keep those that mean lesion"
        choices.append(Setting("data.lesion_labels", list(classes), reason))
    return choices


def _folded(names: Sequence[str]) -> set[str]:
    return {*names, *(name.casefold() for name in names)}


def _spacing_choices(good: Sequence[CaseFacts]) -> tuple[plan.Millimetres, list[float], list[Setting]]:
    """The prepared spacing and median shape, and the settings that bring them about."""
    spacings = [case.spacing_mm for case in good if case.spacing_mm]
    shapes = [case.brain_shape for case in good if case.brain_shape]
    target, reason = plan.choose_spacing(spacings, shapes)
    median = np.median(np.array(spacings), axis=0)
    spacing = median if target is None else np.array(target)
    shape = np.median(np.array(shapes) * np.array(spacings) / spacing, axis=0)
    value = None if target is None else list(target)
    i, j, k = (float(size) for size in spacing)
    return (i, j, k), shape.tolist(), [Setting("preprocessing.spacing_mm", value, reason)]


def _training_choices(
    found: Found, shape: Sequence[float], spacing: plan.Millimetres, gpu_memory_gb: float | None
) -> tuple[list[Setting], list[str]]:
    """Patches and budget for a device, and a warning where it is too small for any."""
    cost = measure_step(NetworkSettings(), LossSettings(), len(found.data.channels))
    device, memory_bytes, cap = _device(gpu_memory_gb)
    fit = cost.most_voxels(plan.MEMORY_SHARE * memory_bytes)
    patch = plan.choose_patch(shape, spacing, patch_divisor(NetworkSettings()), min(cap, fit // 2))
    batch = plan.choose_batch(patch, min(cap, fit))
    around = " x ".join(f"{length:.0f}" for length in shape)
    need = f"about {_gib(cost.step_bytes(batch * math.prod(patch)))} of {_gib(memory_bytes)} GiB ({device})"
    reason = (
        f"the brain has {around} voxels (median case), a patch {plan.in_mm(np.multiply(patch, spacing))}; a step of "
        f"{batch} patches needs {need}"
    )
    too_large = []
    if batch * math.prod(patch) > fit:
        too_large.append(
            f"nothing fits: even a step of {batch} patches of {' x '.join(map(str, patch))} voxels, the smallest, "
            f"needs {need}, of which {plan.MEMORY_SHARE:.0%} are for it; train on another device"
        )
    choices = [Setting("patches.size", list(patch), reason)]
    if cap == plan.CPU_PATCH_VOXELS:
        reason = "0.1 by default: rotating a patch costs a CPU as much as the network; worth it in long trainings"
        choices.append(Setting("patches.augmentation.affine_probability", 0, reason))
    steps = TrainingSettings().steps
    choices.append(Setting("training.steps", steps, _time(cost, steps or 0, batch, patch, cap)))
    choices.append(
        Setting("training.batch_size", batch, "patches a step; more smooth the gradient and cost as much more")
    )
    return choices, too_large


def _gib(size_bytes: float) -> str:
    gib = size_bytes / GIB
    return f"{gib:.0f}" if gib >= 10 else f"{gib:.2g}"


def _time(cost: StepCost, steps: int, batch: int, patch: plan.Voxels, cap: int) -> str:
    if cap != plan.CPU_PATCH_VOXELS:
        return "the budget; training.minutes instead of it (and this null) trains for a given time"
    cores = len(os.sched_getaffinity(0))
    step = cost.core_seconds_per_voxel * batch * math.prod(patch) / cores
    return (
        f"a step takes about {step:.1g} s on this machine's {cores} cores if nothing else runs, all of them "
        f"{steps * step / 60:.0f} minutes"
    )


def _device(gpu_memory_gb: float | None) -> tuple[str, float, int]:
    """What trains, its free memory in bytes, and the most voxels of a patch there."""
    if gpu_memory_gb is not None:
        return "a GPU, as given", gpu_memory_gb * GIB, plan.GPU_PATCH_VOXELS
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return f"free on {torch.cuda.get_device_name()}", float(free), plan.GPU_PATCH_VOXELS
    return "free on this machine, no GPU", float(psutil.virtual_memory().available), plan.CPU_PATCH_VOXELS


def _warnings(found: Found, cases: Sequence[CaseFacts], good: Sequence[CaseFacts]) -> tuple[str, ...]:
    warnings = []
    faulty = len(found.faults) + sum(bool(case.faults) for case in cases)
    if faulty:
        warnings.append("training refuses a data set with faulty cases: mend them or move them away")
    names = {case.name for case in good}
    try:
        lesion_ml = {case.name: case.lesion_ml or 0.0 for case in good}
        make_split([case for case in found.cases if case.name in names], lesion_ml, found.data)
    except DataError as error:
        warnings.append(f"these cases cannot be split for training ({error})")
    return tuple(warnings)
