"""The batches of a process: where the cases are, who cuts patches from them, and in which order they come."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from mlproject import interrupts
from mlproject.data.cutting import CPU, Batch, CaseVolumes, bytes_of, changed_together
from mlproject.data.patches import PatchDataset
from mlproject.data.preprocessing import PreparedCase
from mlproject.training.data_workers import watched
from mlproject.training.settings import TrainingSettings

CASES_SHARE = 0.5
"""Of a GPU's free memory, that the training cases may take; a step takes the rest."""
PLANNERS, CUTTERS = 2, 8  # worker processes for a GPU, at the most: cutting takes ten times as long as planning


def home_of(cases: Sequence[PreparedCase], settings: TrainingSettings, device: torch.device) -> torch.device:
    """Where the volumes are that patches are cut from: on the GPU, unless workers are asked for or it has no room."""
    if device.type != "cuda" or settings.workers is not None:
        return CPU
    free, _ = torch.cuda.mem_get_info(device)
    return device if bytes_of(cases) <= CASES_SHARE * free else CPU


def batches_of(
    patches: PatchDataset,
    volumes: CaseVolumes,
    settings: TrainingSettings,
    fabric: Fabric,
    step: int,
    stop: Callable[[], bool],
) -> Iterator[Batch]:
    """This process's share of every batch from `step` on, without end, prepared by worker processes if there are any.

    On a CPU the workers do all of it. On a GPU they cut patches, which are changed there at next to no cost; where the
    volumes are on the GPU, they only say what is to be cut. `stop`: as `watched` takes it.
    """
    on_gpu, resident = fabric.device.type == "cuda", volumes.device.type == "cuda"
    share = settings.batch_size // fabric.world_size
    workers = settings.workers
    if workers is None:
        workers = 0 if not on_gpu else min(PLANNERS if resident else CUTTERS, cores_of(settings))

    def indices() -> Iterator[list[int]]:
        for later_step in itertools.count(step):
            first = later_step * settings.batch_size + fabric.global_rank * share
            yield list(range(first, first + share))

    loader: DataLoader[Any] = DataLoader(
        patches,
        batch_sampler=indices(),
        collate_fn=list if resident else volumes.cuts if on_gpu else volumes.batch,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        pin_memory=on_gpu and not resident,
    )
    for entry in watched(loader, settings.timeout_s, stop) if workers else loader:
        if resident:
            yield volumes.batch(entry)
        else:
            yield changed_together(entry, fabric.device) if on_gpu else entry


def cores_of(settings: TrainingSettings) -> int:
    """How many of this machine's cores each process has."""
    return max(1, len(os.sched_getaffinity(0)) // settings.devices)


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer decides, its data workers end with it."""
    interrupts.ignore()
