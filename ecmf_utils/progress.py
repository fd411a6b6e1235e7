"""One line of progress for loops that take longer than a breath."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_shown = False
LOG_INTERVAL_S = 10.0  # a log file wants a line now and then, not ten a second
LIVE_INTERVAL_S = 1.0  # at which a terminal shows how far work elsewhere is
NEW_LINE = "\r\x1b[K"  # writes over the line before
LINE = re.compile(r"[\w ]+: +\d+%")  # how lines of progress in a log begin


@dataclass
class Meter:
    """How much of the time since it was made went into one kind of work."""

    start: float = field(default_factory=time.perf_counter)
    busy_s: float = 0.0

    def timed(self, work: Callable[[], Item]) -> Item:
        """Do the work that is measured."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.busy_s += time.perf_counter() - start

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def share(self) -> float:
        """Of the time so far, from 0 to 1."""
        return self.busy_s / max(self.elapsed_s(), 1e-9)


def track(
    items: Iterable[Item], total: int | None = None, what: str = "", note: Callable[[], str] | None = None
) -> Iterator[Item]:
    """Pass the items on and show how many are done, on stderr: a bar on a terminal, a line now and then in a log.

    Never among a notebook's outputs (which are compared and shared); silent when `TQDM_DISABLE=1`.

    Parameters
    ----------
    items : iterable
    total : int, optional
        How many there will be, when the iterable cannot say.
    what : str
        A word or two before the bar.
    note : callable, optional
        What to say behind the bar, asked for with every item.
    """
    with _claimed() as file:
        if file is None:
            yield from items
        else:
            show = _bar if file.isatty() else _lines
            yield from show(items, total if total is not None else _length(items), what, note or str, file)


@contextmanager
def watch(course: Callable[[], tuple[float, float]], what: str, unit: str) -> Iterator[None]:
    """Show how far work is that goes on elsewhere, in worker processes for instance; where and how `track` does.

    Parameters
    ----------
    course : callable
        Work done and work in all, in units; asked now and then by a thread of its own.
    what, unit : str
        Before the figures, and of them.
    """
    with _claimed() as file:
        if file is None:
            yield
            return
        over = threading.Event()
        teller = threading.Thread(target=_tell, args=(course, what, unit, file, over), daemon=True, name="progress")
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()


@contextmanager
def _claimed() -> Iterator[TextIO | None]:
    """The stream to tell progress on; none where nothing is to be told, as for a bar within a bar."""
    global _shown
    file = None if _shown or os.environ.get("TQDM_DISABLE") == "1" else _stream()
    if file is None:
        yield None
        return
    _shown = True
    try:
        yield file
    finally:
        _shown = False


def _tell(course: Callable[[], tuple[float, float]], what: str, unit: str, file: TextIO, over: threading.Event) -> None:
    start, live = time.monotonic(), file.isatty()
    form = f"{{desc}}: {{percentage:3.0f}}% of {{total:.0f}} {unit} [{{elapsed}}<{{remaining}}]"
    while not over.wait(LIVE_INTERVAL_S if live else LOG_INTERVAL_S):
        done, total = course()
        if total > 0:
            line = tqdm.format_meter(done, total, time.monotonic() - start, prefix=what, bar_format=form)
            print(f"{NEW_LINE}{line}" if live else line, end="" if live else "\n", file=file, flush=True)
    if live:
        print(NEW_LINE, end="", file=file, flush=True)


def _bar(items: Iterable[Item], total: int | None, what: str, note: Callable[[], str], file: TextIO) -> Iterator[Item]:
    bar = tqdm(items, total=total, desc=what, file=file, mininterval=0.2, leave=False, disable=False)
    for item in bar:
        bar.set_postfix_str(note(), refresh=False)
        yield item


def _lines(
    items: Iterable[Item], total: int | None, what: str, note: Callable[[], str], file: TextIO
) -> Iterator[Item]:
    """One whole line every `LOG_INTERVAL_S`; nothing for what is over by then."""
    start = told = time.monotonic()
    for done, item in enumerate(items, 1):
        now = time.monotonic()
        if now - told >= LOG_INTERVAL_S:
            told = now
            line = tqdm.format_meter(done, total, now - start, ncols=0, prefix=what, postfix=note() or None)
            print(line, file=file, flush=True)
        yield item


def _length(items: Iterable) -> int | None:
    return len(items) if hasattr(items, "__len__") else None


def _stream() -> TextIO | None:
    if number := os.environ.get("ECMF_LOG_FD"):  # the runner's stderr, kept from the kernel's capture
        return open(os.dup(int(number)), "w", encoding="utf-8")
    if "ipykernel" in sys.modules or not sys.stderr.isatty():
        return None
    return sys.stderr
