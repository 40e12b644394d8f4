import pickle
import resource
from pathlib import Path

import pytest
import torch

from mlproject.errors import ModelError
from mlproject.training import checkpoint


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('planted code ran')",))


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.randn(3)}, "step": 7, "points": [{"metrics": {"x/y": 0.5}}], "none": None}
    checkpoint.write(state, tmp_path / "deep" / "last.pt")
    read = checkpoint.read(tmp_path / "deep" / "last.pt")
    assert torch.equal(read["weights"]["a"], state["weights"]["a"])  # type: ignore[index]
    assert read["points"] == state["points"] and read["step"] == 7 and read["none"] is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.pt"]


def test_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.write({"step": 1}, path)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ModelError, match=r"No space left on device; the one before it is intact"):
        checkpoint.write({"step": 2}, path)
    assert checkpoint.read(path)["step"] == 1
    assert [found.name for found in tmp_path.iterdir()] == ["last.pt"]


def test_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    """The system refuses the write itself, which torch.save tells in words of its own."""
    path = tmp_path / "last.pt"
    checkpoint.write({"step": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ModelError, match=r"File too large; the one before it is intact"):
            checkpoint.write({"step": 2, "weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read(path)["step"] == 1
    assert [found.name for found in tmp_path.iterdir()] == ["last.pt"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.part").write_bytes(b"half")
    checkpoint.write({"step": 1}, tmp_path / "last.pt")
    assert [found.name for found in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Planted(), protocol=2), "not a readable checkpoint"),
        (b"", "not a readable checkpoint"),
        (b"PK\x03\x04 truncated", "not a readable checkpoint"),
    ],
    ids=["pickle", "empty", "truncated"],
)
def test_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        checkpoint.read(tmp_path / "last.pt")


def test_planted_code_in_a_torch_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"format_version": 1, "x": Planted()}, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        checkpoint.read(tmp_path / "last.pt")


def test_other_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format_version": 99}, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="format 99, this software reads 1"):
        checkpoint.read(tmp_path / "last.pt")
    with pytest.raises(ModelError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "none.pt")
