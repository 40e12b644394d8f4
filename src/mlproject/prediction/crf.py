"""A dense conditional random field (CRF) over a probability map and the image it was predicted from.

Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials",
NeurIPS 2011: every voxel is joined to every other by a Potts term, which asks two voxels to carry the same
label the more, the closer they are (Gaussian term), and the more alike they look as well (bilateral term).
Inference is mean-field; pydensecrf approximates the Gaussian filters on a permutohedral lattice.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydensecrf.densecrf import NORMALIZE_SYMMETRIC, DenseCRF
from scipy import ndimage

from mlproject.errors import DataError, SettingsError

# The lattice keys of pydensecrf are 16-bit integers: beyond this it ends the process with SIGSEGV.
MAX_FEATURE = 1000.0
# What CrfSettings accepts.
LIMITS = {
    "theta_gamma_mm": (0.5, 50),
    "theta_alpha_mm": (0.5, 200),
    "theta_beta": (0.05, 20),
    "weight_gaussian": (0, 100),
    "weight_bilateral": (0, 100),
    "iterations": (0, 50),
}
# Probabilities are kept this far from 0 and 1, so that their logarithms are finite.
_SMALLEST = 1e-6
# The uncertain region: voxels above this probability, and all within this distance of one.
_REGION_PROBABILITY = 0.01
_REGION_MARGIN_MM = 10.0


@dataclass(frozen=True)
class CrfSettings:
    """A dense CRF; the defaults are a good start for z-scored brain images.

    Attributes:
        theta_gamma_mm: Reach of the Gaussian term (standard deviation), 0.5 to 50 mm.
        theta_alpha_mm: Reach of the bilateral term in space, 0.5 to 200 mm.
        theta_beta: Reach of the bilateral term in intensity, in z-scores of every channel, 0.05 to 20.
        weight_gaussian: Weight of the Gaussian term, 0 (off) to 100.
        weight_bilateral: Weight of the bilateral term, 0 (off) to 100.
        iterations: Mean-field iterations, 0 (the CRF changes nothing) to 50.
        region: Voxels of the CRF: uncertain = the brain within 10 mm of a probability above 0.01 (faster, a
            few voxels' difference), brain = all of the brain.
    """

    theta_gamma_mm: float = 2.0
    theta_alpha_mm: float = 20.0
    theta_beta: float = 0.5
    weight_gaussian: float = 1.0
    weight_bilateral: float = 3.0
    iterations: int = 5
    region: Literal["uncertain", "brain"] = "uncertain"

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails this too
                raise SettingsError(f"{name} of the CRF is {value}: it must be {low} to {high}")
        if self.region not in ("uncertain", "brain"):
            raise SettingsError(f"region of the CRF is {self.region!r}: it must be uncertain or brain")


def refine(
    probability: NDArray[np.float32],
    image: NDArray[np.float32],
    brain: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    settings: CrfSettings,
) -> NDArray[np.float32]:
    """Lesion probability after the CRF, a new array; unchanged outside the CRF's region (see CrfSettings).

    It is unchanged everywhere if the region is empty, both weights are 0, or iterations is 0.

    Args:
        probability: (I, J, K), the network's lesion probability, in [0, 1].
        image: (C, I, J, K), z-scores.
        brain: (I, J, K), True in the brain.
        spacing_mm: Voxel size along I, J, K.
        settings: The CRF.

    Raises:
        ValueError: The arrays' shapes differ.
        DataError: A probability is NaN or outside [0, 1], or an intensity is NaN or too large for theta_beta.
    """
    if not probability.shape == brain.shape == image.shape[1:]:
        raise ValueError(f"shapes differ: probability {probability.shape}, image {image.shape}, brain {brain.shape}")
    if not (probability.min() >= 0 and probability.max() <= 1):  # a NaN fails this too
        raise DataError(
            f"the CRF got probabilities from {probability.min()} to {probability.max()}: "
            "they must be 0 to 1, never NaN; the network that predicted them is damaged"
        )
    refined = np.array(probability, dtype=np.float32)
    weighted = settings.weight_gaussian > 0 or settings.weight_bilateral > 0
    if weighted and settings.iterations > 0:
        region = np.asarray(brain) if settings.region == "brain" else uncertain_region(refined, brain, spacing_mm)
        if region.any():
            refined[region] = _infer(Nodes.of(region, refined, image, spacing_mm), settings)
    return refined


def uncertain_region(
    probability: NDArray[np.float32], brain: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """The voxels (I, J, K) of the brain within 10 mm of one in it whose probability is above 0.01."""
    seeds = (probability > _REGION_PROBABILITY) & brain
    region = np.zeros_like(seeds)
    for box in ndimage.find_objects(seeds.astype(np.uint8)):  # one box around all seeds, none without any
        margins = [int(np.ceil(_REGION_MARGIN_MM / side)) for side in spacing_mm]
        wider = tuple(
            slice(max(extent.start - margin, 0), extent.stop + margin)
            for extent, margin in zip(box, margins, strict=True)
        )
        distance_mm = ndimage.distance_transform_edt(~seeds[wider], sampling=spacing_mm)
        region[wider] = (distance_mm <= _REGION_MARGIN_MM) & brain[wider]
    return region


@dataclass(frozen=True, eq=False)
class Nodes:
    """The voxels that a CRF joins, in the order of the volume.

    Attributes:
        position_mm: (3, N) float32, with the mean at 0.
        z_scores: (C, N) float32, the image.
        log_odds: (N,) float32, log(p / (1 - p)) of the network's probability p.
    """

    position_mm: NDArray[np.float32]
    z_scores: NDArray[np.float32]
    log_odds: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        region: NDArray[np.bool_],
        probability: NDArray[np.float32],
        image: NDArray[np.float32],
        spacing_mm: tuple[float, float, float],
    ) -> "Nodes":
        """The voxels of a `region` (I, J, K) that is not empty; see `refine` for the other arrays."""
        position_mm = np.argwhere(region) * np.array(spacing_mm)
        position_mm -= position_mm.mean(axis=0)  # keeps the features small
        p = np.clip(probability[region].astype(np.float64), _SMALLEST, 1 - _SMALLEST)
        arrays = (position_mm.T, image[:, region], np.log(p / (1 - p)))
        return cls(*(array.astype(np.float32) for array in arrays))

    def gaussian_features(self, settings: CrfSettings) -> NDArray[np.float32]:
        """Features (3, N) of the Gaussian term, as pydensecrf takes them."""
        return _checked(self.position_mm / settings.theta_gamma_mm)

    def bilateral_features(self, settings: CrfSettings) -> NDArray[np.float32]:
        """Features (3 + C, N) of the bilateral term, as pydensecrf takes them."""
        near, alike = self.position_mm / settings.theta_alpha_mm, self.z_scores / settings.theta_beta
        return _checked(np.concatenate([near, alike]))


def _infer(nodes: Nodes, settings: CrfSettings) -> NDArray[np.float32]:
    """Mean-field lesion probability (N,)."""
    field = DenseCRF(len(nodes.log_odds), 2)
    # Energies are -log probability up to a constant: here that of the background is 0.
    field.setUnaryEnergy(np.ascontiguousarray(np.stack([np.zeros_like(nodes.log_odds), -nodes.log_odds])))
    if settings.weight_gaussian > 0:
        features = nodes.gaussian_features(settings)
        field.addPairwiseEnergy(features, compat=settings.weight_gaussian, normalization=NORMALIZE_SYMMETRIC)
    if settings.weight_bilateral > 0:
        features = nodes.bilateral_features(settings)
        field.addPairwiseEnergy(features, compat=settings.weight_bilateral, normalization=NORMALIZE_SYMMETRIC)
    marginal: NDArray[np.float32] = np.array(field.inference(settings.iterations), dtype=np.float32)[1]
    return marginal


def _checked(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features (F, N) as pydensecrf needs them; what would end the process is refused here."""
    largest = np.abs(features).max()
    if not largest < MAX_FEATURE:  # a NaN fails this too
        raise DataError(
            f"the CRF got a feature (position in mm or z-score over its theta) of {largest}: it must be "
            f"finite and below {MAX_FEATURE:g}; look for NaN or extreme intensities in the image, or raise "
            "the CRF's thetas"
        )
    return np.ascontiguousarray(features, dtype=np.float32)
