"""Several models that answer as one: the mean of their probabilities, over a file and back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from mlproject.errors import ModelError
from mlproject.network.architectures import build_network
from mlproject.prediction.segmenter import Segmenter
from mlproject.prediction.settings import PredictionSettings

DESCRIPTION = tiny.description(prediction=PredictionSettings(device="cpu", overlap=0))


def model(seed: int, **changes: object) -> Segmenter:
    """An untrained network that is as good as undecided, so that members differ in every voxel."""
    torch.manual_seed(seed)
    network = build_network(tiny.NETWORK, 2, (16, 16, 16))
    torch.nn.init.normal_(next(p for name, p in network.named_parameters() if "output_block" in name), std=3)
    return Segmenter(replace(DESCRIPTION, seen=(f"case {seed}",), **changes), network)  # type: ignore[arg-type]


def test_an_ensemble_is_the_mean_of_its_members_also_from_its_folder(tmp_path: Path) -> None:
    (case,) = tiny.cases([1])
    members = [model(seed) for seed in range(3)]
    expected = np.mean([member.probability(case) for member in members], axis=0)
    assert np.std([member.probability(case) for member in members], axis=0).max() > 0.05  # they do differ
    joined = Segmenter.join(members)
    assert joined.description.seen == ("case 0", "case 1", "case 2")
    np.testing.assert_allclose(joined.probability(case), expected, atol=1e-6)
    joined.save(tmp_path)
    np.testing.assert_array_equal(Segmenter.load(tmp_path).probability(case), joined.probability(case))


def test_members_that_are_sure_stay_sure() -> None:
    members = [model(seed) for seed in range(2)]
    for member in members:
        for name, parameter in member.network.named_parameters():
            if "output_block" in name and name.endswith("bias"):
                torch.nn.init.constant_(parameter, 1e4)
    (case,) = tiny.cases([1])
    probability = Segmenter.join(members).probability(case)
    assert (probability[case.brain] == 1).all()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([model(0)], "two or more"),
        ([model(0), model(1, channels=("dwi", "flair"))], "same channels"),
        ([model(0), model(1, prediction=PredictionSettings(device="cpu", mirror=True))], "same prediction"),
        ([Segmenter.join([model(0), model(1)]), model(2)], "single networks"),
    ],
)
def test_what_cannot_answer_as_one_is_refused(models: list[Segmenter], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Segmenter.join(models)
