"""kill -9 of the trainer, wherever it is: gone on with in the same run, it is the training that was never disturbed."""

import random
import time
from functools import partial

import psutil
import pytest

from faults.conftest import STEPS, Place, same_weights, wait_until


def killed_at(place: Place, moments: int, seed: int) -> None:
    """Train to the end, killed so many times at random moments; half of them while a checkpoint is being written."""
    draw = random.Random(seed)
    command = place.start("train")
    for moment in range(1, moments + 1):
        wait_until(partial(reached, place, draw.randint(1, STEPS * moment // moments)), command)
        if draw.random() < 0.5:
            wait_until(lambda: half_written(place) or place.step() == STEPS, command)
        else:
            time.sleep(draw.random() * 0.3)
        command.kill()
        command.process.join()
        command = place.start("train", training__resume=place.run_id())
    assert command.wait() == 0, command.said


def reached(place: Place, step: int) -> bool:
    return place.step() >= step


def half_written(place: Place) -> bool:
    return bool(list(place.work.glob("runs/*/.*.part")))


@pytest.mark.long
def test_killed_twice(place: Place, undisturbed: Place) -> None:
    killed_at(place, 2, seed=1)
    assert place.record() == undisturbed.record()
    assert same_weights(place.last(), undisturbed.last())


@pytest.mark.long
def test_a_data_worker_killed_ends_the_command(place: Place) -> None:
    command = place.start("train", training__workers="1", training__steps="100000")
    wait_until(lambda: place.step() > 0, command)
    trainer = psutil.Process(command.process.pid)
    (worker,) = [child for child in trainer.children() if child.num_threads() > 0 and child.ppid() == trainer.pid]
    worker.kill()
    assert command.wait() == 1, command.said
    (line,) = [line for line in command.said.splitlines() if line.startswith("error: ")]
    assert "a process that cuts patches died" in line and f"--training.resume {place.run_id()}" in line
    assert place.step() > 0 and place.client.get_run(place.run_id()).info.status == "FAILED"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_killed_ten_times(place: Place, undisturbed: Place, seed: int) -> None:
    killed_at(place, 10, seed)
    assert place.record() == undisturbed.record()
    assert same_weights(place.last(), undisturbed.last())
