"""A disk that is full: what was there stays, one line says what is wrong, and the run goes on once there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import STEPS, Place, same_weights, wait_until

pytestmark = pytest.mark.long


class SmallDisk:
    """A file system of its own."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self.filler = folder, folder / "filler"
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here: that needs root")

    def fill(self) -> None:
        """Leave no room."""
        with self.filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * 4096)
            except OSError:
                return

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disks() -> Iterator[list[SmallDisk]]:
    made: list[SmallDisk] = []
    yield made
    for disk in made:
        disk.end()


def _errors(said: str) -> list[str]:
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("where", "megabytes", "message"),
    [("work", 64, "cannot write the checkpoint"), ("work/spool", 16, "what the run logs cannot be kept in")],
)
def test_full_in_mid_training(
    place: Place, undisturbed: Place, disks: list[SmallDisk], where: str, megabytes: int, message: str
) -> None:
    disks.append(SmallDisk(place.folder / where, megabytes))
    command = place.start("train")
    wait_until(lambda: place.step() > 0, command)
    disks[0].fill()
    assert command.wait() in (1, 2), command.said
    (line,) = _errors(command.said)
    assert message in line and "No space left on device" in line
    assert 0 < place.step() < STEPS  # it can be read
    assert place.client.get_run(place.run_id()).info.status == "FAILED"
    disks[0].filler.unlink()
    again = place.run("train", training__resume=place.run_id())
    assert again.wait() == 0, again.said
    ended, calm = place.record(), undisturbed.record()
    assert ended == calm and same_weights(place.last(), undisturbed.last())


def test_full_while_cases_are_prepared(place: Place, disks: list[SmallDisk]) -> None:
    disks.append(SmallDisk(place.work / "cache", 1))
    disks[0].fill()
    command = place.run("train")
    assert command.wait() == 2
    assert "cannot write to the cache" in command.said and "No space left on device" in command.said
    _errors(command.said)
    disks[0].filler.unlink()
    assert sorted(path.name for path in disks[0].folder.iterdir() if path.name != "keys") == []
