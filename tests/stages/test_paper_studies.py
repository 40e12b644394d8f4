"""What `reproduce` trains and says, on curves that are there already."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlproject import config
from mlproject.data.cache import PreparedCache
from mlproject.data.dataset import DataSet
from mlproject.data.splits import Split
from mlproject.stages.paper import crf, loss
from mlproject.stages.paper.laboratory import Laboratory, Training
from mlproject.stages.settings import Experiment, ReproduceSettings
from mlproject.tracking.source import PROJECT

TRAIN = tuple(f"case {number}" for number in range(39))


class Stored(Laboratory):
    """As conf/reproduce.yaml has it, with 39 cases to train and with curves that are there already."""

    def __init__(self, *given: str) -> None:
        arguments = ["--config", "conf/reproduce.yaml", "--data.root", "data", *given]
        settings = config.load(ReproduceSettings, arguments, [PROJECT], "reproduce")
        self.plan, self.base = settings.reproduce, settings.alone()
        self.dataset = DataSet({}, Split(TRAIN, (), ()), {}, "", PreparedCache(Path("cache"), settings.preprocessing))

    def training(self, name: str, experiment: Experiment, keep_model: bool = False) -> Training:
        """Of a loss's own speed; with soft Dice alone, seed 1 learns nothing."""
        settings, weights = experiment.training, (experiment.loss.cross_entropy, experiment.loss.dice)
        assert settings.steps is not None
        steps = np.array([*range(19, settings.steps, 19), settings.steps])
        speed = {(1, 1): 0.02, (1, 0): 0.01, (0, 1): 0.008}[weights] * (1 + settings.learning_rate + settings.seed / 50)
        dice = (1 - np.exp(-speed * steps)) * (0 if weights == (0, 1) and settings.seed == 1 else 0.8)
        curve = pd.DataFrame({"step": steps, "dice": dice, "seconds": steps / 2})
        return Training(f"{weights} {settings.learning_rate} {settings.seed}", curve, 2.0, 0.3)


def test_the_networks_of_claim_1_are_as_their_files_have_them() -> None:
    laboratory = Stored()
    paper, platform = (
        laboratory.experiment(laboratory.of(file)) for file in (laboratory.plan.paper, laboratory.plan.platform)
    )
    assert platform.patches.size == paper.patches.size == (64, 64, 64)
    assert (platform.training.batch_size, platform.training.learning_rate) == (2, 2e-3)
    assert (paper.training.batch_size, paper.training.learning_rate, paper.training.optimizer) == (1, 0.01, "adagrad")
    assert platform.training.steps == paper.training.steps == laboratory.base.training.steps
    assert platform.data == laboratory.base.data  # the study's channels, not those of the file


def test_the_crf_follows_the_better_network_of_claim_1() -> None:
    training, words = crf._better_network(Stored())  # the higher rate learns faster on the stored curves
    assert training.run_id == "(1.0, 1.0) 0.01 0" and words.startswith("After the paper's V-Net of claim 1")
    swapped = Stored("--reproduce.paper", "conf/isles2022.yaml", "--reproduce.platform", "conf/paper.yaml")
    training, words = crf._better_network(swapped)
    assert training.run_id == "(1.0, 1.0) 0.01 0" and words.startswith("After the platform's U-Net of claim 1")


@pytest.mark.parametrize(("steps", "validations", "batch_size"), [(150, 5, 2), (240, 12, 2), (60, 5, 4), (600, 12, 1)])
def test_a_training_is_validated_as_often_as_asked_for_and_has_a_point_before(
    steps: int, validations: int, batch_size: int
) -> None:
    laboratory = Stored("--reproduce.validations", str(validations))
    training = laboratory.experiment(steps=steps, batch_size=batch_size).training
    epoch = len(TRAIN) // batch_size
    assert math.ceil(steps / (training.validate_every * epoch)) >= validations
    assert training.log_every <= epoch


def test_the_losses_are_examined_on_stored_curves() -> None:
    laboratory = Stored()
    finding, drawn, table = loss.examine(laboratory)
    assert finding.verdict.startswith("Not settled")  # soft Dice alone differs too much between seeds
    assert table.groupby(["panel", "variant", "seed"]).ngroups == 2 * 3 * 3
    assert finding.minutes == 2 * (9 + 9 + 9)  # the search, the common rate, and the best, which is the highest
    overview, _, tried = (text for _, text in finding.tables)
    assert "interpolated" in overview and overview.count("never in 1 of 3") == 2 and "to over 228)" in overview
    assert tried.count("\n") == 1 + 3
    assert "Dice 0 at step 0" in finding.done and "2 patches of 48 x 48 x 48 voxels" in finding.done
    assert any("is an end of the range" in reason for reason in finding.against)
    for axes in drawn.axes:
        for line in (line for line in axes.lines if line.get_label() in loss.LOSSES):
            assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0)
