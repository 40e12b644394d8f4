"""A task of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

dataset.json with modality, training (image and label of each case) and test; imagesTr/NAME.nii.gz, one 4-D file of
all channels where there are several; labelsTr/NAME.nii.gz. Each case is a patient of its own.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from mlproject.data.case import Case, DataSettings, Fault, NoCasesError, refuse_faults
from mlproject.data.layouts.choosing import distinct_names, stem_of
from mlproject.data.layouts.nnunet import channel_numbers, read_json
from mlproject.errors import DataError

EXPECTED = "data.layout=msd expects the files that training and test of dataset.json name"


def find(settings: DataSettings, labelled: bool) -> list[Case]:
    """Find the cases that dataset.json lists: those to train, and if not `labelled` those to test.

    `settings.channels` picks among the names in modality. Every case has all channels: they are one file.
    Where two folders have a file of the same name, their cases are imagesTr_NAME and imagesTs_NAME.

    Raises:
        DataError: dataset.json is missing or incomplete, a channel is unknown, no case; or all files missing.
    """
    root = settings.root_path
    description = _read_description(root)
    modality = description["modality"]
    numbers = channel_numbers(root, modality, settings.channels)
    entries = description["training"] + ([] if labelled else description["test"])
    if not any((root / entry["image"]).is_file() for entry in entries):
        raise NoCasesError(f"{root}: no case found. {EXPECTED}")
    listed = Counter(root / entry["image"] for entry in (*description["training"], *description["test"]))
    names = distinct_names(image.with_name(stem_of(image)) for image in listed)
    cases: list[Case] = []
    faults: list[str] = []
    for entry in entries:
        image, label = root / entry["image"], root / entry["label"] if "label" in entry else None
        name = names[image.with_name(stem_of(image))]
        has_label = label is not None and label.is_file()
        wrong = [] if image.is_file() else [Fault(name, f"no file {image}")]
        if labelled and not has_label:
            wrong.append(Fault(name, f"no file {label}" if label else "label is missing in dataset.json"))
        if listed[image] > 1:
            wrong.append(Fault(name, f"dataset.json lists {image} {listed[image]} times; keep one"))
        faults += wrong
        if not wrong:
            images, components = dict.fromkeys(settings.channels, image), numbers if len(modality) > 1 else {}
            label = label if has_label else None
            cases.append(Case(name, images, label, name, components=components, patient_named=False))
    refuse_faults(root, faults, EXPECTED, cases)
    return cases


def channels(root: Path, label_name: str | None = None) -> dict[str, int]:
    """The names in modality, each in as many cases as have their file."""
    description = _read_description(root)
    count = sum((root / entry["image"]).is_file() for entry in description["training"] + description["test"])
    return {str(name): count for name in description["modality"].values()} if count else {}


def _read_description(root: Path) -> dict[str, Any]:
    """The content of dataset.json, whose training and test list objects with image (and label)."""
    path = root / "dataset.json"
    description = read_json(path, "msd")
    modality, training, test = (
        description.get(key, default) for key, default in (("modality", None), ("training", None), ("test", []))
    )
    if not isinstance(modality, dict) or not isinstance(training, list) or not isinstance(test, list):
        raise DataError(
            f'{path}: give modality, as {{"0": "FLAIR", "1": "T1w"}}, and training, as '
            '[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]'
        )
    test = [{"image": entry} if isinstance(entry, str) else entry for entry in test]
    for entry in [*training, *test]:
        files = [entry.get("image"), entry.get("label", entry.get("image"))] if isinstance(entry, dict) else [None]
        if not all(isinstance(file, str) and file.endswith((".nii", ".nii.gz")) for file in files):
            raise DataError(f"{path}: each case needs an image, as ./imagesTr/a.nii.gz; found {entry}")
    return {"modality": modality, "training": training, "test": test}
