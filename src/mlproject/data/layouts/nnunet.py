"""nnU-Net's raw format (Isensee et al., Nature Methods 2021), versions 2 and 1.

dataset.json with channel_names (version 1: modality) and file_ending (version 1: .nii.gz), imagesTr/NAME_0000.nii.gz
(a file a channel), labelsTr/NAME.nii.gz; imagesTs has cases without a label. Each case is a patient of its own: the
format names no patients.
"""

import json
import re
from pathlib import Path
from typing import Any

from mlproject.data.case import Case, DataSettings, Fault, NoCasesError, refuse_faults
from mlproject.data.layouts.choosing import choose, distinct_names
from mlproject.errors import DataError

TRAINING = "imagesTr"
FOLDERS = (TRAINING, "imagesTs")
EXPECTED = "data.layout=nnunet expects imagesTr/NAME_0000{ending} (a file a channel) and labelsTr/NAME{ending}"


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases of imagesTr and labelsTr, and if not `labelled` of imagesTs.

    `settings.channels` picks among the data set's channel names. Where imagesTr and imagesTs have a case of the same
    name, the two are imagesTr_NAME and imagesTs_NAME; labelsTr is about the first.

    Raises:
        DataError: dataset.json is missing or incomplete, a channel is unknown, no case; or all files missing.
    """
    root = settings.root_path
    names_of_channels, ending = _read_description(root / "dataset.json")
    numbers = channel_numbers(root, names_of_channels, settings.channels)
    expected = EXPECTED.format(ending=ending)

    scans = [root / folder / name for folder in FOLDERS for name in sorted(_names(root / folder, ending))]
    labels = sorted(_matches(root / "labelsTr", rf"(.+){re.escape(ending)}"))
    names = distinct_names([*scans, *(root / TRAINING / name for name in labels)])
    wanted = {place: name for place, name in names.items() if place.parent.name == TRAINING or not labelled}
    if not any(scan in wanted for scan in scans):
        raise NoCasesError(f"{root}: no case found. {expected}")
    cases: list[Case] = []
    faults: list[str] = []
    for place, name in wanted.items():
        files = {channel: place.with_name(f"{place.name}_{n:04d}{ending}") for channel, n in numbers.items()}
        found = {channel: [file] if file.is_file() else [] for channel, file in files.items()}
        images, wrong = choose(name, found, sorted(place.parent.glob(f"{place.name}_[0-9]*{ending}")), settings)
        label = root / "labelsTr" / f"{place.name}{ending}"
        has_label = place.parent.name == TRAINING and label.is_file()
        if labelled and not has_label:
            wrong.append(Fault(name, f"label is missing: {label}"))
        faults += wrong
        if not wrong:
            cases.append(Case(name, images, label if has_label else None, patient=name, patient_named=False))
    refuse_faults(root, faults, expected, cases)
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The channel names of dataset.json, in how many cases of imagesTr and imagesTs each has a file."""
    names_of_channels, ending = _read_description(root / "dataset.json")
    cases = [root / folder / name for folder in FOLDERS for name in _names(root / folder, ending)]
    counts = {
        str(name): sum(case.with_name(f"{case.name}_{int(key):04d}{ending}").is_file() for case in cases)
        for key, name in names_of_channels.items()
        if key.isdecimal()
    }
    return {name: count for name, count in counts.items() if count}


def _names(folder: Path, ending: str) -> set[str]:
    return _matches(folder, rf"(.+)_\d{{4}}{re.escape(ending)}")


def _matches(folder: Path, pattern: str) -> set[str]:
    matches = (re.fullmatch(pattern, file.name) for file in folder.glob("[!.]*"))
    return {match[1] for match in matches if match}


def read_json(path: Path, layout: str) -> dict[str, Any]:
    """Read the dataset.json of a layout. Raises DataError where there is none, or it is no JSON object."""
    if not path.is_file():
        raise NoCasesError(f"{path} does not exist: data.layout={layout} needs it")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    return description if isinstance(description, dict) else {}


def _read_description(path: Path) -> tuple[dict[str, str], str]:
    """The channel names by their numbers, and the ending of all files."""
    description = read_json(path, "nnunet")
    names = description.get("channel_names", description.get("modality"))
    ending = description.get("file_ending", None if "channel_names" in description else ".nii.gz")
    if not isinstance(names, dict) or not isinstance(ending, str):
        raise DataError(
            f'{path}: give channel_names, as {{"0": "dwi", "1": "adc"}}, and file_ending, as ".nii.gz" '
            "(nnU-Net version 2; version 1 has modality in place of both)"
        )
    return names, ending


def channel_numbers(root: Path, names: dict[str, str], channels: tuple[str, ...]) -> dict[str, int]:
    """Map each wanted channel to its number in dataset.json; upper and lower case are the same.

    Raises:
        DataError: a channel does not stand there once.
    """
    numbers: dict[str, int] = {}
    for channel in channels:
        keys = [key for key, name in names.items() if str(name).casefold() == channel.casefold()]
        if len(keys) != 1 or not keys[0].isdecimal():
            raise DataError(
                f"{root / 'dataset.json'}: the channel {channel} of data.channels must stand once among its "
                f"channel names, which are {names}"
            )
        numbers[channel] = int(keys[0])
    return numbers
