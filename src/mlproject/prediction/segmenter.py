"""A trained model as a folder, and the one way from a volume to its mask: evaluate, predict and the server share it."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mlproject import config
from mlproject.data.case import Missing
from mlproject.data.image_files import MAX_VOXELS
from mlproject.data.preprocessing import PreparedCase, prepare
from mlproject.data.preprocessing_settings import PreprocessingSettings
from mlproject.data.volumes import Volume
from mlproject.errors import ModelError, SettingsError
from mlproject.network.architectures import build_network
from mlproject.network.ensemble import Ensemble
from mlproject.network.settings import NetworkSettings
from mlproject.prediction.postprocessing import Postprocessing, apply
from mlproject.prediction.settings import PredictionSettings
from mlproject.prediction.sliding_window import predict_probability, resolve_device

FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS = "model.json", "weights.pt"


@dataclass(frozen=True)
class ModelDescription:
    """All that a model is, but for its weights.

    Attributes:
        channels: image channels in their order; the first one's grid is the answer's.
        preprocessing, network, prediction, postprocessing: the settings of each part.
        patch_size: edge lengths of the sliding window, voxels of the prepared grid.
        candidates: what the postprocessing was chosen from, by name; the evaluation reports each.
        seen: digests of the channels of every case it was trained on or tuned with.
        missing: what it does with a case that lacks a channel other than the first: refuse, or take zeros for it.
        members: how many networks of this kind answer together, by the mean of their probabilities.
    """

    channels: tuple[str, ...]
    preprocessing: PreprocessingSettings
    network: NetworkSettings
    patch_size: tuple[int, int, int]
    prediction: PredictionSettings
    postprocessing: Postprocessing
    candidates: dict[str, Postprocessing]
    seen: tuple[str, ...]
    missing: Missing = "refuse"
    members: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model.json."""
        return {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "postprocessing": self.postprocessing.to_dict(),
            "candidates": {name: candidate.to_dict() for name, candidate in self.candidates.items()},
        }

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Self:
        """What `to_dict` made. Raises ModelError for another format."""
        if tree.get("format_version") != FORMAT_VERSION:
            raise ModelError(
                f"the model has format {tree.get('format_version')}, this software reads {FORMAT_VERSION}: "
                "use the version of the software that made it"
            )
        try:
            return cls(
                channels=tuple(tree["channels"]),
                preprocessing=config.from_tree(PreprocessingSettings, tree["preprocessing"], DESCRIPTION),
                network=config.from_tree(NetworkSettings, tree["network"], DESCRIPTION),
                patch_size=tuple(tree["patch_size"]),
                prediction=config.from_tree(PredictionSettings, tree["prediction"], DESCRIPTION),
                postprocessing=Postprocessing.from_dict(tree["postprocessing"]),
                candidates={n: Postprocessing.from_dict(candidate) for n, candidate in tree["candidates"].items()},
                seen=tuple(tree["seen"]),
                missing=tree.get("missing", "refuse"),  # which models of older code do not say
                members=tree.get("members", 1),
            )
        except (KeyError, TypeError, SettingsError) as error:
            raise ModelError(f"{DESCRIPTION} does not describe a model of format {FORMAT_VERSION}: {error}") from error


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer for one case, on the case's own grid.

    Attributes:
        mask: (I, J, K), uint8, 1 in the lesion.
        probability: (I, J, K), float32 in [0, 1], after the CRF where one was used.
        lesion_ml: volume of the mask.
        lesion_count: its 26-connected components.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    lesion_ml: float
    lesion_count: int


class Segmenter:
    """A network with its preprocessing and postprocessing, ready to segment."""

    def __init__(self, description: ModelDescription, network: torch.nn.Module, device: str | None = None) -> None:
        self.description = description
        self.device = resolve_device(device or description.prediction.device)
        self.network = network.to(self.device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> Self:
        """A model from its folder; `device` takes the place of its own setting. Raises ModelError."""
        try:
            tree = json.loads((folder / DESCRIPTION).read_text())
            weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # whose text says how to run what is in it
            raise ModelError(
                f"{folder / WEIGHTS} holds more than weights, and nothing of it is run: it is damaged, or "
                "was not written by this software"
            ) from error
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            raise ModelError(f"{folder} holds no readable model ({DESCRIPTION} and {WEIGHTS}): {error}") from error
        description = ModelDescription.from_dict(tree)
        members = [
            build_network(description.network, len(description.channels), description.patch_size)
            for _ in range(description.members)
        ]
        network = members[0] if len(members) == 1 else Ensemble(members)
        load_weights(network, weights, folder / WEIGHTS)
        return cls(description, network, device)

    @classmethod
    def join(cls, models: Sequence[Self]) -> Self:
        """One model of several: the mean of their probabilities, with the first one's postprocessing.

        It has seen what any of them has.

        Raises:
            ModelError: they differ in more than weights and postprocessing, or there is only one.
        """
        first, *others = [model.description for model in models]
        for other in others:
            for part in ("channels", "preprocessing", "network", "patch_size", "prediction", "missing"):
                if getattr(first, part) != getattr(other, part):
                    raise ModelError(
                        f"models that answer as one must have the same {part}, got {getattr(first, part)} and "
                        f"{getattr(other, part)}"
                    )
        if not others or max(model.description.members for model in models) > 1:
            raise ModelError(f"an ensemble is made of two or more single networks, got {len(models)} model(s)")
        seen = tuple(sorted({digest for model in models for digest in model.description.seen}))
        network = Ensemble(model.network for model in models)
        return cls(replace(first, members=len(models), seen=seen), network, str(models[0].device))

    def save(self, folder: Path) -> None:
        """Write the model as a folder of two files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).write_text(json.dumps(self.description.to_dict(), indent=2))
        weights = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        torch.save(weights, folder / WEIGHTS)

    def with_postprocessing(
        self, chosen: Postprocessing, candidates: dict[str, Postprocessing], tuned_on: Sequence[PreparedCase]
    ) -> Self:
        """The same network with other postprocessing, and what it was tuned on among the cases seen."""
        seen = tuple(sorted({*self.description.seen, *digests_of(tuned_on)}))
        description = replace(self.description, postprocessing=chosen, candidates=candidates, seen=seen)
        return type(self)(description, self.network, str(self.device))

    def probability(self, case: PreparedCase) -> NDArray[np.float32]:
        """The network's lesion probability, (I, J, K) float32 in [0, 1], on the prepared grid; 0 outside the brain."""
        description = self.description
        return predict_probability(
            self.network, case.image, description.patch_size, description.prediction, self.device, case.brain
        )

    def segment(
        self, volume: Volume, postprocessing: Postprocessing | None = None, most_voxels: int = MAX_VOXELS
    ) -> Segmentation:
        """Segment a volume; `postprocessing` takes the place of the model's own.

        Raises:
            DataError: it cannot be prepared, or only on a grid of more than `most_voxels`.
        """
        case = prepare(volume, self.description.preprocessing, most_voxels)
        mask, probability = apply(self.probability(case), case, postprocessing or self.description.postprocessing)
        _, count = ndimage.label(mask, np.ones((3, 3, 3)))
        return Segmentation(mask, probability, float(mask.sum()) * volume.voxel_ml, int(count))


def load_weights(network: torch.nn.Module, weights: dict[str, Any], source: Path) -> None:
    """Give a network its weights. Raises ModelError where they are another network's."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {source} do not fit the network that is described beside them: they are another "
            "network's, or another version of this software made them; use that version"
        ) from error


def digests_of(cases: Sequence[PreparedCase]) -> set[str]:
    """Digests of every channel of the cases: whoever has seen one channel has seen the case."""
    return {digest for case in cases for digest in case.channel_digests.values()}
