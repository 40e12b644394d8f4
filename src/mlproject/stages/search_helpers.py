"""Several trials at once on one machine: further processes of the same command, which join the study."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from mlproject import config, interrupts
from mlproject.errors import SettingsError
from mlproject.stages.console import console
from mlproject.stages.settings import SearchSettings

SECONDS_TO_END = 30


@contextmanager
def helpers(settings: SearchSettings, groups: Sequence[str]) -> Iterator[None]:
    """Within: `search.parallel` - 1 further processes work on the study, each with its own of `gpu_groups`.

    They are workers as those of another machine are. Leaving normally waits for them; leaving by an
    exception stops them.
    """
    if groups:
        os.environ["CUDA_VISIBLE_DEVICES"] = groups[0]  # for the processes that train; this one takes the first GPU
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(config.dump(replace(settings, search=replace(settings.search, parallel=1))))
        command = [sys.executable, sys.argv[0], "search", "--config", str(file)]
        if logging.getLogger("mlproject").isEnabledFor(logging.DEBUG):
            command.append("--debug")
        output = subprocess.DEVNULL if console.quiet else None
        # The bars of several processes would overwrite each other: on such a terminal they print lines.
        environment = {**os.environ, "TERM": "dumb"}
        ended = threading.Event()
        stopper = threading.Thread(target=_stop, args=(processes, ended), name="stop-helpers", daemon=True)
        stopper.start()
        try:
            for number in range(1, settings.search.parallel):
                gpus = {"CUDA_VISIBLE_DEVICES": groups[number]} if groups else {}
                processes.append(subprocess.Popen(command, env=environment | gpus, stdout=output))
            yield
            for process in processes:
                if code := process.wait():
                    console.print(f"a parallel worker ended with exit code {code}; what it left was done by another")
        finally:
            ended.set()
            stopper.join()
            for process in processes:
                try:
                    process.wait(SECONDS_TO_END)
                except subprocess.TimeoutExpired:
                    process.kill()


def _stop(processes: Sequence[subprocess.Popen[bytes]], ended: threading.Event) -> None:
    """Stop the helpers once they are to end, and at the first signal: the trial in hand here takes its time to close.

    Once, because a second signal would have them leave theirs as it is.
    """
    while not (interrupts.requested() or ended.wait(0.2)):
        pass
    for process in processes:
        if process.poll() is None:
            process.terminate()


def gpu_groups(settings: SearchSettings) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each parallel trial; none on a machine without GPUs, or with one trial at a time.

    Raises:
        SettingsError: there are fewer GPUs than the trials need.
    """
    parallel, devices = settings.search.parallel, settings.training.devices
    if parallel == 1 or settings.training.accelerator == "cpu" or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if parallel * devices > len(gpus):
        raise SettingsError(
            f"search.parallel={parallel} trials with training.devices={devices} need {parallel * devices} GPUs, "
            f"PyTorch sees {len(gpus)} here: lower search.parallel"
        )
    return [",".join(gpus[number * devices : (number + 1) * devices]) for number in range(parallel)]
