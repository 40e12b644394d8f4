"""The dense CRF as it is commonly called: pydensecrf on every voxel, a new lattice for each setting, one process."""

# mypy: allow-untyped-calls

import numpy as np
from numpy.typing import NDArray
from pydensecrf.densecrf import DenseCRF
from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

from mlproject.prediction.crf import CrfSettings
from mlproject.prediction.probability import CaseProbability

AUTHORS_SCALES = (0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


def plain(entry: CaseProbability, settings: CrfSettings, voxels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Lesion probability (I, J, K) after pydensecrf on `voxels` (I, J, K), with the same CRF as `refine`."""
    spacing_mm = np.array(entry.case.geometry.spacing_mm)
    gaussian = create_pairwise_gaussian(settings.theta_gamma_mm / spacing_mm, entry.probability.shape)
    theta_beta = [settings.theta_beta] * len(entry.case.image)
    bilateral = create_pairwise_bilateral(settings.theta_alpha_mm / spacing_mm, theta_beta, entry.case.image, chdim=0)
    return _infer(
        entry.probability,
        voxels,
        [(gaussian, settings.weight_gaussian), (bilateral, settings.weight_bilateral)],
        settings.iterations,
    )


def authors(entry: CaseProbability, sdims: float, schan: float) -> NDArray[np.float32]:
    """Lesion probability (I, J, K) after the CRF of Monteiro and Oliveira (github.com/MiguelMonteiro/ISLES2017).

    Both terms reach as far (`sdims` voxels), weigh 2, and go through 5 iterations on the whole grid; `schan` is
    in z-scores, as their images are.
    """
    gaussian = create_pairwise_gaussian([sdims] * 3, entry.probability.shape)
    bilateral = create_pairwise_bilateral([sdims] * 3, [schan] * len(entry.case.image), entry.case.image, chdim=0)
    everywhere = np.ones(entry.probability.shape, dtype=bool)
    return _infer(entry.probability, everywhere, [(gaussian, 2.0), (bilateral, 2.0)], 5)


def _infer(
    probability: NDArray[np.float32],
    voxels: NDArray[np.bool_],
    terms: list[tuple[NDArray[np.float32], float]],
    iterations: int,
) -> NDArray[np.float32]:
    """Mean field on `voxels` (I, J, K) with pairs of features (F, I * J * K) and weight."""
    lesion = probability[voxels]
    field = DenseCRF(lesion.size, 2)
    field.setUnaryEnergy(unary_from_softmax(np.stack([1 - lesion, lesion])))
    for features, weight in terms:
        if weight > 0:
            chosen = features if voxels.all() else features[:, voxels.ravel()]
            field.addPairwiseEnergy(np.ascontiguousarray(chosen), compat=weight)
    refined = probability.copy()
    refined[voxels] = np.asarray(field.inference(iterations))[1]
    return refined
