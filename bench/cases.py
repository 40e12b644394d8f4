"""The cases that are measured on: synthetic scans, and a network's probability imitated from their label."""

# mypy: allow-untyped-calls

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data.preprocessing import PreparedCase, PreprocessingSettings, prepare
from mlproject.data.synthetic import Shape, make_case
from mlproject.data.volumes import Volume
from mlproject.prediction.probability import CaseProbability
from mlproject.tuning.case_workers import CaseWorkers
from mlproject.tuning.crf_engine import CrfCase
from mlproject.tuning.crf_search import crf_case_of

SHAPE = (112, 112, 73)  # of most ISLES 2022 cases
SMALL_SHAPE = (64, 72, 52)
NUMBERS = (1, 4, 8)  # lesions of 20, 1.3 and 3 ml
CHANNELS = ("dwi", "adc")
SEED = 0
PROCESSES = 2  # of what works on several; each peer is one process
KEEP_ALL_MM = 1000.0  # a crop margin that leaves the whole grid, which the peers work on


def imitated_cases(shape: Shape = SHAPE) -> list[CaseProbability]:
    """Synthetic cases on a grid of `shape`, with the probabilities of a network that is no more than fair."""
    return [_imitated(number, shape) for number in NUMBERS]


def crf_workers(maps: Sequence[CaseProbability]) -> CaseWorkers[CrfCase]:
    """Worker processes that hold the cases."""
    cases = [crf_case_of(entry) for entry in maps]
    return CaseWorkers(cases, [case.name for case in cases], [float(case.region.sum()) for case in cases], PROCESSES)


def prepared_case(number: int, shape: Shape = SHAPE, margin_mm: float = KEEP_ALL_MM) -> PreparedCase:
    """A synthetic case on a grid of `shape`, prepared for a network, with `margin_mm` around the brain."""
    images = make_case(SEED, number, shape, CHANNELS)
    volume = Volume(
        case=f"synthetic-{number}",
        image=np.stack([np.asarray(images[name].get_fdata(), dtype=np.float32) for name in CHANNELS]),
        label=np.asarray(images["msk"].dataobj, dtype=np.uint8),
        affine=np.asarray(images["msk"].affine),
        channel_digests=dict.fromkeys(CHANNELS, ""),
    )
    return prepare(volume, PreprocessingSettings(crop_margin_mm=margin_mm))


def _imitated(number: int, shape: Shape) -> CaseProbability:
    case = prepared_case(number, shape)
    return CaseProbability(case, _imitate(case, np.random.default_rng([SEED, number])))


def _imitate(case: PreparedCase, generator: np.random.Generator) -> NDArray[np.float32]:
    """A probability (I, J, K) with outlines astray, false alarms where DWI is bright, and some noise.

    It is sure of itself (below 0.01) far from lesions and false alarms, as trained networks are.
    """
    assert case.label is not None
    voxels_per_mm = 1 / np.array(case.geometry.spacing_mm)
    found = ndimage.gaussian_filter(case.label.astype(np.float32), 1.6 * voxels_per_mm)
    bright = ndimage.gaussian_filter(case.image[0], 2.4 * voxels_per_mm)
    healthy = case.brain & (case.label == 0)
    for centre in generator.choice(np.argwhere(healthy & (bright > np.quantile(bright[healthy], 0.99))), 4):
        blob = np.zeros_like(found)
        blob[tuple(centre)] = 1
        blob = ndimage.gaussian_filter(blob, generator.uniform(2.5, 5.0) * voxels_per_mm)
        found = np.maximum(found, generator.uniform(0.3, 0.7) * blob / blob.max())
    doubtful = ndimage.gaussian_filter(found, 1.6 * voxels_per_mm) > 0.02
    edges, grain = (_noise(generator, found.shape, mm * voxels_per_mm) for mm in (6.0, 1.1))
    logit = np.where(doubtful, -18 + 36 * found + 6 * edges + 2 * grain, -8)
    return np.where(case.brain, 1 / (1 + np.exp(-logit)), 0).astype(np.float32)


def _noise(generator: np.random.Generator, shape: tuple[int, ...], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Noise with mean 0 and standard deviation 1, smooth over `sigma` (3,) voxels."""
    noise = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma)
    return np.asarray(noise / noise.std())
