"""Worker processes: order, threads, errors, and that none outlives its parent; the choice of a device."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ecmf_utils import parallel
from ecmf_utils.files import EcmfError

NESTED = """
import subprocess, sys, time
from ecmf_utils import parallel
role = sys.argv[1]
if role == "top":
    child = subprocess.Popen([sys.executable, __file__, "middle"], stdout=sys.stdout)
    time.sleep(60)
if role == "middle":
    parallel.die_with_parent()
    leaf = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(leaf.pid, flush=True)
    time.sleep(60)
"""


def square(number):
    return number * number


def threads(_):
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENCV_FOR_THREADS_NUM")


def kill_self(_):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    raise EcmfError(f"no {number}")


def slow_if_first(number):
    time.sleep(0 if number else 3)
    return number


def nap(_):
    time.sleep(60)


def gone(pid, within=8.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or not parallel.is_alive(psutil.Process(pid)):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("n_workers", [1, 2])
def test_results_come_in_the_order_of_the_items(n_workers):
    assert list(parallel.parallel_map(square, range(7), n_workers, chunk=2)) == [
        0,
        1,
        4,
        9,
        16,
        25,
        36,
    ]


def test_unordered_results_come_as_soon_as_they_are_there():
    assert list(parallel.parallel_map(slow_if_first, [0, 1, 2, 3], 2, ahead=4, ordered=False)) == [1, 2, 3, 0]


def test_no_items_give_no_results():
    assert list(parallel.parallel_map(square, [], 2)) == []


def test_items_are_taken_only_a_little_ahead():
    taken = []
    results = parallel.parallel_map(square, (taken.append(i) or i for i in range(100)), 2)
    next(results)
    results.close()
    assert len(taken) <= 2 * parallel.AHEAD + 1


def test_workers_use_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert set(parallel.parallel_map(threads, range(2), 2)) == {("1", "1")}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_killed_worker_is_one_clear_line():
    with pytest.raises(EcmfError, match="ended abruptly.*run the same command again"):
        list(parallel.parallel_map(kill_self, range(4), 2))


def test_an_error_of_the_function_comes_through():
    with pytest.raises(EcmfError, match="no 0"):
        list(parallel.parallel_map(refuse, range(4), 2))


def test_a_process_and_its_children_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "nested.py"
    script.write_text(NESTED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), "top"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as top:
        leaf = int(top.stdout.readline())
        middle = psutil.Process(leaf).ppid()
        top.kill()
        assert gone(middle) and gone(leaf)


def test_workers_of_a_killed_run_end(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "from ecmf_utils import parallel as workers\nfrom tests.test_parallel import nap\n"
        "if __name__ == '__main__':\n    list(workers.parallel_map(nap, range(4), 2))\n"
    )
    path = [os.path.dirname(os.path.dirname(__file__)), *(p for p in sys.path if p)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    with subprocess.Popen([sys.executable, str(script)], env=env) as run:
        end = time.monotonic() + 20
        started = []
        while len(started) < 2 and time.monotonic() < end:
            time.sleep(0.2)
            children = psutil.Process(run.pid).children()
            started = [c.pid for c in children if "spawn_main" in " ".join(c.cmdline())]
        time.sleep(1.5)  # let them get past their imports
        run.kill()
        assert len(started) == 2 and all(gone(pid) for pid in started)


def test_a_process_that_is_gone_already_ends_the_watcher():
    code = "from ecmf_utils import parallel as workers; import time; workers.die_with_parent(2**22 + 1);"
    done = subprocess.run([sys.executable, "-c", code + "time.sleep(30)"], timeout=20)
    assert done.returncode == 1


@pytest.mark.parametrize(("there", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, there, chosen):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)  # by name: workers import this module without torch
    assert parallel.choose_device("auto") == chosen and parallel.choose_device("cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert parallel.choose_device("cuda:1") == "cuda:1" and parallel.choose_device("cuda") == "cuda"
    with pytest.raises(EcmfError, match="device cuda:7 was asked for, but torch finds 2 CUDA GPUs, cuda:0 to cuda:1"):
        parallel.choose_device("cuda:7")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EcmfError, match="finds no CUDA GPU; set device=cpu or auto"):
        parallel.choose_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "gpu", "cuda:", "cuda1", ""])
def test_an_unknown_device_is_one_clear_line(name):
    with pytest.raises(EcmfError, match=f"device '{name}': expected auto, cpu, cuda or cuda:1"):
        parallel.choose_device(name)
