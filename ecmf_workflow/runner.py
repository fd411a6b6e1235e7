"""`ecmf run`: execute one notebook in batch, keep what happened, publish a page only on success."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NoReturn

import psutil
from filelock import FileLock, Timeout

from ecmf_utils import parallel
from ecmf_utils.files import IS_CHECKOUT, ROOT, EcmfError, file_hash, show, write_json
from ecmf_utils.notebook import device, parameters, profiles, reruns, steps
from ecmf_utils.notebook.startup import TINY

from . import kernel, shards

SAMPLE_S = 0.25  # how often the memory of the kernel and its workers is read
PACKAGES = (
    "ecmf_utils", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch", "transformers", "timm",
    "librosa", "av", "opencv-python-headless", "dlib-bin", "papermill", "snakemake",
)  # fmt: skip
STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")
MARK = "::ecmf "  # begins the lines by which `ecmf reproduce` follows the runs it started


def run(name: str, profile: str, sets: Sequence[str] = ()) -> int:
    """Execute a notebook with a profile's parameters.

    The executed copy and `run.json` lie in `reports/<profile>/runs/<notebook>/`; the page is
    replaced only when every cell has run.

    Parameters
    ----------
    name : str
        `22`, `22_extract_scene` or a path.
    profile : str
    sets : sequence of str
        `NAME=VALUE` or `NOTEBOOK.NAME=VALUE`, stronger than the profile.

    Returns
    -------
    int
        0, or 1 after a cell raised or the kernel died. A signal ends the process with 128 + signal.

    Raises
    ------
    EcmfError
        Refused before a kernel starts: unknown names, wrong types, missing earlier outputs.
    """
    nb = parameters.find_notebook(name)
    profile, sets = profiles.prepare(profile, sets)
    values = profiles.resolve(nb, profile, sets)
    shards.check(nb, values)
    if profile != TINY:
        _check_branch(nb, profile)
        steps.require(nb, profile, steps.find_training_profile(values))
    follow_parent()
    key = steps.make_run_key(values)
    with _alone(nb, profile, key):
        return Run(nb, profile, values, key).execute()


def _check_branch(nb: str, profile: str) -> None:
    """Refuse to extract a branch that the profile does not have, or has imported."""
    step = steps.STEPS.get(nb)
    makers = steps.find_extractors(profile)
    if step and step.branch and step.branch not in makers:
        raise EcmfError(
            f"{nb} is not run by profile {profile}: the branches that it extracts are "
            f"{', '.join(makers) or 'none, all are imported'}"
        )


@contextmanager
def stopping(stop: Callable[[int, Any], NoReturn]) -> Iterator[None]:
    """Call `stop` on Ctrl-C and on being asked to end; the handlers from before come back."""
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Run:
    """One execution: its record stands in `run.json` from the first moment on."""

    def __init__(self, nb: str, profile: str, values: dict[str, Any], key: str = "") -> None:
        self.nb, self.profile, self.values, self.name = nb, profile, values, nb + key
        self.html = steps.html_path(nb, profile, key)
        self.copy = steps.run_dir(nb, profile, key) / "executed.ipynb"
        self.began = time.monotonic()
        self.peak = 0.0
        self.record: dict[str, Any] = {
            "notebook": nb,
            "profile": profile,
            "parameters": values,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device(values.get("device", "auto")),
            **git_state(),
            "versions": versions(),
            "fingerprint": reruns.fingerprint(nb),
            "inputs": {show(p): file_hash(p) for p in steps.list_inputs(nb, profile) if p.exists()},
        }

    def execute(self) -> int:
        """Run the cells and say how it went; the exit code."""
        self._write("running")
        _tell(Mark(self.name, "start"))
        with self._signals(), self._memory():
            try:
                bar = sys.stderr.isatty() and not followed()
                kernel.execute(parameters.notebook_path(self.nb), self.copy, self.values, bar)
                self._publish()
            except kernel.Failure as failure:
                return self._end(failure.status, str(failure))
            except EcmfError as error:
                return self._end("failed", f"{self.name}: {error}")
            except Exception as error:
                self._end("failed", f"{self.name}: {type(error).__name__}: {error}")
                raise
            return self._end("ok")

    def _publish(self) -> None:
        from .pages import page

        n_shards, detour = self.values.get("n_shards", 1), steps.find_training_profile(self.values)
        if n_shards > 1:
            shards.note(self.nb, self.profile, self.values)
        for path in [] if detour or n_shards > 1 else steps.list_outputs(self.nb, self.profile):
            if not path.exists():
                raise EcmfError(f"ended without writing {show(path)}")
            os.utime(path)  # rows that are reused are not rewritten, yet the step is done now
        self._update("ok")
        order = steps.plan_notebooks(self.profile)
        page.to_html(self.copy, self.html, self.profile, run=self.record, order=order)
        if "n_shards" in self.values:
            shards.settle(self.nb, self.profile, n_shards)

    def _end(self, status: str, error: str | None = None) -> int:
        self._write(status, error)
        _tell(Mark(self.name, "end", status, self.record["seconds"], error or ""))
        if error and not followed():
            print(error, file=sys.stderr, flush=True)
        elif not followed():
            took = f"{self.record['seconds']:.0f} s, {self.record['peak_memory_mb']:.0f} MB"
            print(f"{self.name}: {took}, {show(self.html)}", flush=True)
        return 0 if status == "ok" else 1

    def _write(self, status: str, error: str | None = None) -> None:
        self._update(status, error)
        write_json(self.copy.with_name("run.json"), self.record)

    def _update(self, status: str, error: str | None = None) -> None:
        self.record |= {
            "seconds": round(time.monotonic() - self.began, 1),
            "peak_memory_mb": round(self.peak, 1),
            "status": status,
            "error": error,
            "html": self.html.name if status == "ok" else None,
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _: Any) -> NoReturn:
            parallel.kill_children()
            name = signal.Signals(number).name
            self._end("interrupted", f"{self.name}: interrupted by {name}; run it again to go on")
            os._exit(128 + number)

        with stopping(stop):
            yield

    @contextmanager
    def _memory(self) -> Iterator[None]:
        done = threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLE_S):
                self.peak = max(self.peak, children_mb())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def children_mb() -> float:
    """Resident memory of everything this process has started, in MB."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.Error:  # ended between the two lines
            continue
    return total / 2**20


@contextmanager
def _alone(nb: str, profile: str, key: str) -> Iterator[None]:
    """Wait while another process runs the same notebook of the same profile."""
    path = steps.run_dir(nb, profile, key) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout:
        print(f"{nb}: running already for {profile}, waiting", file=sys.stderr, flush=True)
        lock.acquire(timeout=-1)
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def parent_mark() -> str:
    """What `ECMF_PARENT` holds for a child of this process; of no meaning on another machine."""
    return f"{os.getpid()}@{socket.gethostname()}"


def follow_parent() -> None:
    """End with the process that `ECMF_PARENT` names, if it is one of this machine."""
    pid, _, host = os.environ.get("ECMF_PARENT", "").partition("@")
    if pid and host in ("", socket.gethostname()):
        parallel.die_with_parent(int(pid))
        if followed():  # then Snakemake stands between that process and this one
            parallel.die_with_parent()


def followed() -> bool:
    """Whether `ecmf reproduce` reads this process's output."""
    return os.environ.get("ECMF_MARK") == "1"


@dataclass(frozen=True)
class Mark:
    """What a run tells `ecmf reproduce` when it begins and when it has ended, on a line of its own."""

    notebook: str
    event: str
    status: str = ""
    seconds: float = 0
    error: str = ""

    @classmethod
    def read(cls, line: str) -> Mark | None:
        """What a line tells; None of other lines, and where two runs wrote into one line."""
        with suppress(ValueError, TypeError):
            return cls(**json.loads(line.removeprefix(MARK))) if line.startswith(MARK) else None
        return None


def _tell(mark: Mark) -> None:
    if followed():
        print(f"\n{MARK}{json.dumps(asdict(mark))}", flush=True)


def git_state() -> dict[str, Any]:
    """`commit` (null outside a repository) and `dirty` (tracked files differ from it)."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if commit is None else bool(changed)}


def _git(*words: str) -> str | None:
    if not IS_CHECKOUT:  # the folder that an installed package is called from may be a repository of something else
        return None
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the figures, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
