"""What `reproduce` trains and says, on curves that are there already."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiny
from mlproject import config
from mlproject.data.cache import PreparedCache
from mlproject.data.dataset import DataSet
from mlproject.data.splits import Split
from mlproject.network.architectures import build_network
from mlproject.stages.paper import crf, loss, network, workers
from mlproject.stages.paper.laboratory import Effort, Laboratory, Training, experiment_of
from mlproject.stages.settings import Experiment, ReproduceSettings
from mlproject.tracking.source import PROJECT

TRAIN = tuple(f"case {number}" for number in range(39))


class Stored(Laboratory):
    """As conf/reproduce.yaml has it, with 39 cases to train and with curves that are there already."""

    def __init__(self, *given: str) -> None:
        arguments = ["--config", "conf/reproduce.yaml", "--data.root", "data", *given]
        settings = config.load(ReproduceSettings, arguments, [PROJECT], "reproduce")
        self.plan, self.base = settings.reproduce, settings.alone()
        self.effort, self.asked = Effort(), dict[str, Experiment]()
        self.dataset = DataSet({}, Split(TRAIN, (), ()), {}, "", PreparedCache(Path("cache"), settings.preprocessing))

    def _training(self, name: str, experiment: Experiment, keep_model: bool) -> Training:
        """Of a loss's own speed; with soft Dice alone, seed 1 learns nothing."""
        settings, weights = experiment.training, (experiment.loss.cross_entropy, experiment.loss.dice)
        assert settings.steps is not None
        self.asked[name] = experiment
        steps = np.array([*range(19, settings.steps, 19), settings.steps])
        speed = {(1, 1): 0.02, (1, 0): 0.01, (0, 1): 0.008}[weights] * (1 + settings.learning_rate + settings.seed / 50)
        dice = (1 - np.exp(-speed * steps)) * (0 if weights == (0, 1) and settings.seed == 1 else 0.8)
        curve = pd.DataFrame({"step": steps, "dice": dice, "seconds": 4 + steps / settings.devices})
        run_id = f"{weights} {settings.learning_rate} {settings.seed} {settings.devices}"
        return Training(run_id, curve, 2.0, 0.3, "commit")


def test_the_networks_of_claim_1_are_as_their_files_have_them() -> None:
    laboratory = Stored()
    paper, platform = (
        laboratory.experiment(experiment_of(laboratory.base, file))
        for file in (laboratory.plan.paper, laboratory.plan.platform)
    )
    assert platform.patches.size == paper.patches.size == (64, 64, 64)
    assert (platform.training.batch_size, platform.training.learning_rate) == (2, 2e-3)
    assert (paper.training.batch_size, paper.training.learning_rate, paper.training.optimizer) == (1, 0.01, "adagrad")
    assert platform.training.steps == paper.training.steps == laboratory.base.training.steps
    assert platform.data == laboratory.base.data  # the study's channels, not those of the file


def test_the_crf_follows_the_better_network_of_claim_1() -> None:
    training, words = crf._better_network(Stored())  # the higher rate learns faster on the stored curves
    assert training.run_id == "(1.0, 1.0) 0.01 0 1" and words.startswith("After the paper's V-Net of claim 1")
    swapped = Stored("--reproduce.paper", "conf/isles2022.yaml", "--reproduce.platform", "conf/paper.yaml")
    training, words = crf._better_network(swapped)
    assert training.run_id == "(1.0, 1.0) 0.01 0 1" and words.startswith("After the platform's U-Net of claim 1")


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
    taken = laboratory.effort.trainings.values()  # of the search, the common rate, and the best, which is the highest
    assert len(taken) == 9 + 9 + 9 and sum(training.minutes for training in taken) == 2 * 27
    overview, _, tried = (text for _, text in finding.tables)
    assert "interpolated" in overview and overview.count("never in 1 of 3") == 2 and "to over 228)" in overview
    assert tried.count("\n") == 1 + 3
    assert "Dice 0 at step 0" in finding.done and "2 patches of 48 x 48 x 48 voxels" in finding.done
    assert any("is an end of the range" in reason for reason in finding.against)
    for axes in drawn.axes:
        for line in (line for line in axes.lines if line.get_label() in loss.LOSSES):
            assert (line.get_xdata()[0], line.get_ydata()[0]) == (0, 0)


def test_the_losses_differ_in_nothing_else() -> None:
    laboratory = Stored()
    loss.examine(laboratory)
    experiments = list(laboratory.asked.values())
    weights = {(one.loss.cross_entropy, one.loss.dice) for one in experiments}
    assert weights == {(1, 1), (1, 0), (0, 1)}
    alike = {
        replace(one, loss=laboratory.base.loss, training=replace(one.training, seed=0, learning_rate=1.0))
        for one in experiments
    }
    assert len(alike) == 1


def test_workers_share_the_same_batches() -> None:
    laboratory = Stored()
    finding, _, table = workers.examine(laboratory)
    trainings = {(one.training.seed, one.training.devices): one for one in laboratory.asked.values()}
    assert sorted(trainings) == [(seed, count) for seed in (0, 1, 2) for count in (1, 2)]
    assert {one.training.threads for one in trainings.values()} == {1}
    for (seed, _), one in trainings.items():
        assert replace(one, training=replace(one.training, devices=1)) == trainings[seed, 1]
        assert one.training.batch_size == 2 * workers.PATCHES_EACH
    # Each curve is 0.8 * (1 - exp(-speed * step)): the level, 80 % of the lowest of their ends, is reached by both at
    # the same step, and the seconds there are those of the curve.
    lowest = laboratory._training("", trainings[0, 1], keep_model=False).curve["dice"].max()
    assert f"The level is {0.8 * lowest:.3f}" in finding.done
    one, two = (table[table["workers"] == count].set_index("seed")["minutes_to_level"] for count in (1, 2))
    steps = (one - two) * 60 * 2  # of steps a second each, less those of 1 / 2
    curve = laboratory._training("", trainings[1, 1], keep_model=False).curve
    reached = np.interp(0.8 * lowest, curve["dice"], curve["step"])
    assert steps[1] == pytest.approx(reached) and one[1] * 60 == pytest.approx(4 + reached)


def test_a_threshold_on_the_image_reaches_every_z_score() -> None:
    (case,) = tiny.cases([1])
    bright = replace(case, image=np.where(case.brain, np.float32(3.1), np.float32(9)) * np.ones_like(case.image))
    laboratory = Stored()
    laboratory.dataset = replace(laboratory.dataset)
    object.__setattr__(laboratory.dataset, "load", lambda names: [bright])
    (above,), (below,) = (network._as_probability(laboratory, ("case",), "adc", sign) for sign in (1, -1))
    assert np.allclose(above.probability[case.brain], 3.1 / 5) and not above.probability[~case.brain].any()
    assert not below.probability.any()


def test_the_papers_network_and_training_are_as_published() -> None:
    laboratory = Stored()
    paper = laboratory.experiment(experiment_of(laboratory.base, laboratory.plan.paper))
    # 10,044,081: counted by hand in tests/network/test_architectures.py, for two channels and these settings.
    built = build_network(paper.network, len(paper.data.channels), paper.patches.size)
    assert sum(value.numel() for value in built.parameters()) == 10_044_081
    training = paper.training
    assert (paper.loss.cross_entropy, paper.loss.dice) == (1, 1)
    assert (training.weight_decay, training.gradient_clip, training.warmup_steps) == (0, 0, 0)
    assert (training.decay, training.decay_rate, training.decay_steps) == ("step", 0.95, 200)
    chances = [value for name, value in vars(paper.patches.augmentation).items() if name.endswith("_probability")]
    assert chances and not any(chances)
