"""Two machines: on loopback, or each in a network namespace of its own with a cable between them that can be cut."""

import ctypes
import multiprocessing
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import torch

import tiny
from mlproject.errors import UserError
from mlproject.evaluation.validation import CaseValidation
from mlproject.training import checkpoint, processes
from mlproject.training.fit import fit
from mlproject.training.job import LAST, FitJob
from mlproject.training.meeting import MeetingPlace, meeting_place
from mlproject.training.progress import Epoch

pytestmark = pytest.mark.usefixtures("forked")


class Node:
    """One of two machines, at work on its part of a fit."""

    def __init__(self, job: FitJob, namespace: str) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_node, args=(job, namespace, theirs))
        self.process.start()
        theirs.close()
        self.epochs: list[Epoch] = []

    def wait_for(self, step: int) -> None:
        while (event := self.pipe.recv()).step < step:
            assert not isinstance(event, str), event

    def end(self) -> str:
        """Wait for the end; the error with which it ended, or ""."""
        while not isinstance(event := self.pipe.recv(), str):
            self.epochs += [event] if isinstance(event, Epoch) else []
        self.process.join()
        return event


def run_node(job: FitJob, namespace: str, pipe: Connection) -> None:
    """A machine's parent process: sends each event, at last the text of its error or ""."""
    processes.START_METHOD = "fork"  # safe, as this process has computed nothing
    if namespace:
        with Path("/run/netns", namespace).open() as file:
            assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
    try:
        for event in fit(job):
            pipe.send(event)
        pipe.send("")
    except UserError as error:
        pipe.send(str(error))


StartNodes = Callable[..., tuple[Node, Node]]


@pytest.fixture
def start() -> Iterator[StartNodes]:
    """Starts two machines that train together; `job` is changed by the keywords, checkpoints go to FOLDER/0 and /1."""
    running = []

    def both(folder: Path, address: str, namespaces: tuple[str, str] = ("", ""), **given: object) -> tuple[Node, Node]:
        for rank in range(2):
            job = tiny.job(folder / str(rank), nodes=2, node_rank=rank, main_address=address)
            changed = {name: given[name] for name in given.keys() & {"validate", "patches"}}
            training = {name: given[name] for name in given.keys() - changed.keys()}
            job = replace(job, training=replace(job.training, **training), **changed)
            running.append(Node(job, namespaces[rank]))
        return running[-2], running[-1]

    yield both
    for node in running:
        node.process.kill()


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(folder / LAST)["network"])


def test_two_machines_train_like_one_and_the_first_alone_reports(
    tmp_path: Path, address: str, start: StartNodes
) -> None:
    # By Adagrad: Adam makes a step of full size of a gradient that is nothing but rounding.
    first, second = start(tmp_path, address, optimizer="adagrad")
    assert (first.end(), second.end()) == ("", "")
    assert not second.epochs and not (tmp_path / "1").exists()
    (*_, alone) = (event for event in fit(tiny.job(tmp_path / "one", optimizer="adagrad")) if isinstance(event, Epoch))
    assert first.epochs[-1].validation_dice == pytest.approx(alone.validation_dice, abs=1e-3)
    for name, weight in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "0")[name], weight, rtol=1e-3, atol=1e-4)


def fails_on_the_second(*_: object) -> CaseValidation:
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("of its own")
    return CaseValidation(0.5)


def test_the_first_machine_tells_the_error_of_the_second(tmp_path: Path, address: str, start: StartNodes) -> None:
    first, second = start(tmp_path, address, validate=fails_on_the_second)
    message = "training process 0 on machine 1 failed: ZeroDivisionError: of its own"
    assert (first.end(), second.end()) == (message, message)


def test_who_does_not_come_is_named(tmp_path: Path, address: str) -> None:
    training = tiny.job(tmp_path, nodes=2, node_rank=0, main_address=address).training
    with meeting_place(training) as place:
        with pytest.raises(
            UserError, match=r"after 0.2 s, 1 of 2 processes have come, not number 1 .*on every machine"
        ):
            place.wait_for_all(rank=0, processes=2, seconds=0.2)
        place.wait_for_all(rank=1, processes=2, seconds=30)
    with pytest.raises(UserError, match=rf"machine 0 does not answer at training.main_address={address}"):
        MeetingPlace("127.0.0.1", place.port).wait_for_all(rank=1, processes=2, seconds=0.2)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        job = tiny.job(tmp_path, nodes=2, node_rank=0, main_address=f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=rf"cannot listen at training.main_address=127.0.0.1:{port} .*in use"):
            list(fit(job))


def test_a_process_that_hangs_ends_all_machines_its_own_too(tmp_path: Path, address: str, start: StartNodes) -> None:
    first, second = start(tmp_path, address, steps=10_000, timeout_s=3.0)
    first.wait_for(step=1)
    (worker,) = psutil.Process(second.process.pid).children()
    worker.suspend()
    assert "the other machines did not answer for 3 s (training.timeout_s)" in first.end()
    assert "training process 0 on machine 1 did not answer for 3 s" in second.end()
    assert not worker.is_running()


@pytest.fixture
def cable() -> Iterator[tuple[tuple[str, str], Callable[[str], None]]]:
    """Two namespaces with the addresses 10.77.0.1 and 10.77.0.2, and a switch: "down" cuts the cable, "up" mends it."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2's `ip`: apt-get install iproute2")
    names = (f"lesion-{os.getpid()}-0", f"lesion-{os.getpid()}-1")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "cable", "up")
        yield names, lambda state: ip("-n", names[1], "link", "set", "cable", state)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.long
def test_a_machine_that_is_cut_off_ends_the_other_and_the_run_goes_on_as_if_nothing_had_been(
    tmp_path: Path, address: str, start: StartNodes, cable: tuple[tuple[str, str], Callable[[str], None]]
) -> None:
    namespaces, switch = cable
    fit = {"steps": 75, "timeout_s": 6.0, "patches": replace(tiny.PATCHES, per_case=10)}  # 15 steps an epoch
    for node in start(tmp_path / "whole", address, **fit):
        assert node.end() == ""

    nodes = start(tmp_path / "cut", "10.77.0.1:29400", namespaces, **fit)
    nodes[0].wait_for(step=18)
    switch("down")
    for node in nodes:
        assert "the other machines did not answer for 6 s (training.timeout_s)" in (error := node.end()), error
    assert checkpoint.read(tmp_path / "cut" / "0" / LAST)["step"] in (15, 30, 45, 60)

    switch("up")
    for node in start(tmp_path / "cut", "10.77.0.1:29400", namespaces, **fit):
        assert node.end() == ""
    whole = weights(tmp_path / "whole" / "0")
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(tmp_path / "cut" / "0").items())
