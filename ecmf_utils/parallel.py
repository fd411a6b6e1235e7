"""What a run computes on: worker processes that never outlive it, and the device that PyTorch uses."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

import psutil

from .files import EcmfError

POLL_S = 0.5
AHEAD = 2  # chunks per worker that may wait, so that memory does not grow with the corpus
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OPENCV_FOR_THREADS_NUM",
    )
}


def die_with_parent(pid: int | None = None) -> None:
    """End this process and its children soon after another process is gone.

    A thread polls, since a killed parent (kill -9, out of memory) cannot tell its children, and the
    kernel's own death signal would also fire when only the starting *thread* of the parent ends.

    Parameters
    ----------
    pid : int, optional
        The process to watch; the direct parent when left out.
    """
    try:
        watched = psutil.Process(os.getppid() if pid is None else pid)
    except psutil.NoSuchProcess:
        _end_all()
        return
    threading.Thread(target=_watch, args=(watched,), daemon=True, name="die-with-parent").start()


def kill_children() -> None:
    """Kill every descendant of this process."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie that nobody has reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(name: str) -> str:
    """The device that PyTorch is to compute on.

    Parameters
    ----------
    name : str
        cpu, cuda, cuda:1 (the second GPU), or auto: cuda where PyTorch finds a GPU, else cpu.

    Raises
    ------
    EcmfError
        Any other name, or a GPU that PyTorch does not find.
    """
    import torch  # takes seconds; worker processes import this module too

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise EcmfError(f"device {name!r}: expected auto, cpu, cuda or cuda:1")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EcmfError("device cuda was asked for, but torch finds no CUDA GPU; set device=cpu or auto")
    if ":" in name and int(name.partition(":")[2]) >= (n_gpus := torch.cuda.device_count()):
        raise EcmfError(f"device {name} was asked for, but torch finds {n_gpus} CUDA GPUs, cuda:0 to cuda:{n_gpus - 1}")
    return name


def parallel_map(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    n_workers: int = 0,
    initializer: Callable[[], None] | None = None,
    chunk: int = 1,
    ahead: int = 0,
    ordered: bool = True,
) -> Iterator[Any]:
    """Apply a function in worker processes, results in the order of the items.

    Parameters
    ----------
    fn : callable
        A function of a module (it is pickled), called with one item.
    items : iterable
        Taken a few chunks ahead of the results only, so that memory stays flat.
    n_workers : int
        0: as many as there are processors; 1: in this process.
    initializer : callable, optional
        Run once in each worker.
    chunk : int
        Items handed to a worker at a time.
    ahead : int
        Chunks that may wait or be at work; 0: a few per worker. More of them bridge a consumer that
        takes many results at once.
    ordered : bool
        False: each result as soon as it is there.

    Raises
    ------
    EcmfError
        A worker was killed. An exception of `fn` itself comes through as it is.
    """
    n_workers = n_workers or cpu_count()
    if n_workers <= 1:
        if initializer:
            initializer()
        yield from map(fn, items)
        return
    pool = ProcessPoolExecutor(
        n_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(), initializer),
    )
    with _importable_main():
        try:
            for results in _chunks(pool, fn, iter(items), max(ahead, n_workers * AHEAD), chunk, ordered):
                yield from results
        except BrokenProcessPool as error:
            raise EcmfError(
                "a worker process ended abruptly (most often: out of memory); finished parts are "
                "kept, run the same command again, with a smaller n_workers if it happens again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def alone(fn: Callable[[Any], Any], item: Any) -> Any:
    """Call a function in a process of its own, so that its memory and its processor time are its own."""
    return list(parallel_map(fn, [item], 2))[0]


def _chunks(
    pool: ProcessPoolExecutor, fn: Callable, items: Iterator, ahead: int, chunk: int, ordered: bool
) -> Iterator[list]:
    waiting: list[Future] = []

    def submit() -> bool:
        batch = list(islice(items, chunk))
        if batch:
            with _environment(ONE_THREAD):  # libraries read it when a new process imports them
                waiting.append(pool.submit(_run_chunk, fn, batch))
        return bool(batch)

    while len(waiting) < ahead and submit():
        pass
    while waiting:
        first = waiting[0] if ordered else next(as_completed(waiting))
        waiting.remove(first)
        yield first.result()
        submit()


def _run_chunk(fn: Callable, batch: list) -> list:
    return [fn(item) for item in batch]


def _start_worker(parent: int, initializer: Callable[[], None] | None) -> None:
    os.environ.update(ONE_THREAD, TQDM_DISABLE="1")  # the parent tells how far all of them are
    die_with_parent(parent)
    if initializer:
        initializer()


def _watch(process: psutil.Process) -> None:
    while is_alive(process):
        time.sleep(POLL_S)
    _end_all()


def _end_all() -> None:
    kill_children()
    os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _importable_main() -> Iterator[None]:
    """Hide a main module without a file (`python -`), which a spawned process cannot import."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    hide = file is not None and not os.path.exists(file)
    if hide:
        del main.__file__
    try:
        yield
    finally:
        if hide:
            main.__file__ = file
