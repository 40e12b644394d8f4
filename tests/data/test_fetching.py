"""Objects come once, whole and checked; what is in the way is a line with the object's name, and leaves nothing behind.

rclone neither breaks off nor refuses, and knows no expired sessions and no uploads in parts: a proxy before it does.
"""

import errno
import fcntl
import hashlib
import logging
import multiprocessing
import os
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

import s3_proxy
from mlproject.data import copies, s3
from mlproject.data.case import Case
from mlproject.data.cases import DataSettings, find_cases
from mlproject.data.fetching import fetch
from mlproject.errors import DataError
from s3_proxy import Answer, Proxy

FORK = multiprocessing.get_context("fork")  # a process of its own, that has imported all already
IMAGE = 6_000  # bytes
KB = 1e-6  # GB


@pytest.fixture
def proxy(buckets: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with s3_proxy.proxy(os.environ["AWS_ENDPOINT_URL"]) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.address)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3, "FIRST_WAIT_SECONDS", 0.01)
        yield running


@pytest.fixture
def images(buckets: Path) -> list[Path]:
    """Four cases of one image, which no layout reads, in the bucket."""
    files = [buckets / f"bucket/set/case-{number}/flair.nii" for number in range(4)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes([number]) * IMAGE)
    return files


def found(cache: Path) -> list[Case]:
    data = DataSettings(layout="folders", root="s3://bucket/set", channels=("flair",))
    return find_cases(data, labelled=False, cache=cache)


def fetched(cache: Path, cases: slice = slice(None), limit_gb: float = 1) -> list[bytes]:
    """Fetch cases, and give what their images hold then."""
    chosen = found(cache)[cases]
    fetch(chosen, limit_gb)
    return [case.images["flair"].read_bytes() for case in chosen]


def content(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def here(cache: Path) -> list[bytes]:
    """What all copies hold; fails where something half-written lies beside them."""
    left = [path for path in (cache / "objects").glob(".*") if not path.name.startswith(".nfs")]
    assert not left, left
    return sorted(path.read_bytes() for path in (cache / "objects").glob("*/flair.nii"))


def in_a_process(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returns, or the text of its DataError, done by a process that then ends."""
    ours, theirs = FORK.Pipe()

    def run() -> None:
        try:
            theirs.send(work(*arguments))
        except DataError as error:
            theirs.send(str(error))

    process = FORK.Process(target=run)
    process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    return result


def test_what_is_here_is_not_fetched_again(proxy: Proxy, images: list[Path], tmp_path: Path) -> None:
    assert fetched(tmp_path, slice(2)) == content(images[:2]) and len(proxy.objects) == 2
    assert fetched(tmp_path) == content(images)
    assert sorted(proxy.objects) == [f"set/case-{number}/flair.nii" for number in range(4)]
    first = found(tmp_path)[0].images["flair"]
    before = first.stat()
    fetched(tmp_path)  # neither date nor inode changes: by these the prepared cache knows it unchanged
    assert first.stat().st_ctime_ns == before.st_ctime_ns


def test_a_changed_object_is_fetched_anew_and_one_that_is_gone_is_not_seen(images: list[Path], tmp_path: Path) -> None:
    fetched(tmp_path)
    images[1].write_bytes(b"other" + bytes(IMAGE - 5))  # of the same size
    images[2].unlink()
    assert fetched(tmp_path) == content([images[0], images[1], images[3]])


def test_a_damaged_copy_is_fetched_again(images: list[Path], tmp_path: Path) -> None:
    (case, *_) = found(tmp_path)
    fetch([case], 1)
    case.images["flair"].write_bytes(b"half")
    assert fetched(tmp_path, slice(1)) == content(images[:1])


def test_two_servers_share_no_copy(
    proxy: Proxy, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(tmp_path)
    with s3_proxy.proxy(proxy.address) as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.address)
        other.spoil = lambda _method, path, answer: None
        assert fetched(tmp_path) == content(images)
    assert len(here(tmp_path)) == 8


def spoiling(spoil: Callable[[Answer], None], times: int = 1000) -> Callable[[str, str, Answer], None]:
    """Spoils the content of the third case's image, so many times."""
    left = [times]

    def change(method: str, path: str, answer: Answer) -> None:
        if method == "GET" and "case-2/flair.nii" in path and left[0]:
            left[0] -= 1
            spoil(answer)

    return change


def break_off(answer: Answer) -> None:
    answer.sent = len(answer.body) // 2


def shorten(answer: Answer) -> None:
    answer.body = answer.body[:-1]


def damage(answer: Answer) -> None:
    answer.body = b"\xff" + answer.body[1:]


def refuse(status: int, code: str) -> Callable[[Answer], None]:
    return lambda answer: answer.refuse(status, code)


IN_PASSING = {
    "breaks off": (break_off, "Connection broken|IncompleteRead|bytes"),
    "shorter": (shorten, f"{IMAGE - 1} of {IMAGE} bytes came"),
    "damaged": (damage, "what came is damaged: its MD5"),
    "503": (refuse(503, "SlowDown"), r"S3 refuses for now \(SlowDown\)"),
    "500": (refuse(500, "InternalError"), "S3 refuses for now"),
}
FOR_GOOD = {
    "denied": (refuse(403, "AccessDenied"), "access is denied"),
    "expired": (refuse(400, "ExpiredToken"), "the credentials have expired: sign in again"),
    "gone": (refuse(404, "NoSuchKey"), "there is no such object"),
    "archived": (refuse(403, "InvalidObjectState"), "it is archived"),
    "changed": (refuse(412, "PreconditionFailed"), "changed while the data set was read"),
}


@pytest.mark.parametrize("fault", IN_PASSING)
def test_what_passes_is_tried_again(fault: str, proxy: Proxy, images: list[Path], tmp_path: Path) -> None:
    proxy.spoil = spoiling(IN_PASSING[fault][0], times=s3.ATTEMPTS - 1)
    assert fetched(tmp_path) == content(images) == here(tmp_path)


@pytest.mark.parametrize("fault", [*IN_PASSING, *FOR_GOOD])
def test_what_stays_is_one_line_and_the_others_need_not_come_again(
    fault: str, proxy: Proxy, images: list[Path], tmp_path: Path
) -> None:
    spoil, words = (IN_PASSING | FOR_GOOD)[fault]
    proxy.spoil = spoiling(spoil)
    with pytest.raises(DataError, match=rf"\As3://bucket/set/case-2/flair\.nii: .*({words})[^\n]*\Z"):
        fetched(tmp_path)
    for thread in threading.enumerate():  # those of the other objects end by themselves
        if thread.name.endswith("(worker)"):
            thread.join(10)
    whole = here(tmp_path)
    assert set(whole) <= set(content([images[0], images[1], images[3]]))
    proxy.spoil, proxy.objects = lambda *_: None, []
    assert fetched(tmp_path) == content(images) and len(proxy.objects) == 4 - len(whole)


def test_a_change_after_the_listing_is_noticed(images: list[Path], tmp_path: Path) -> None:
    cases = found(tmp_path)
    images[2].write_bytes(b"other")
    with pytest.raises(DataError, match=r"case-2/flair\.nii: it was changed while the data set was read"):
        fetch(cases, 1)


def in_parts(sizes: list[int], etag: str = "") -> Callable[[str, str, Answer], None]:
    """Makes the third case's image one that was uploaded in parts of these sizes."""
    whole = bytes([2]) * IMAGE
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    digests = [hashlib.md5(whole[start : start + size]).digest() for start, size in zip(starts, sizes, strict=True)]
    etag = etag or f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(sizes)}"

    def change(method: str, path: str, answer: Answer) -> None:
        answer.body = answer.body.replace(hashlib.md5(whole).hexdigest().encode(), etag.encode())
        if "case-2/flair.nii" in path:
            answer.headers["etag"] = f'"{etag}"'
            if "partNumber=1" in path:
                answer.headers["content-length"] = str(sizes[0])

    return change


def test_an_upload_in_parts_is_checked_by_its_parts(proxy: Proxy, images: list[Path], tmp_path: Path) -> None:
    sizes = [2500, 2500, 1000]
    proxy.spoil = in_parts(sizes)
    assert fetched(tmp_path) == content(images)
    images[2].write_bytes(bytes([2]) * (IMAGE - 1) + b"x")  # the proxy says that it is the same object
    whole = bytes([2]) * IMAGE
    other = hashlib.md5(images[2].read_bytes()).hexdigest()
    spoil = in_parts(sizes)

    def change(method: str, path: str, answer: Answer) -> None:
        answer.body = answer.body.replace(other.encode(), hashlib.md5(whole).hexdigest().encode())
        spoil(method, path, answer)

    proxy.spoil = change
    with pytest.raises(DataError, match=r"case-2/flair\.nii: .*what came is damaged: its MD5 gives the ETag \w+-3"):
        fetched(tmp_path / "another")


def test_it_is_said_where_only_the_size_was_checked(
    proxy: Proxy, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.spoil = in_parts([IMAGE], etag="no-checksum")
    with caplog.at_level(logging.INFO, "mlproject"):
        assert fetched(tmp_path) == content(images)
    (record,) = caplog.records
    words = r"fetched 4 objects, 0\.0 MB, in \d+ s \(0 were here already\); the server gives no checksum of 1: "
    assert re.match(words, record.getMessage())


@pytest.mark.parametrize("name", ["a//b.nii", "../b.nii", f"{300 * 'n'}.nii", "case-0/flair.nii/b.nii"])
def test_an_object_that_no_file_can_be_called_as_is_refused(
    name: str, proxy: Proxy, images: list[Path], tmp_path: Path
) -> None:
    def change(_method: str, path: str, answer: Answer) -> None:
        answer.body = answer.body.replace(b"case-3/flair.nii", name.encode())

    proxy.spoil = change
    with pytest.raises(DataError, match=r"s3://bucket/set/[^ ]*: (a name that leaves|no file can have this name)"):
        found(tmp_path)


def test_copies_that_do_not_fit_are_refused_before_any_is_fetched(
    proxy: Proxy, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"data\.copies_gb=2e-05 is the most .*: give a higher data\.copies_gb"):
        fetched(tmp_path, limit_gb=20 * KB)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage._replace(free=3 * IMAGE))
    with pytest.raises(DataError, match=r"whose disk has .* GB free: free some space, or give a work_dir"):
        fetched(tmp_path)
    assert proxy.objects == [] and here(tmp_path) == []


def test_those_unused_for_the_longest_time_make_room(images: list[Path], tmp_path: Path) -> None:
    for number in (0, 1, 0, 2):
        in_a_process(fetched, tmp_path, slice(number, number + 1), 15 * KB)
        time.sleep(0.01)  # a disk's clock is coarse
    assert here(tmp_path) == sorted(content([images[0], images[2]]))


def _work_with(cache: Path, cases: slice, ready: Event, done: Event) -> None:
    fetched(cache, cases)
    ready.set()
    done.wait(60)


def test_what_another_command_needs_stays(images: list[Path], tmp_path: Path) -> None:
    ready, done = FORK.Event(), FORK.Event()
    other = FORK.Process(target=_work_with, args=(tmp_path, slice(2), ready, done))
    other.start()
    assert ready.wait(60)
    try:
        text = in_a_process(fetched, tmp_path, slice(2, 4), 15 * KB)
        assert "do not fit beside what other commands at work need" in text
        assert here(tmp_path) == sorted(content(images[:2]))
    finally:
        done.set()
        other.join()
    assert in_a_process(fetched, tmp_path, slice(2, 4), 15 * KB) == content(images[2:])
    assert here(tmp_path) == sorted(content(images[2:]))


def test_processes_at_once_fetch_each_object_once(proxy: Proxy, images: list[Path], tmp_path: Path) -> None:
    proxy.delay_s = 0.3
    ready, done = [FORK.Event() for _ in range(3)], FORK.Event()
    processes = [FORK.Process(target=_work_with, args=(tmp_path, slice(4), event, done)) for event in ready]
    for process in processes:
        process.start()
    assert all(event.wait(60) for event in ready)
    done.set()
    for process in processes:
        process.join()
    assert len(proxy.objects) == 4 and here(tmp_path) == sorted(content(images))


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(
    proxy: Proxy, images: list[Path], tmp_path: Path
) -> None:
    proxy.spoil = spoiling(lambda answer: time.sleep(60))
    process = FORK.Process(target=fetched, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "objects").glob("*/flair.nii"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list((tmp_path / "objects").glob(".*"))  # the one in hand
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    proxy.spoil, proxy.objects = lambda *_: None, []
    assert fetched(tmp_path) == content(images) and len(proxy.objects) == 1
    assert here(tmp_path) == sorted(content(images))


def _fetch_on_a_full_disk(cache: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (IMAGE // 2, IMAGE // 2))  # the system refuses, as of a full disk
    fetched(cache)


def test_a_disk_that_takes_no_more(images: list[Path], tmp_path: Path) -> None:
    text = in_a_process(_fetch_on_a_full_disk, tmp_path)
    assert re.fullmatch(
        rf"s3://bucket/set/case-\d/flair\.nii: its copy cannot be written to {tmp_path}/objects \(File too large\)",
        text,
    )
    assert in_a_process(fetched, tmp_path) == content(images)
    assert here(tmp_path) == sorted(content(images))


def test_a_note_is_locked_as_nfs_wants_it(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS makes a lock on bytes of it, and such a one that excludes others wants a file open for writing."""
    flock = fcntl.flock

    def of_nfs(file: Any, operation: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if operation & fcntl.LOCK_EX and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    fetched(tmp_path, slice(2))
    assert in_a_process(copies.in_use, tmp_path / "objects") == {
        path.name for path in (tmp_path / "objects").glob("*") if copies.FOLDER.fullmatch(path.name)
    }
    assert in_a_process(fetched, tmp_path, slice(2, 4)) == content(images[2:])


def test_where_nothing_is_locked_it_is_said_once_and_the_work_goes_on(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def of_lustre(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", of_lustre)
    assert fetched(tmp_path, slice(1), 15 * KB) == content(images[:1])
    assert fetched(tmp_path, slice(1, 2), 15 * KB) == content(images[1:2])
    with pytest.raises(DataError, match="do not fit beside what other commands at work need"):
        fetched(tmp_path, slice(2, 3), 15 * KB)  # what this one needs itself stays
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{tmp_path}/objects cannot be locked (Function not implemented): let no second command use this work_dir"
    ]


REQUESTS: dict[str, Callable[[s3.S3Folder], object]] = {
    "a listing": lambda folder: folder.names(),
    "a look": lambda folder: folder.find("case-0/flair.nii"),
    "a read": lambda folder: folder.read("case-0/flair.nii"),
    "a write": lambda folder: folder.write("mask.nii", b"mask"),
    "a removal": lambda folder: folder.remove("mask.nii"),
}


def refuse_for_now(times: int) -> Callable[[str, str, Answer], None]:
    """Refuses so many requests, of whatever kind."""
    left = [times]

    def change(method: str, _path: str, answer: Answer) -> None:
        if left[0]:
            left[0] -= 1
            answer.refuse(500, "InternalError")
            answer.body = b"" if method == "HEAD" else answer.body

    return change


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_request_that_is_refused_for_now_is_sent_four_times(
    request_of: str, proxy: Proxy, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.spoil = refuse_for_now(3)
    with pytest.raises(DataError):  # AWS_MAX_ATTEMPTS is 1
        REQUESTS[request_of](s3.S3Folder("s3://bucket/set"))
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    proxy.spoil = refuse_for_now(3)
    REQUESTS[request_of](s3.S3Folder("s3://bucket/set"))
    proxy.spoil = refuse_for_now(4)
    with pytest.raises(DataError, match=r"\As3://bucket/set/[^\n]*(InternalError|500)[^\n]*\Z"):
        REQUESTS[request_of](s3.S3Folder("s3://bucket/set"))


def test_a_table_whose_content_breaks_off_is_read_again(proxy: Proxy, images: list[Path]) -> None:
    folder = s3.S3Folder("s3://bucket/set")
    proxy.spoil = spoiling(break_off, times=s3.ATTEMPTS - 1)
    assert folder.read("case-2/flair.nii") == images[2].read_bytes()
    proxy.spoil = spoiling(break_off)
    with pytest.raises(DataError, match=r"\As3://bucket/set/case-2/flair\.nii: cannot be fetched, after 4 attempts: "):
        folder.read("case-2/flair.nii")


def test_a_look_that_is_refused_without_a_reason(proxy: Proxy, images: list[Path]) -> None:
    """S3 answers HEAD, whose answers hold no text, with 400 alone where a session has expired."""

    def expired(_method: str, _path: str, answer: Answer) -> None:
        answer.refuse(400, "ExpiredToken")
        answer.body = b""

    proxy.spoil = expired
    with pytest.raises(DataError, match=r"case-0/flair\.nii: S3 refuses \(400\): have the credentials expired\?"):
        s3.S3Folder("s3://bucket/set").find("case-0/flair.nii")
