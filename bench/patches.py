"""Rows about the patches of training, on one core, beside TorchIO's stock pipeline."""

# mypy: allow-untyped-calls

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from itertools import count, islice, product
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from bench import nnunet_loader
from bench.cases import CHANNELS
from bench.row import Row, timed
from mlproject.data.cache import PreparedCache
from mlproject.data.case import Case
from mlproject.data.cutting import CaseVolumes
from mlproject.data.patch_settings import AugmentationSettings, PatchSettings
from mlproject.data.patches import PatchDataset
from mlproject.data.preprocessing import PreparedCase
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.synthetic import make_case

SHAPE = (112, 112, 84)  # TorchIO takes no patch that is larger than the volume
CASES = 6
PATCH = 64
REPEATS = 5
PATCHES = 96  # of one measurement
BATCH = 2
QUEUE = 48  # patches that TorchIO's queue holds: of all cases
TORCHIO = "TorchIO's SubjectsDataset, LabelSampler and Queue, the same changes as often"
NNUNET = "nnU-Net's data loader and the changes of its default trainer (nnunetv2), which are more"


def rows() -> list[Row]:
    """All rows of this file."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Expanding mask")  # TorchIO's, of one brain for two channels
    with tempfile.TemporaryDirectory() as folder:
        files = [_write(number, Path(folder) / f"{number}") for number in range(CASES)]
        cache = PreparedCache(Path(folder) / "cache", PreprocessingSettings())
        prepared = [cache.load(case) for case in files]
        found = [
            _row("from preprocessed cases in memory", TORCHIO, prepared, _queue(_in_memory(prepared)), 5.0),
            _row("from raw files, first epoch excluded", TORCHIO, prepared, _queue(_from_files(files)), 8.0),
        ]
        nnunet = nnunet_loader.patches(prepared, PATCH, BATCH, Path(folder) / "nnunet")
        if nnunet is not None:
            found.append(_row("from preprocessed cases", NNUNET, prepared, nnunet, 1.5))
        return found


def _row(what: str, against: str, prepared: list[PreparedCase], theirs: Iterator[object], target: float) -> Row:
    ours = _ours(prepared)
    seconds: tuple[list[float], list[float]] = ([], [])
    for batches in (ours, theirs):
        _take(batches)  # the first epoch
    for _, number in product(range(REPEATS), range(2)):
        batches = (ours, theirs)[number]
        seconds[number].append(timed(lambda batches=batches: _take(batches))[0])  # type: ignore[misc]
    pace = [PATCHES / median(times) for times in seconds]
    return Row(
        what=f"patches of {PATCH}³ with augmentation, {what}, 1 core",
        against=against,
        unit="x",
        samples=tuple(b / a for a, b in zip(*seconds, strict=True)),
        target=target,
        better=">=",
        detail=f"{pace[0]:.0f} against {pace[1]:.0f} a second",
    )


def _take(batches: Iterator[object]) -> None:
    for _ in islice(batches, PATCHES // BATCH):
        pass


def _ours(prepared: list[PreparedCase]) -> Iterator[object]:
    patches, volumes = PatchDataset(prepared, PatchSettings(size=(PATCH,) * 3), seed=0), CaseVolumes(prepared)
    return (volumes.batch([patches[first + number] for number in range(BATCH)]) for first in count(step=BATCH))


def _queue(dataset: tio.SubjectsDataset) -> Iterator[object]:
    sampler = tio.LabelSampler(PATCH, "label", {0: 0.5, 1: 0.5})
    queue = tio.Queue(dataset, QUEUE, PatchSettings().per_case, sampler, num_workers=0)
    while True:
        yield from tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)


def _in_memory(prepared: list[PreparedCase]) -> tio.SubjectsDataset:
    subjects = [
        tio.Subject(
            image=tio.ScalarImage(tensor=torch.from_numpy(np.array(case.image)), affine=np.array(case.geometry.affine)),
            label=_map(case, case.label),
            brain=_map(case, case.brain),
        )
        for case in prepared
    ]
    return tio.SubjectsDataset(subjects, transform=tio.Compose(_changes()))


def _from_files(files: Iterable[Case]) -> tio.SubjectsDataset:
    """The brain by its voxels that are not 0, z-scores in it, cropped to it."""
    subjects = [
        tio.Subject({name: tio.ScalarImage(path) for name, path in case.images.items()}, label=tio.LabelMap(case.label))
        for case in files
    ]
    steps: list[Any] = [tio.ToCanonical(), _add_brain, tio.ZNormalization("brain"), tio.CropOrPad(mask_name="brain")]
    at_least = tio.EnsureShapeMultiple(PATCH, method="pad")
    return tio.SubjectsDataset(subjects, transform=tio.Compose([*steps, at_least, *_changes()]))


def _add_brain(subject: tio.Subject) -> tio.Subject:
    image: Any = subject[CHANNELS[0]]
    subject.add_image(tio.LabelMap(tensor=(image.data[:1] != 0).to(torch.uint8), affine=image.affine), "brain")
    return subject


def _map(case: PreparedCase, mask: Any) -> tio.LabelMap:
    return tio.LabelMap(tensor=torch.from_numpy(np.array(mask, np.uint8))[None], affine=np.array(case.geometry.affine))


def _changes() -> list[Any]:
    """The changes of AugmentationSettings as TorchIO has them; contrast by a function of a channel, as often."""
    wanted = AugmentationSettings()
    affine = tio.RandomAffine(
        scales=wanted.affine_scale, degrees=wanted.affine_degrees, default_pad_value=0, p=wanted.affine_probability
    )

    def contrast(image: torch.Tensor) -> torch.Tensor:
        for channel in image:
            if torch.rand(()) < wanted.intensity_probability:
                scale, shift = (2 * torch.rand(2) - 1) * torch.tensor([wanted.intensity_scale, wanted.intensity_shift])
                channel.mul_(1 + scale).add_(shift)
        return image

    return [
        affine,
        tio.RandomFlip(axes=wanted.flip_axes, flip_probability=wanted.flip_probability),
        tio.RandomGamma(log_gamma=wanted.gamma_log, p=wanted.gamma_probability),
        tio.Lambda(contrast, types_to_apply=[tio.INTENSITY]),
        tio.RandomNoise(std=(0, wanted.noise_sd), p=wanted.noise_probability),
        tio.Mask("brain"),
    ]


def _write(number: int, folder: Path) -> Case:
    """A synthetic case as files."""
    folder.mkdir()
    images = make_case(0, number, SHAPE, CHANNELS)
    paths = {name: folder / f"{name}.nii.gz" for name in images}
    for name, image in images.items():
        nib.save(image, paths[name])
    return Case(f"synthetic-{number}", {name: paths[name] for name in CHANNELS}, paths["msk"], f"patient-{number}")
