import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.reduction import ForkingPickler

import numpy as np
import psutil
import pytest

from mlproject.tuning.case_workers import CaseWorkers, TaskFailed

NAMES = ["a", "b", "c", "d"]


def workers_of(cases=(1, 2, 3, 4), processes=2, sizes=(1, 1, 1, 1)):
    return CaseWorkers(cases, NAMES, sizes, processes)


def square(case):
    return case * case


def process_id(case):
    return os.getpid()


def start_time(case):
    began = time.monotonic()
    time.sleep(0.02)
    return began


def die_at(case, bad):
    if case == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return case


def leave(case):
    os._exit(7)


def fail_at(case, bad):
    if case == bad:
        raise ValueError(f"no good: {case}")
    return case


def wait_for_ever(case):
    time.sleep(3600)


def survive_signals(case):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    return case


def surroundings(case):
    return "torch" in sys.modules, "mlflow" in sys.modules, os.environ["OMP_NUM_THREADS"]


def mean_and_kind(case):
    return float(case.mean()), isinstance(case, np.memmap)


@pytest.fixture(scope="module")
def workers():
    with workers_of() as pool:
        yield pool


def test_each_case_has_its_result_whatever_the_order(workers):
    assert dict(workers.run(square, 30)) == {0: 1, 1: 4, 2: 9, 3: 16}
    assert dict(workers.run(partial(fail_at, bad=9), 30)) == {0: 1, 1: 2, 2: 3, 3: 4}


@pytest.mark.parametrize(("processes", "expected"), [(1, 1), (9, 4)])
def test_there_are_as_many_processes_as_asked_for_but_no_more_than_cases(processes, expected):
    with workers_of(processes=processes) as pool:
        ids = {child.pid for child in multiprocessing.active_children()}
        used = set(dict(pool.run(process_id, 30)).values())
    assert os.getpid() not in used
    assert used <= ids
    assert len({*ids} - {child.pid for child in multiprocessing.active_children()}) == expected


def test_the_largest_case_goes_first():
    with workers_of(processes=1, sizes=(2, 4, 1, 3)) as pool:
        started = dict(pool.run(start_time, 30))
    assert sorted(started, key=started.get) == [1, 3, 0, 2]


def test_a_worker_that_is_killed_is_named_with_signal_and_case_and_replaced(workers):
    with pytest.raises(TaskFailed, match=r"case c: .*SIGKILL"):
        dict(workers.run(partial(die_at, bad=3), 30))
    assert dict(workers.run(square, 30)) == {0: 1, 1: 4, 2: 9, 3: 16}


def test_a_worker_that_exits_or_is_killed_while_idle_is_a_failed_task_not_the_end(workers):
    with pytest.raises(TaskFailed, match="exit code 7"):
        dict(workers.run(leave, 30))
    for process in set(dict(workers.run(process_id, 30)).values()):
        os.kill(process, signal.SIGKILL)
        while psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    with pytest.raises(TaskFailed, match="SIGKILL"):
        dict(workers.run(square, 30))
    assert dict(workers.run(square, 30))[3] == 16


def test_an_exception_is_reported_with_its_text_and_case(workers):
    with pytest.raises(TaskFailed, match=r"case b: ValueError: no good: 2"):
        dict(workers.run(partial(fail_at, bad=2), 30))
    assert dict(workers.run(square, 30))[1] == 4


def test_a_task_past_its_time_is_ended_with_its_workers(workers):
    before = set(dict(workers.run(process_id, 30)).values())
    with pytest.raises(TaskFailed, match=r"not done within 0\.3 s, still at work on [abcd], [abcd]"):
        dict(workers.run(wait_for_ever, 0.3))
    assert not any(psutil.pid_exists(process) for process in before)
    assert dict(workers.run(square, 30))[0] == 1


def test_a_caller_that_stops_pulling_leaves_nothing_for_the_next_task(workers):
    for _ in workers.run(square, 30):
        break
    assert dict(workers.run(partial(fail_at, bad=9), 30)) == {0: 1, 1: 2, 2: 3, 3: 4}


def test_workers_ignore_the_signals_that_their_parent_acts_on(workers):
    assert dict(workers.run(survive_signals, 30)) == {0: 1, 1: 2, 2: 3, 3: 4}


def test_workers_start_light_and_with_one_thread(workers, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with workers_of(processes=1) as pool:
        assert set(dict(pool.run(surroundings, 30)).values()) == {(False, False, "1")}
    assert "OMP_NUM_THREADS" not in os.environ


def test_leaving_ends_them_even_at_work_and_by_an_exception():
    with pytest.raises(KeyboardInterrupt), workers_of() as pool:
        ids = set(dict(pool.run(process_id, 30)).values())
        for _ in pool.run(square, 30):
            raise KeyboardInterrupt
    assert not any(psutil.pid_exists(process) for process in ids)


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, sys, time\n"
        "from mlproject.tuning.case_workers import CaseWorkers\n"
        "if __name__ == '__main__':\n"
        "    with CaseWorkers([1, 2], 'ab', [1, 1], 2):\n"
        "        print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "        time.sleep(3600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        children = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_memory_map_travels_as_its_files_name(tmp_path, order):
    values = np.asarray(np.arange(60_000, dtype=np.float32).reshape(20, 30, 100), order=order)
    np.save(tmp_path / "map.npy", values)
    sent = bytes(ForkingPickler.dumps(np.load(tmp_path / "map.npy", mmap_mode="r")))
    assert len(sent) < 2000
    received = pickle.loads(sent)
    assert isinstance(received, np.memmap)
    assert not received.flags.writeable
    np.testing.assert_array_equal(received, values)


@pytest.mark.parametrize(
    "change", [lambda array: array[1:], lambda array: array.T, lambda array: array[..., ::-1], lambda array: array * 2]
)
def test_a_part_of_a_memory_map_travels_as_its_values(tmp_path, change):
    np.save(tmp_path / "map.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    part = change(np.load(tmp_path / "map.npy", mmap_mode="r"))
    np.testing.assert_array_equal(pickle.loads(bytes(ForkingPickler.dumps(part))), part)


def test_a_private_copy_of_a_file_travels_with_its_changes(tmp_path):
    np.save(tmp_path / "map.npy", np.zeros(5))
    private = np.load(tmp_path / "map.npy", mmap_mode="c")
    private[2] = 7
    np.testing.assert_array_equal(pickle.loads(bytes(ForkingPickler.dumps(private))), [0, 0, 7, 0, 0])


def test_a_worker_opens_the_map_itself(tmp_path):
    np.save(tmp_path / "map.npy", np.full((4, 4), 3.0))
    with CaseWorkers([np.load(tmp_path / "map.npy", mmap_mode="r")], ["a"], [1], 1) as pool:
        assert dict(pool.run(mean_and_kind, 30)) == {0: (3.0, True)}
