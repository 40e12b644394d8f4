"""A row about preparing cases, from files to arrays on disk, beside the same steps as TorchIO's transforms."""

# mypy: allow-untyped-calls

import tempfile
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK
import torch
import torchio as tio
from scipy import ndimage

from bench.cases import SHAPE
from bench.row import Row, timed
from mlproject.data.cache import PreparedCache
from mlproject.data.cases import Case, DataSettings, find_cases
from mlproject.data.dataset import load_all
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.synthetic import write_dataset

CASES = 8
CHANNELS = ("dwi", "adc", "flair")  # as in conf/isles2022.yaml; the third lies on a grid of its own
REPEATS = 5


def rows() -> list[Row]:
    """The row of this file."""
    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    warnings.filterwarnings("ignore", message="Expanding mask")
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", CASES, shape=SHAPE, channels=CHANNELS)
        cases = find_cases(DataSettings(root=str(folder / "data"), channels=CHANNELS))
        for number, way in product(range(1 + REPEATS), range(2)):
            prepare = (ours, plain)[way]
            taken, _ = timed(lambda n=number, w=way, p=prepare: p(cases, folder / f"{n}-{w}"))  # type: ignore[misc]
            if number:  # the first one is for what is done once
                seconds[way].append(taken)
    pace = [CASES / median(times) for times in seconds]
    return [
        Row(
            what=f"preparing cases, {'x'.join(map(str, SHAPE))}, {len(CHANNELS)} channels, 2 threads",
            against="the same steps as TorchIO's transforms, case by case, 1 thread, without our checks",
            unit="x",
            samples=tuple(b / a for a, b in zip(*seconds, strict=True)),
            target=1.8,
            better=">=",
            detail=f"{pace[0]:.1f} against {pace[1]:.1f} cases a second",
        )
    ]


def ours(cases: Sequence[Case], folder: Path) -> None:
    """As `train` does it, into an empty cache."""
    load_all(PreparedCache(folder, PreprocessingSettings()), cases)


def plain(cases: Sequence[Case], folder: Path) -> None:
    """One case after the other."""
    for case in cases:
        save(prepared(case), folder / case.name)


def prepared(case: Case) -> Any:
    """One orientation and grid, the brain's mask, z-scores in it, cut off and cropped; no margin is left around it."""
    first = next(iter(case.images))
    images: dict[str, Any] = {name: tio.ScalarImage(path) for name, path in case.images.items()}
    subject: Any = tio.ToCanonical()(tio.Subject(**images, label=tio.LabelMap(case.label)))
    for name in case.images:
        if subject[name].spatial_shape != subject[first].spatial_shape:
            subject[name] = tio.Resample(subject[first])(subject[name])
    brain = torch.from_numpy(_brain(subject[first].numpy()[0]))[None]
    subject.add_image(tio.LabelMap(tensor=brain.to(torch.uint8), affine=subject[first].affine), "brain")
    steps: list[Any] = [
        tio.ZNormalization("brain"),
        tio.Clamp(-5, 5),
        tio.Mask("brain"),
        tio.CropOrPad(mask_name="brain"),
    ]
    return tio.Compose(steps)(subject)


def _brain(image: Any) -> Any:
    components, _ = ndimage.label(image > 0)
    return ndimage.binary_fill_holes(components == 1 + np.bincount(components.ravel())[1:].argmax())


def save(subject: Any, folder: Path) -> None:
    """The arrays that a training needs, as NumPy's files."""
    folder.mkdir(parents=True)
    images = subject.get_images(intensity_only=True)
    np.save(folder / "image.npy", np.concatenate([image.numpy() for image in images]))
    for name in ("brain", "label"):
        np.save(folder / f"{name}.npy", subject[name].numpy())
