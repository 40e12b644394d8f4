"""The real command on two machines (folders of this one), started by `torchrun` here and by `fabric run` there."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from end_to_end.conftest import Workplace


@pytest.mark.long  # tests/training/test_nodes.py has the same without the command line
def test_two_machines_train_one_run_and_the_second_leaves_no_trace(tmp_path: Path, tiny_isles: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    bin_folder = Path(sys.executable).parent
    torchrun = [str(bin_folder / "torchrun"), "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", "0"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", port]
    fabric = [str(bin_folder / "fabric"), "run", "--num-nodes", "2", "--node-rank", "1"]
    fabric += ["--main-address", "127.0.0.1", "--main-port", port]
    places = [Workplace(tmp_path / "first", tiny_isles), Workplace(tmp_path / "second", tiny_isles)]
    started = []
    for place, launcher in zip(places, (torchrun, fabric), strict=True):
        place.folder.mkdir()
        _, *command = place.stage_command("train")
        environment = place.environment | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [*launcher, *command], cwd=place.folder, env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    (run,) = places[0].runs("train")
    assert run.info.status == "FINISHED" and run.data.params["cfg.training.nodes"] == "2"
    assert "machine 1 of 2" in printed[1]
    written = {file.relative_to(places[1].folder) for file in places[1].folder.rglob("*") if file.is_file()}
    assert {str(Path(*file.parts[:2])) for file in written} == {"work/cache"}  # its own prepared cases
