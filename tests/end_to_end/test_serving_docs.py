"""Every snippet of docs/serving.md, as it stands there, in the page's order; only the server's port is another."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from nibabel.nifti1 import Nifti1Image

from end_to_end.conftest import PROJECT, Workplace

PAGE = (PROJECT / "docs" / "serving.md").read_text()
SNIPPETS = re.findall(r"(<!-- not run[^\n]*-->\n)?```(sh|python)\n(.*?)```", PAGE, re.DOTALL)
RUN = [(language, text) for skipped, language, text in SNIPPETS if not skipped]


@pytest.fixture(scope="module")
def place(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the scans, and one of them beside them; and the buckets that the page speaks of."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(workplace.data, folder / "scans")
    for channel in ("dwi", "adc"):
        shutil.copy(next((folder / "scans").rglob(f"*0001_{channel}.nii.gz")), folder / f"{channel}.nii.gz")
    (folder / "src").symlink_to(PROJECT / "src")
    return folder


def run(language: str, text: str, place: Path, workplace: Workplace, server: str) -> str:
    text = text.replace("http://127.0.0.1:5001", server.removesuffix("/invocations"))
    command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    database = f"sqlite:///{workplace.folder / 'mlflow.db'}"
    environment = {**workplace.environment, "MLFLOW_TRACKING_URI": database}
    if "s3://" in text:
        environment["HOME"] = str(place)  # work_dir, where copies of the scans go, lies there
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "text"), RUN, ids=[text.split("\n")[0][:40] for _, text in RUN])
def test_snippet(
    language: str, text: str, place: Path, workplace: Workplace, server: str, request: pytest.FixtureRequest
) -> None:
    if "curl" in text and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if "s3://" in text:
        buckets = request.getfixturevalue("buckets")
        shutil.copytree(workplace.data / "rawdata", buckets / "scans" / "set" / "rawdata", dirs_exist_ok=True)
        (buckets / "masks").mkdir(exist_ok=True)
    printed = run(language, text, place, workplace, server)
    if "--output masks\n" in text:
        masks, served = (
            {f.name: f.read_bytes() for f in (place / name).glob("*.nii.gz")} for name in ("masks", "masks_served")
        )
        assert len(masks) == 6 and masks.items() <= served.items() and len(served) == 12
        assert (pd.read_csv(place / "masks" / "predictions.csv")["status"] == "done").all()
    elif "mask.nii.gz" in text or "requests.post" in text:
        mask, scan = (Nifti1Image.from_filename(place / f"{name}.nii.gz") for name in ("mask", "dwi"))
        assert mask.shape == scan.shape
        (place / "mask.nii.gz").unlink()
        assert language == "sh" or " lesions, by stroke-lesion/1" in printed
    elif "generate-dockerfile" in text:
        lines = (place / "image" / "Dockerfile").read_text().splitlines()
        order = ["FROM python:3.11.7 AS wheels", "FROM python:3.11.7-slim", "COPY --from=wheels", "ENV PIP_FIND_LINKS",
                 "COPY model_dir", "RUN python -c"]  # fmt: skip
        numbers = [next(n for n, line in enumerate(lines) if line.startswith(word)) for word in order]
        assert numbers == sorted(numbers)
    elif '"dataframe_records": []' in text:
        assert 'columns [\\"dwi\\", \\"adc\\"]' in printed
    elif "s3://" in text:
        assert len(list((buckets / "masks" / "set").glob("*.nii.gz"))) == 6
    else:
        assert (place / "one.nii.gz").read_bytes() == (place / "masks" / f"{first_case(place)}.nii.gz").read_bytes()


def first_case(place: Path) -> str:
    return next((place / "scans").rglob("*0001_dwi.nii.gz")).name.split("_")[0]


def test_all_snippets_are_seen() -> None:
    assert len(RUN) == 7 and len(SNIPPETS) == 10 and PAGE.count("\n```") == 2 * len(SNIPPETS)
