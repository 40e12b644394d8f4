"""The demo's data set: synthetic cases, written on first use, then read as any ISLES-2022 tree."""

import logging
from dataclasses import replace
from pathlib import Path

from mlproject.data.case import Case, DataSettings
from mlproject.data.case_keys import mark_used
from mlproject.data.layouts import isles2022
from mlproject.data.synthetic import GENERATOR_VERSION, write_dataset

logger = logging.getLogger(__name__)


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the `settings.demo_cases` synthetic cases in a folder of their own below `settings.root`.

    The folder's name says what its content depends on: a data set made otherwise is not mistaken for it.
    """
    folder = settings.root_path / f"demo-{settings.demo_cases}-v{GENERATOR_VERSION}"
    if not folder.exists():
        logger.info("Making %d synthetic cases in %s", settings.demo_cases, folder)
        write_dataset(folder, settings.demo_cases)
    mark_used(folder / "README.txt")
    return isles2022.find(replace(settings, root=str(folder)), labelled)


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The channels of the largest data set that has been made below `root`, in how many cases each."""
    made = [isles2022.channels(folder) for folder in root.glob(f"demo-*-v{GENERATOR_VERSION}")]
    return max(made, key=lambda counts: max(counts.values(), default=0), default={})
