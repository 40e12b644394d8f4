"""nnU-Net's data loader with the augmentation of its default trainer, as a peer of our patches."""

# mypy: allow-untyped-calls

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlproject.data.preprocessing import PreparedCase

INSTALLED = Path(sys.prefix) / "bench"  # where the Makefile puts nnU-Net, and what it needs, away from everything else
TURN = np.deg2rad(30)
"""The largest rotation that nnU-Net's default trainer takes for patches as long on all axes."""


@contextmanager
def importable() -> Iterator[None]:
    """Within, nnU-Net can be imported, and says nothing."""
    sys.path.append(str(INSTALLED))  # last: nothing there hides what is installed
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(str(INSTALLED))


def patches(prepared: list[PreparedCase], size: int, batch: int, folder: Path) -> Iterator[object] | None:
    """Batches without end, from cases stored as nnU-Net stores them; None where it is not installed."""
    try:
        with importable():
            from nnunetv2.training.data_augmentation.compute_initial_patch_size import (  # type: ignore[import-not-found]
                get_patch_size,
            )
            from nnunetv2.training.dataloading import data_loader, nnunet_dataset  # type: ignore[import-not-found]
            from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]
    except ImportError as error:
        print(f"nnU-Net is left out ({error}): `make bench` installs it")
        return None
    folder.mkdir()
    blocks, chunks = nnunet_dataset.comp_blosc2_params(prepared[0].image.shape, (size,) * 3)
    for number, case in enumerate(prepared):
        stored = np.where(case.brain, np.asarray(case.label), -1).astype(np.int8)[None]
        lesion = {"class_locations": {1: np.argwhere(stored == 1)}}
        nnunet_dataset.nnUNetDatasetBlosc2.save_case(
            case.image, stored, lesion, str(folder / f"case{number}"), chunks=chunks, blocks=blocks
        )
    turn = (-TURN, TURN)
    changes = nnUNetTrainer.get_training_transforms(
        (size,) * 3, turn, None, (0, 1, 2), False, use_mask_for_norm=[True] * len(prepared[0].image)
    )
    loader: Any = data_loader.nnUNetDataLoader(
        nnunet_dataset.nnUNetDatasetBlosc2(str(folder)),
        batch,
        get_patch_size((size,) * 3, turn, turn, turn, (0.85, 1.25)),
        (size,) * 3,
        SimpleNamespace(all_labels=[1], has_ignore_label=False),
        oversample_foreground_percent=0.33,
        transforms=changes,
    )
    batches: Iterator[object] = iter(loader)
    return batches
