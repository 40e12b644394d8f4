"""A case together with what the network says about it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlproject.data.preprocessing import PreparedCase


@dataclass(frozen=True, eq=False)
class CaseProbability:
    """A prepared case and its lesion probability.

    Attributes:
        case: The case on the prepared grid.
        probability: (I, J, K) float32 on the prepared grid, in [0, 1]; may be a read-only memory map.
    """

    case: PreparedCase
    probability: NDArray[np.float32]
