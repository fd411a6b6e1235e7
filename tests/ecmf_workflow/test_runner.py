import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ecmf_utils import parallel
from ecmf_utils.files import ROOT, EcmfError, read_json
from ecmf_workflow import kernel as ecmf_workflow_kernel, runner
from tests.small_notebooks import edit, make_pipeline

NB = "00_start_here"


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


@pytest.fixture
def runs(home, notebooks):
    return home / "reports" / "tiny" / "runs" / NB


def start(*sets):
    """`ecmf run` as a process of its own."""
    words = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-m", "ecmf_workflow.cli", "run", NB, *words]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.1)


def in_last_cells(runs):
    """Whether the kernel has reached the cell that sleeps."""
    made = runs.parents[3] / "data" / "tiny" / ".made" / f"{NB}.json"
    return made.exists()


def kernels(process):
    return [p for p in psutil.Process(process.pid).children(recursive=True) if "-f" in p.cmdline()]


def test_good_run_leaves_page_copy_and_record(notebooks, runs, home, capsys):
    assert runner.run("00", "tiny", ["seed=7"]) == 0
    record = read_json(runs / "run.json")
    assert record["status"] == "ok"
    assert record["parameters"]["seed"] == 7
    assert record["html"] == f"{NB}.html"
    assert record["seconds"] > 0
    assert record["peak_memory_mb"] > 30
    assert record.keys() == {
        "notebook",
        "profile",
        "parameters",
        "started",
        "seconds",
        "peak_memory_mb",
        "device",
        "commit",
        "dirty",
        "versions",
        "fingerprint",
        "status",
        "error",
        "inputs",
        "html",
    }
    assert (home / "reports" / "tiny" / f"{NB}.html").exists()
    injected = json.loads((runs / "executed.ipynb").read_text())["cells"][2]
    assert "seed = 7" in "".join(injected["source"])
    assert f"{NB}: " in capsys.readouterr().out


def test_failing_cell_keeps_the_last_good_page(notebooks, runs, home, capsys):
    page = home / "reports" / "tiny" / f"{NB}.html"
    page.parent.mkdir(parents=True)
    page.write_text("last good")
    assert runner.run(NB, "tiny", ["mode=raise"]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"{NB}: ValueError: a = b, said twice (cell In [4], see ")
    assert line.endswith("executed.ipynb)")
    assert page.read_text() == "last good"
    record = read_json(runs / "run.json")
    assert (record["status"], record["html"], record["error"]) == ("failed", None, line)
    assert "ValueError" in (runs / "executed.ipynb").read_text()


def test_killed_kernel_is_marked_in_copy_record_and_exit(notebooks, runs, home, capsys):
    assert runner.run(NB, "tiny", ["mode=die"]) == 1
    assert "the kernel died in cell In [4]" in capsys.readouterr().err
    first = json.loads((runs / "executed.ipynb").read_text())["cells"][0]
    assert "This run did not finish" in "".join(first["source"])
    assert read_json(runs / "run.json")["status"] == "died"
    assert not (home / "reports" / "tiny" / f"{NB}.html").exists()


def test_mendable_mistake_has_no_error_name_and_no_traceback(notebooks, runs, capsys):
    assert runner.run(NB, "tiny", ["mode=mend"]) == 1
    assert capsys.readouterr().err.startswith(f"{NB}: clips.csv, row 3: no such label (cell In [4]")
    assert "Traceback" not in (runs / "executed.ipynb").read_text()


def test_notebook_that_does_not_write_its_files_has_failed(notebooks, runs, monkeypatch, capsys):
    monkeypatch.setattr(ecmf_workflow_kernel, "execute", lambda *_: None)
    assert runner.run(NB, "tiny") == 1
    assert "ended without writing" in capsys.readouterr().err


@pytest.mark.parametrize("sets", [["sede=1"], ["seed=x"], ["seed"]])
def test_refused_before_anything_starts(notebooks, runs, sets):
    with pytest.raises(EcmfError):
        runner.run(NB, "tiny", sets)
    assert not runs.exists()


def test_other_profiles_need_what_comes_before(notebooks):
    with pytest.raises(EcmfError, match="ecmf run 00_start_here --profile words"):
        runner.run("24", "words")


def test_full_disk_is_one_line(notebooks, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: full())
    assert runner.run(NB, "tiny") == 1
    assert "executed.ipynb: cannot be written (No space left on device)" in capsys.readouterr().err


def test_parent_on_another_machine_is_not_followed(monkeypatch):
    monkeypatch.setenv("ECMF_PARENT", "1@some-other-node")
    monkeypatch.setattr(parallel, "die_with_parent", lambda *_: pytest.fail("followed"))
    runner.follow_parent()


def test_sigterm_stops_the_kernel_and_is_recorded(notebooks, runs):
    process = start("mode=sleep")
    wait_until(lambda: in_last_cells(runs))
    (kernel,) = kernels(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert process.stderr.read().strip() == (f"{NB}: interrupted by SIGTERM; run it again to go on")
    wait_until(lambda: not kernel.is_running(), 5)
    assert read_json(runs / "run.json")["status"] == "interrupted"


@pytest.mark.slow
def test_kernel_ends_with_a_runner_that_was_killed(notebooks, runs):
    process = start("mode=sleep")
    wait_until(lambda: in_last_cells(runs))
    (kernel,) = kernels(process)
    process.kill()
    process.wait()
    wait_until(lambda: not kernel.is_running(), 5)
    assert read_json(runs / "run.json")["status"] == "running"


@pytest.mark.slow
def test_kernel_ends_even_when_killed_before_its_first_cell(notebooks, runs):
    process = start("mode=sleep")
    wait_until(lambda: kernels(process))
    (kernel,) = kernels(process)
    process.kill()
    process.wait()
    wait_until(lambda: not kernel.is_running(), 20)


@pytest.mark.slow
def test_run_ends_with_the_process_it_follows(notebooks, runs, monkeypatch):
    followed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    monkeypatch.setenv("ECMF_PARENT", str(followed.pid))
    process = start("mode=sleep")
    wait_until(lambda: in_last_cells(runs))
    (kernel,) = kernels(process)
    followed.kill()
    followed.wait()
    assert process.wait(10) != 0
    wait_until(lambda: not kernel.is_running(), 5)


@pytest.mark.slow
def test_second_run_of_the_same_notebook_waits(notebooks, runs):
    edit(notebooks, NB, "time.sleep(120)", "time.sleep(6)")
    first = start("mode=sleep")
    wait_until(lambda: in_last_cells(runs))
    second = start("seed=2")
    assert first.wait() == second.wait() == 0
    assert "running already" in second.stderr.read()
    assert read_json(runs / "run.json")["parameters"]["seed"] == 2


@pytest.mark.slow
def test_runs_need_no_kernelspec_of_the_machine(notebooks, runs, monkeypatch, home):
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home))
    edit(notebooks, NB, '"name": "python3"', '"name": "another-machines-kernel"')
    edit(notebooks, NB, "import os, time", "import sys; assert sys.executable == source")
    assert runner.run(NB, "tiny", [f"source={sys.executable}"]) == 0
    assert os.getcwd() != str(ROOT / "notebooks")
