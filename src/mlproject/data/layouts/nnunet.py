"""nnU-Net's raw format, version 2 (Isensee et al., Nature Methods 2021): the training cases of one data set.

dataset.json with channel_names and file_ending, imagesTr/NAME_0000.nii.gz (a file a channel),
labelsTr/NAME.nii.gz. Each case is a patient of its own: the format names no patients.
"""

import json
import re
from pathlib import Path
from typing import Any

from mlproject.data.case import Case, DataSettings, refuse_faults
from mlproject.errors import DataError

EXPECTED = "data.layout=nnunet expects imagesTr/NAME_0000{ending} (a file a channel) and labelsTr/NAME{ending}"


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases of imagesTr and labelsTr; `settings.channels` picks among the data set's channel names.

    Raises:
        DataError: dataset.json is missing or incomplete, a channel is unknown, no case; or all files missing.
    """
    root = settings.root_path
    description = _read_description(root / "dataset.json")
    ending = description["file_ending"]
    numbers = _channel_numbers(root, description["channel_names"], settings.channels)
    expected = EXPECTED.format(ending=ending)

    images = _names(root / "imagesTr", rf"(.+)_\d{{4}}{re.escape(ending)}")
    if not images:
        raise DataError(f"{root}: no case found. {expected}")
    cases: list[Case] = []
    faults: list[str] = []
    for name in sorted(images | _names(root / "labelsTr", rf"(.+){re.escape(ending)}")):
        files = {channel: root / "imagesTr" / f"{name}_{number:04d}{ending}" for channel, number in numbers.items()}
        label = root / "labelsTr" / f"{name}{ending}"
        faults += [f"{name}: {channel} is missing: {file}" for channel, file in files.items() if not file.is_file()]
        if labelled and not label.is_file():
            faults.append(f"{name}: label is missing: {label}")
        cases.append(Case(name, files, label if label.is_file() else None, patient=name))
    refuse_faults(root, faults, expected)
    return cases


def _names(folder: Path, pattern: str) -> set[str]:
    matches = (re.fullmatch(pattern, file.name) for file in folder.glob("[!.]*"))
    return {match[1] for match in matches if match}


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: data.layout=nnunet needs it, with channel_names and file_ending")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    names = description.get("channel_names") if isinstance(description, dict) else None
    if not isinstance(names, dict) or not isinstance(description.get("file_ending"), str):
        raise DataError(
            f'{path}: give channel_names, as {{"0": "dwi", "1": "adc"}}, and file_ending, as ".nii.gz" '
            "(nnU-Net version 2)"
        )
    return dict(description)


def _channel_numbers(root: Path, names: dict[str, str], channels: tuple[str, ...]) -> dict[str, int]:
    """Map each wanted channel to its number in the file names; upper and lower case are the same."""
    numbers: dict[str, int] = {}
    for channel in channels:
        keys = [key for key, name in names.items() if str(name).casefold() == channel.casefold()]
        if len(keys) != 1 or not keys[0].isdecimal():
            raise DataError(
                f"{root / 'dataset.json'}: the channel {channel} of data.channels must stand once in "
                f"channel_names, which are {names}"
            )
        numbers[channel] = int(keys[0])
    return numbers
