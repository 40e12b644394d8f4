"""Many CRFs at once: every weight pair, iteration count and threshold on one case and one set of thetas.

A lattice of pydensecrf depends on the thetas alone, and building and walking it is what costs. So one field with
K labels carries K weight pairs as if they were labels, and is stepped by hand. With two classes and a Potts term
the mean field of Krähenbühl and Koltun (NeurIPS 2011) is one number a voxel, here m = 2 q - 1 of its lesion
probability q, and an iteration is linear in it up to the last step:

    log_odds = unary_log_odds + w_gaussian F_gaussian m + w_bilateral F_bilateral m,    m = tanh(log_odds / 2)

Imports neither torch nor Optuna: the workers of the search start with this module.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydensecrf import eigen
from pydensecrf.densecrf import NORMALIZE_SYMMETRIC, DenseCRF

from mlproject.prediction.crf import CrfSettings, Nodes, refine, uncertain_region

BINS = 20
"""Bins of the probability's histogram; their inner edges are the thresholds 1/20, 2/20 ... 19/20."""

# Nodes that are counted at once, so that the temporary arrays stay in the processor's cache.
_CHUNK = 4096
_EDGES = np.arange(1, BINS, dtype=np.float32) / BINS


@dataclass(frozen=True, eq=False)
class CrfCase:
    """What the search needs of one case, all on the prepared grid; the arrays may be read-only memory maps.

    Attributes:
        name: The case's name.
        probability: (I, J, K) float32, the network's lesion probability, in [0, 1].
        image: (C, I, J, K) float32, z-scores.
        brain: (I, J, K) bool.
        label: (I, J, K) uint8, expert mask {0, 1}.
        spacing_mm: Voxel size along I, J, K.
    """

    name: str
    probability: NDArray[np.float32]
    image: NDArray[np.float32]
    brain: NDArray[np.bool_]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]

    @cached_property
    def region(self) -> NDArray[np.bool_]:
        """The uncertain region (I, J, K), as served."""
        return uncertain_region(np.asarray(self.probability), np.asarray(self.brain), self.spacing_mm)

    @cached_property
    def nodes(self) -> Nodes:
        """The voxels of the region, which must not be empty."""
        return Nodes.of(self.region, self.probability, self.image, self.spacing_mm)

    @cached_property
    def lesion_nodes(self) -> NDArray[np.intp]:
        """Which of the nodes the expert calls lesion."""
        return np.flatnonzero(self.label[self.region] == 1)

    @cached_property
    def lesion_voxels(self) -> int:
        """All lesion voxels, in the region or not."""
        return int(np.count_nonzero(self.label == 1))

    @cached_property
    def outside(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Voxels outside the region, and lesion voxels among them, in each of BINS; the CRF never moves these."""
        bins = np.digitize(self.probability[~self.region], _EDGES)
        lesion = self.label[~self.region] == 1
        return np.bincount(bins, minlength=BINS), np.bincount(bins[lesion], minlength=BINS)


def dice_table(
    case: CrfCase, thetas: CrfSettings, weights: Sequence[tuple[float, float]], iterations: int
) -> NDArray[np.float64]:
    """Dice (weight pairs, iterations, thresholds) of one case on the prepared grid; 1 where both masks are empty.

    The region is that of CrfSettings' "uncertain". No mask is made: histograms of the probability say how many
    voxels, and how many lesion voxels, are above each threshold.

    Args:
        case: The case.
        thetas: Its three thetas are used, nothing else.
        weights: Pairs of weight_gaussian and weight_bilateral; a multiple of 4 makes best use of SSE.
        iterations: Every count from 1 to this is scored.

    Returns:
        Thresholds run over 0.05, 0.1 ... 0.95.

    Raises:
        DataError: An intensity is NaN or too large for theta_beta.
    """
    everywhere, lesion = (np.tile(counts, (iterations, len(weights), 1)) for counts in case.outside)
    if case.region.any():
        for iteration, magnetisation in enumerate(mean_field(case.nodes, thetas, weights, iterations)):
            everywhere[iteration] += _histogram(magnetisation)
            lesion[iteration] += _histogram(magnetisation[case.lesion_nodes])
    return _dice(_from_above(everywhere), _from_above(lesion), case.lesion_voxels).transpose(1, 0, 2)


def refine_case(case: CrfCase, crf: CrfSettings) -> NDArray[np.float32]:
    """Probability (I, J, K) after one CRF, as `refine` gives it; here so that workers can run it."""
    return refine(case.probability, case.image, case.brain, case.spacing_mm, crf)


def mean_field(
    nodes: Nodes, thetas: CrfSettings, weights: Sequence[tuple[float, float]], iterations: int
) -> Iterator[NDArray[np.float32]]:
    """2 q - 1 (N, weight pairs) of the lesion probability q after iteration 1, 2 ... `iterations`.

    Every array is the same memory, overwritten by the next iteration.
    """
    pairs = np.array(weights, dtype=np.float32)
    field = DenseCRF(len(nodes.log_odds), len(pairs))
    for features, weight in (
        (nodes.gaussian_features(thetas), pairs[:, 0]),
        (nodes.bilateral_features(thetas), pairs[:, 1]),
    ):
        if not weight.any():  # a lattice that would change nothing
            continue
        # One weight a label, negative because pydensecrf subtracts energies; no label acts on another.
        field.addPairwiseEnergy(features, compat=-weight, normalization=NORMALIZE_SYMMETRIC)
    shape = (len(pairs), len(nodes.log_odds))
    # Made here, because those of startInference tell numpy that they are empty.
    field_in, field_out, unused = (eigen.matrixXf(np.zeros(shape, np.float32)) for _ in range(3))
    magnetisation, filtered = np.asarray(field_in).T, np.asarray(field_out).T
    unary = nodes.log_odds[:, None]
    np.tanh(unary / 2, out=magnetisation)
    for _ in range(iterations):
        field.stepInference(field_in, field_out, unused)  # leaves a softmax over the labels in field_in
        filtered += unary
        filtered /= 2
        np.tanh(filtered, out=magnetisation)
        yield magnetisation


def _histogram(magnetisation: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of the probabilities q in 2 q - 1 (N, weight pairs) are in each bin: (weight pairs, BINS)."""
    pairs = magnetisation.shape[1]
    counts = np.zeros(pairs * BINS, dtype=np.int64)
    for first in range(0, len(magnetisation), _CHUNK):
        bins = (magnetisation[first : first + _CHUNK] * (BINS / 2) + BINS / 2).astype(np.intp)
        np.minimum(bins, BINS - 1, out=bins)
        bins += np.arange(0, pairs * BINS, BINS)
        counts += np.bincount(bins.ravel(), minlength=len(counts))
    return counts.reshape(pairs, BINS)


def _from_above(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (..., thresholds) at or above each threshold, from counts (..., BINS)."""
    counts: NDArray[np.int64] = np.cumsum(histogram[..., ::-1], axis=-1)[..., -2::-1]
    return counts


def _dice(predicted: NDArray[np.int64], hit: NDArray[np.int64], lesion_voxels: int) -> NDArray[np.float64]:
    if lesion_voxels == 0:
        return np.asarray(predicted == 0, dtype=np.float64)
    return np.asarray(2 * hit / (predicted + lesion_voxels), dtype=np.float64)
