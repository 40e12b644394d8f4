"""What the search for a CRF tries: fixed grids of cut-offs and weights, and ranges for the thetas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna
from numpy.typing import NDArray

from mlproject.prediction.crf import LIMITS, CrfSettings, Nodes
from mlproject.tuning.crf_engine import CrfCase

# Every pair of these is tried with every finalist, and without a CRF.
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
MIN_LESION_ML = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

# (weight_gaussian, weight_bilateral): all of them are tried with every proposal of the thetas.
WEIGHTS = (
    *((gaussian, 0.0) for gaussian in (0.3, 1.0, 3.0, 10.0)),
    *((gaussian, bilateral) for gaussian in (0.0, 0.3, 1.0, 3.0) for bilateral in (1.0, 3.0, 10.0)),
)

GAUSSIAN_WEIGHTS = tuple(pair for pair in WEIGHTS if pair[1] == 0)

# Reach of the two terms, in voxels (the geometric mean of their sides): see theta_ranges.
_GAMMA_VOXELS = (0.75, 4.0)
_ALPHA_VOXELS = (5.0, 30.0)
# Vertices that the bilateral lattice may have per voxel, at its finest and at its coarsest.
_MOST_VERTICES, _FEWEST_VERTICES = 4.0, 0.03
# The lattices are counted on this many cases, and on a compact block of this many voxels in each.
_CASES, _BLOCK = 3, 10_000
_BISECTIONS = 10


@dataclass(frozen=True)
class ThetaRanges:
    """Lowest and highest value of each theta; log-uniform in between."""

    theta_gamma_mm: tuple[float, float]
    theta_alpha_mm: tuple[float, float]
    theta_beta: tuple[float, float]

    def start(self) -> dict[str, float]:
        """The first thetas to try: the defaults, moved into the ranges."""
        return {name: float(np.clip(getattr(CrfSettings(), name), *ends)) for name, ends in vars(self).items()}

    def suggest(self, trial: optuna.Trial, bilateral: bool = True) -> CrfSettings:
        """The thetas of one trial; weights and iterations are the defaults, which the engine ignores.

        Those of the bilateral term are the defaults, too, where it is not tried.
        """
        gaussian = CrfSettings(theta_gamma_mm=trial.suggest_float("theta_gamma_mm", *self.theta_gamma_mm, log=True))
        if not bilateral:
            return gaussian
        return replace(
            gaussian,
            theta_alpha_mm=trial.suggest_float("theta_alpha_mm", *self.theta_alpha_mm, log=True),
            theta_beta=trial.suggest_float("theta_beta", *self.theta_beta, log=True),
        )


def theta_ranges(cases: Sequence[CrfCase]) -> ThetaRanges:
    """The ranges that suit these cases; deterministic, about a second.

    theta_gamma_mm is 0.75 to 4 voxels: measured on 2 mm voxels, the Gaussian lattice has 4 vertices a voxel (all
    it can have, so that no voxel is joined to another) at half a voxel, 1.2 at one, and 0.04 at four.
    theta_alpha_mm is 5 to 30 voxels, and theta_beta follows from the images: its low end is where the bilateral
    lattice with the lowest theta_alpha has 4 vertices a voxel, its high end where the one with the highest
    theta_alpha has 0.03. Measured on phantoms and an ISLES 2022 case, 2 mm: with more vertices a trial is up to
    five times slower and the best Dice falls to that without a CRF, as hardly any voxel is joined to another;
    with fewer it falls too, as voxels are joined that have nothing in common.
    """
    picked = [cases[index] for index in sorted({*np.linspace(0, len(cases) - 1, _CASES).astype(int).tolist()})]
    side_mm = float(np.median([np.cbrt(np.prod(case.spacing_mm)) for case in picked]))
    alpha_mm = _allowed("theta_alpha_mm", side_mm * _ALPHA_VOXELS[0], side_mm * _ALPHA_VOXELS[1])
    blocks = [_block(case) for case in picked]

    def vertices(theta_alpha_mm: float, theta_beta: float) -> float:
        thetas = CrfSettings(theta_alpha_mm=theta_alpha_mm, theta_beta=theta_beta)
        return float(np.mean([vertices_per_node(nodes.bilateral_features(thetas)) for nodes in blocks]))

    finest = _crossing(lambda beta: vertices(alpha_mm[0], beta), _MOST_VERTICES)
    coarsest = _crossing(lambda beta: vertices(alpha_mm[1], beta), _FEWEST_VERTICES)
    return ThetaRanges(
        theta_gamma_mm=_allowed("theta_gamma_mm", side_mm * _GAMMA_VOXELS[0], side_mm * _GAMMA_VOXELS[1]),
        theta_alpha_mm=alpha_mm,
        theta_beta=_allowed("theta_beta", finest, max(coarsest, 2 * finest)),
    )


def _allowed(name: str, low: float, high: float) -> tuple[float, float]:
    """The part of a range that CrfSettings accepts."""
    return float(np.clip(low, *LIMITS[name])), float(np.clip(high, *LIMITS[name]))


def vertices_per_node(features: NDArray[np.float32]) -> float:
    """Vertices of the permutohedral lattice around features (F, N), divided by N; at most F + 1.

    Each feature lies in a simplex of F + 1 vertices; the fewer the vertices in all, the more features share one.
    Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", Computer Graphics
    Forum 2010, with the scale of pydensecrf (standard deviation 1).
    """
    axes = len(features)
    sides = axes + 1
    # The features in the hyperplane of F + 1 coordinates with sum 0, where the lattice lies.
    steps = np.arange(1, sides)
    basis = np.vstack([np.ones(axes), np.triu(np.ones((axes, axes)), 1) - np.diag(steps)])
    elevated = (basis * (np.sqrt(2 / 3) * sides / np.sqrt(steps * (steps + 1)))) @ features
    # The nearest vertex of remainder 0, and the order of the coordinates' distances from it.
    corner = np.rint(elevated / sides) * sides
    rank = np.argsort(np.argsort(corner - elevated, axis=0), axis=0) + np.rint(corner.sum(axis=0) / sides)
    shift = sides * ((rank < 0).astype(int) - (rank > axes))
    corner, rank = corner + shift, rank + shift
    # A vertex as one number; two vertices of a lattice have the same one with a chance of about 1e-9.
    code = np.random.default_rng(0).integers(1, 2**62, axes)
    codes = [
        code @ (corner + np.where(rank <= axes - remainder, remainder, remainder - sides))[:axes].astype(np.int64)
        for remainder in range(sides)
    ]
    return float(len(np.unique(np.concatenate(codes))) / features.shape[1])


def _block(case: CrfCase) -> Nodes:
    """The voxels of the brain that are nearest to its centre, as a cube: whole, because a lattice is about pairs."""
    position_mm = np.argwhere(case.brain) * np.array(case.spacing_mm)
    distance_mm = np.abs(position_mm - np.median(position_mm, axis=0)).max(axis=1)
    nearest = np.argsort(distance_mm, kind="stable")[:_BLOCK]
    region = np.zeros(case.brain.shape, dtype=bool)
    region[tuple(np.argwhere(case.brain)[nearest].T)] = True
    return Nodes.of(region, case.probability, case.image, case.spacing_mm)


def _crossing(vertices: Callable[[float], float], limit: float) -> float:
    """The theta_beta from which on there are at most `limit` vertices a voxel, by bisection on its logarithm."""
    low, high = (float(np.log(end)) for end in LIMITS["theta_beta"])
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if vertices(float(np.exp(middle))) > limit else (low, middle)
    return float(np.exp(high))
