"""What `ecmf reproduce` says while Snakemake works: a line for each run that has ended, and the sum."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from . import pipeline, runner
from .paths import reports_dir, show
from .progress import LINE, NEW_LINE

PROGRESS_S = 60.0  # a log of hours wants a line a minute
LOG = re.compile(r"\s+log: .*[/\\]runs[/\\]([^/\\]+)[/\\]executed\.ipynb")


class Follower:
    """Turns what Snakemake and the runs print into a line per run."""

    def __init__(self, profile: str, quiet: bool = False) -> None:
        self.profile, self.quiet = profile, quiet
        self.planned: dict[str, int] = {}  # notebook -> number of its runs: one, or one a shard
        self.named: list[str] = []
        self.running: list[str] = []
        self.done: list[str] = []
        self.failed: list[str] = []
        self.last, self.refused, self.broken = "", "", False
        self.progress, self.told = "", time.monotonic()  # of a run, and when anything was told last

    def read(self, line: str) -> None:
        """Take in one line of output."""
        if mark := runner.Mark.read(line):
            self._mark(mark)
        elif row := re.match(r"nb_(\S+)\s+(\d+)\s*$", line):
            self.planned[row[1]] = int(row[2])
        elif line.startswith("total ") and not self.quiet and self.planned:
            left = [nb for nb in self.planned if nb not in self.done]
            runs, total = sum(self.planned[nb] for nb in left), len(pipeline.order(self.profile))
            split = f" in {runs} runs" if runs > len(left) else ""
            print(f"{self.profile}: {len(left)} of {total} notebooks to run{split}", flush=True)
        elif line.startswith("ecmf: "):
            self.refused = line[len("ecmf: ") :]
        elif line.startswith("Error in rule nb_"):
            self.broken = True
        elif run := LOG.match(line):  # of a run that is planned, that begins or that broke
            self._name(run[1])
        elif LINE.match(line):
            self._progress(line)
        elif line.strip():
            self.last = line.strip()

    def _name(self, run: str) -> None:
        self.named.append(run)
        if self.broken and run not in self.failed:
            self._mark(runner.Mark(run, "end", "killed", error=self.refused or f"{run}: ended abruptly"))
        self.broken = False

    def _mark(self, mark: runner.Mark) -> None:
        self.progress, self.told = "", time.monotonic()
        if mark.event == "start":
            self.running.append(mark.notebook)
            return self._live()
        if mark.notebook in self.running:
            self.running.remove(mark.notebook)
        ended = self.done if mark.status == "ok" else self.failed
        ended.append(mark.notebook)
        number, total = len(self.done) + len(self.failed), sum(self.planned.values())
        head = f"[{number:>{len(str(total))}}/{total}] {mark.notebook} …"
        how = f"{mark.seconds:.0f} s" if mark.status == "ok" else f"{mark.status.upper()} after {mark.seconds:.0f} s"
        self._clear()
        print(f"{head} {how}" + (f"\n    {mark.error}" if mark.error else ""), flush=True)
        self._live()

    def _progress(self, line: str) -> None:
        self.progress = line.strip()
        if sys.stdout.isatty():
            self._live()
        elif time.monotonic() - self.told >= PROGRESS_S:
            self.told = time.monotonic()
            print(f"        {', '.join(self.running)} … {self.progress}", flush=True)

    def _live(self) -> None:
        if sys.stdout.isatty() and self.running:
            text = f"        {', '.join(self.running)} … {self.progress}"
            print(NEW_LINE + text[: shutil.get_terminal_size().columns - 1], end="", flush=True)

    def _clear(self) -> None:
        if sys.stdout.isatty():
            print(NEW_LINE, end="")

    def tell_plan(self) -> int:
        """The end of a dry run."""
        lines = []
        for nb in self.planned:
            keys = sorted({name.partition("--")[2] for name in self.named if name.startswith(f"{nb}--")})
            numbers = ", ".join(key.partition("-")[0] for key in keys)
            lines.append(f"{nb} (shards {numbers} of {keys[0][-2:]})" if keys else nb)
        print("\n".join(["would run:", *lines]) if lines else "Nothing to do.")
        return 0

    def tell_end(self, code: int) -> int:
        """Say what is left undone and where the report is; the exit code."""
        log = show(log_path(self.profile))
        done = Counter(name.partition("--")[0] for name in self.done)
        broken = {name.partition("--")[0] for name in self.failed}
        self._clear()
        if code and not self.failed and (self.refused or done.total() < sum(self.planned.values())):
            print(f"The workflow stopped: {self.refused or self.last} (see {log})", file=sys.stderr)
        if self.failed:
            rest = [nb for nb, runs in self.planned.items() if done[nb] < runs and nb not in broken]
            because = f"; not run because of it: {', '.join(rest)}" if rest else ""
            print(f"Failed: {', '.join(self.failed)}{because} (log: {log})", file=sys.stderr)
        elif not self.planned and not code:
            print(f"{self.profile}: nothing to do, everything is up to date")
        why = pipeline.why_untrained(self.profile)
        if why and not code:
            print(f"Nothing was trained: {why}")
        print(f"Report: {show(reports_dir(self.profile) / 'index.html')}", flush=True)
        return 1 if code or self.failed else 0


def log_path(profile: str) -> Path:
    """Where everything that Snakemake and the runs print is kept."""
    return reports_dir(profile) / "runs" / "snakemake.log"
