"""From a lesion probability map to a lesion mask on the case's own grid: CRF, threshold, smallest lesion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mlproject.data.preprocessing import PreparedCase, to_native
from mlproject.errors import ModelError, SettingsError
from mlproject.prediction.crf import CrfSettings, refine

# Voxels that share a corner belong to the same lesion, as in the ISLES 2022 metrics.
NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Postprocessing:
    """What is done to the network's probability, in this order.

    Attributes:
        threshold: A voxel is lesion from this probability on; between 0 and 1, both excluded.
        min_lesion_ml: Connected lesions smaller than this volume are removed; 0 keeps all.
        crf: The dense CRF that refines the probability first; none if null.
    """

    threshold: float = 0.5
    min_lesion_ml: float = 0.0
    crf: CrfSettings | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise SettingsError(f"threshold is {self.threshold}: it must lie between 0 and 1, both excluded")
        if not 0 <= self.min_lesion_ml < float("inf"):
            raise SettingsError(f"min_lesion_ml is {self.min_lesion_ml}: it must be 0 (keep all lesions) or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, read back by from_dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Postprocessing":
        """Read what to_dict wrote.

        Raises:
            ModelError: A key is unknown or missing, or a value has the wrong type or is out of range.
        """
        _check_stored(cls, values)
        crf = values["crf"]
        if crf is not None:
            _check_stored(CrfSettings, crf)
        try:
            return cls(**{**values, "crf": None if crf is None else CrfSettings(**crf)})
        except SettingsError as error:
            raise ModelError(f"the model's stored postprocessing cannot be used: {error}") from error


def _check_stored(kind: type[Any], values: Any) -> None:
    """Refuse a stored `kind` whose keys are not its fields, or a value of another type than the default."""
    defaults = {field.name: field.default for field in fields(kind)}
    if not isinstance(values, Mapping) or set(values) != set(defaults):
        found = sorted(values) if isinstance(values, Mapping) else values
        raise ModelError(
            f"the model's stored {kind.__name__} holds {found}, this version reads {sorted(defaults)}: "
            "use the version of the software that wrote the model, or train again"
        )
    for name, default in defaults.items():
        accepted = {float: (float, int), int: (int,), str: (str,)}.get(type(default))
        if accepted and type(values[name]) not in accepted:  # type, as True is an int to isinstance
            raise ModelError(
                f"{name} of the model's stored {kind.__name__} is {values[name]!r}: "
                f"it must be of type {accepted[0].__name__}; was the file changed by hand?"
            )


def apply(
    probability: NDArray[np.float32], case: PreparedCase, postprocessing: Postprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Lesion mask and probability on the case's own grid.

    Args:
        probability: (I, J, K) on the prepared grid, in [0, 1].
        case: The prepared case that it belongs to.
        postprocessing: CRF (on the prepared grid), threshold and smallest lesion (both on the native grid).

    Returns:
        The mask {0, 1} and the probability that it was cut from (after the CRF), both (I, J, K) native.
    """
    if postprocessing.crf is not None:
        probability = refine(probability, case.image, case.brain, case.geometry.spacing_mm, postprocessing.crf)
    native = to_native(probability, case.geometry)
    voxel_ml = case.geometry.native_voxel_ml
    return to_mask(native, postprocessing.threshold, postprocessing.min_lesion_ml, voxel_ml), native


def to_mask(
    probability: NDArray[np.float32], threshold: float, min_lesion_ml: float, voxel_ml: float
) -> NDArray[np.uint8]:
    """Mask {0, 1} of the voxels with `probability` >= `threshold`, without its small lesions.

    Args:
        probability: (I, J, K), in [0, 1].
        threshold: Smallest probability of a lesion voxel.
        min_lesion_ml: 26-connected lesions smaller than this are removed.
        voxel_ml: Volume of a voxel.
    """
    mask = probability >= threshold
    if min_lesion_ml > 0:
        lesions, _ = ndimage.label(mask, NEIGHBOURS_26)
        keep = np.bincount(lesions.ravel()) >= min_voxels(min_lesion_ml, voxel_ml)
        keep[0] = False
        mask = keep[lesions]
    return mask.astype(np.uint8)


def min_voxels(min_lesion_ml: float, voxel_ml: float) -> int:
    """Voxels in the smallest lesion that is kept; a lesion of exactly `min_lesion_ml` is."""
    return int(np.ceil(round(min_lesion_ml / voxel_ml, 6)))
