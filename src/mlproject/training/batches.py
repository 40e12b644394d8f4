"""The batches of a process: where the cases are, who cuts patches from them, and in which order they come."""

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from mlproject.data.patches import CPU, Batch, PatchDataset, batch_of, bytes_of
from mlproject.data.preprocessing import PreparedCase
from mlproject.training.settings import TrainingSettings

CASES_SHARE = 0.5
"""Of a GPU's free memory, that the training cases may take; a step takes the rest."""
MOST_WORKERS = 8


def home_of(cases: Sequence[PreparedCase], settings: TrainingSettings, device: torch.device) -> torch.device:
    """Where the volumes are that patches are cut from: on the GPU, unless workers are asked for or it has no room."""
    if device.type != "cuda" or settings.workers is not None:
        return CPU
    free, _ = torch.cuda.mem_get_info(device)
    return device if bytes_of(cases) <= CASES_SHARE * free else CPU


def batches_of(patches: PatchDataset, settings: TrainingSettings, fabric: Fabric, step: int) -> Iterator[Batch]:
    """This process's share of every batch from `step` on, without end, cut ahead by worker processes if there are any.

    On a GPU the workers only cut: patches are changed there, where it costs next to nothing.
    """
    on_gpu, from_memory = fabric.device.type == "cuda", patches.device == CPU
    share = settings.batch_size // fabric.world_size
    workers = settings.workers
    if workers is None:
        workers = min(MOST_WORKERS, cores_of(settings)) if on_gpu and from_memory else 0

    def indices() -> Iterator[list[int]]:
        for later_step in itertools.count(step):
            first = later_step * settings.batch_size + fabric.global_rank * share
            yield list(range(first, first + share))

    loader: DataLoader[Any] = DataLoader(
        patches,
        batch_sampler=indices(),
        collate_fn=list if on_gpu else batch_of,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
        pin_memory=on_gpu and from_memory,
        timeout=300 if workers else 0,
    )
    for entry in loader:
        yield batch_of(entry, fabric.device) if on_gpu else entry


def cores_of(settings: TrainingSettings) -> int:
    """How many of this machine's cores each process has."""
    return max(1, len(os.sched_getaffinity(0)) // settings.devices)


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer decides, its data workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
