"""One line of progress for loops that take longer than a breath."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_shown = False
LOG_INTERVAL_S = 10.0  # a log file wants a line now and then, not ten a second


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
    global _shown
    file = None if _shown or os.environ.get("TQDM_DISABLE") == "1" else _stream()
    if file is None:  # a bar within a bar says nothing more
        yield from items
        return
    _shown = True
    show = _bar if file.isatty() else _lines
    try:
        yield from show(items, total if total is not None else _length(items), what, note or str, file)
    finally:
        _shown = False


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
