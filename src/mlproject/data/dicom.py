"""DICOM is recognised and refused: a series holds a patient's identifiers, and its volume is a matter of choice."""

from itertools import islice
from pathlib import Path

ADVICE = (
    "convert it to NIfTI first, for example with dcm2niix (github.com/rordenlab/dcm2niix): "
    "dcm2niix -z y -o NIFTI_FOLDER DICOM_FOLDER"
)
EXTENSIONS = (".dcm", ".ima")
MAGIC = slice(128, 132)  # DICOM standard, part 10, section 7.1
LOOKED_AT = 200  # files of a folder


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its extension or its content, or a folder holds such files."""
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return any(is_dicom(file) for file in islice(files, LOOKED_AT))
    if path.name.lower().endswith(EXTENSIONS) or path.name.upper() == "DICOMDIR":
        return True
    with path.open("rb") as file:
        return file.read(MAGIC.stop)[MAGIC] == b"DICM"


def why_no_file(path: Path) -> str:
    """What is wrong with a path that should be an image file and is none: it is missing, DICOM, or another folder."""
    if not path.is_dir():
        return "does not exist"
    return f"is DICOM: {ADVICE}" if is_dicom(path) else "is a folder; give one image file"
