"""A step does not slow down where gradients vanish, and nothing else counts by its rules."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree

import tiny
from mlproject.training import execution
from mlproject.training.loop import Trainer
from mlproject.training.worker import fabric_of

# In a process of its own, whose threads have not begun: how many of its numbers are 0 though the present one's mode
# keeps them.
THREADS = """
import torch
from mlproject.training.execution import begin_threads
torch.set_num_threads(2)
begin_threads()
print(int((torch.full((1 << 20,), 1e-38) * 1e-3 == 0).sum()))
"""


def denormal() -> float:
    return float(torch.full((1,), 1e-38) * 1e-3)


def test_denormals_count_as_zero_in_a_step_alone(tmp_path: Path) -> None:
    job = tiny.job(tmp_path)
    trainer = Trainer(job, fabric_of(job.training))
    compute, seen = trainer.compute, []

    def watched(image: torch.Tensor, label: torch.Tensor) -> execution.Losses:
        seen.append(denormal())
        return compute(image, label)

    trainer.compute = watched
    trainer.step(trainer.batches())
    assert seen == [0] and denormal() > 0
    # Most of them at 0, which is split from the others by the smallest number above: without one this never ends.
    points = np.zeros((400, 3))
    points[250:, 0] = np.arange(150)
    assert KDTree(points).query([3.2, 0, 0])[0] > 0


def test_denormals_count_as_zero_in_the_threads_of_pytorch() -> None:
    source = Path(execution.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", THREADS], cwd=source, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 1 << 20
