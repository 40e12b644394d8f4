"""Folders here and in a bucket of a real S3 server behave alike, and each fault is one line with the object's name."""

from pathlib import Path

import pytest

from mlproject.data import storage
from mlproject.errors import DataError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Folder:
    if request.param == "local":
        return storage.folder_of(str(tmp_path / "new" / "folder"))
    (request.getfixturevalue("buckets") / tmp_path.name).mkdir()
    return storage.folder_of(f"s3://{tmp_path.name}/new/folder")


def test_what_is_written_is_there_under_its_own_name(folder: storage.Folder) -> None:
    assert folder.names() == set()
    folder.write("ä b.bin", b"one")
    folder.write("ä b.bin", b"two")
    folder.write("ä b", b"")
    assert folder.names() == {"ä b.bin", "ä b"} and folder.read("ä b.bin") == b"two"
    assert folder.locate("ä b.bin").endswith("new/folder/ä b.bin")
    folder.remove("ä b")
    folder.remove("ä b")
    assert folder.names() == {"ä b.bin"}
    with pytest.raises(DataError, match=r"new/folder/none\.csv"):
        folder.read("none.csv")


def test_a_local_folder_is_held_by_one_alone(tmp_path: Path) -> None:
    first, second = (storage.folder_of(str(tmp_path / "out")) for _ in range(2))
    with first.locked(), pytest.raises(DataError, match="another command is writing there"), second.locked():
        pass
    with second.locked():
        assert second.names() == set()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"), storage.folder_of(str(tmp_path / "file")).locked():
        pass


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage.folder_of(str(tmp_path))
    folder.write("mask", b"old")

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="mask: No space left on device"):
        folder.write("mask", b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mask": "old"}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key is wrong"),
        ("AWS_ACCESS_KEY_ID", "unknown", "S3 refuses"),
        ("AWS_ACCESS_KEY_ID", None, "no credentials found"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "Could not connect"),
        ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint"),
        ("AWS_PROFILE", "nobody", "nobody"),
    ],
)
def test_access(
    variable: str, value: str | None, words: str, buckets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if value is None:
        monkeypatch.delenv(variable)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(DataError, match=words) as caught:
        storage.folder_of("s3://bucket/prefix").write("object.csv", b"")
    assert "\n" not in str(caught.value) and "s3://bucket/prefix/" in str(caught.value)


def test_a_name_that_no_bucket_has_is_one_line(buckets: Path) -> None:
    with pytest.raises(DataError, match=r"\As3://no bucket/x/: S3 fails: [^\n]+\Z"):
        storage.folder_of("s3://no bucket/x").names()


def test_one_file(buckets: Path, tmp_path: Path) -> None:
    (buckets / "one").mkdir()
    for location in ("s3://one/a/b/mask.nii.gz", "s3://one/mask.nii.gz", str(tmp_path / "a/mask.nii.gz")):
        folder, name = storage.split(location)
        folder.write(name, b"x")
        assert name == "mask.nii.gz" and folder.locate(name) == location
    assert (buckets / "one/a/b/mask.nii.gz").read_bytes() == b"x"
