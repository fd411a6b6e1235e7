"""`ecmf reproduce`: Snakemake over the notebooks of a profile, with progress that can be read."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import psutil
from filelock import FileLock, Timeout

from ecmf_utils import parallel
from ecmf_utils.files import SHIPPED, EcmfError, data_dir, reports_dir, show, write_text
from ecmf_utils.notebook import profiles, reruns, startup, steps
from ecmf_utils.progress import LINE, NEW_LINE
from ecmf_workflow.pages.page import duration

from . import runner, shards

SNAKEFILE = SHIPPED / "workflow" / "Snakefile"
CHECKSUM_BYTES = 200_000_000  # inputs up to this size count as changed by content, not by time
STOP_S = 15  # how long the runs get to end after Ctrl-C before they are killed
LONG_S = 60  # of a member of a study: worth telling how long the others will take
LEFTOVER_S = 3600  # a temporary file this old belongs to a run that was killed
# Snakemake must not outlive `ecmf reproduce`, even when that is killed outright.
BOOT = """
import os
from ecmf_utils import parallel
parallel.die_with_parent(int(os.environ["ECMF_PARENT"].split("@")[0]))
from snakemake.cli import main
main()
"""


def reproduce(profile: str, sets: Sequence[str] = (), cores: int = 0, dry_run: bool = False) -> int:
    """Run every notebook of a profile whose code, parameters or inputs have changed.

    A notebook that fails stops only those that need it. The index is written in any case.

    Parameters
    ----------
    profile : str
        One that lists `members` runs those, one after the other, and then its own index.
    sets : sequence of str
        `NAME=VALUE` or `NOTEBOOK.NAME=VALUE`, stronger than the profile.
    cores : int
        Processors to use; 0 means all.
    dry_run : bool
        Only say which notebooks would run.

    Returns
    -------
    int
        0, or 1 when a notebook failed.
    """
    from ecmf_workflow.pages.index import build_index

    profile, sets = profiles.prepare(profile, sets)
    if members := profiles.load_profile(profile)["members"]:
        failed = [member for member in _in_turn(profile, members) if _failed(member, sets, cores, dry_run)]
        if not dry_run:
            print(f"Report: {show(build_index(profile))}")
        return 1 if failed else 0
    profiles.check_sets(sets, steps.plan_notebooks(profile))
    shards.counts(profile, sets, steps.plan_notebooks(profile))  # a number that cannot be is refused at once
    cores = cores or parallel.cpu_count()
    with _only_one(profile):
        _sweep(data_dir(profile))
        follower = Follower(profile, dry_run)
        code = 0 if dry_run else _corpus_first(profile, sets, cores, follower)
        order = steps.plan_notebooks(profile)
        if not code:
            code = _snakemake(profile, sets, find_reruns(profile, sets, order), cores, dry_run, follower)
        if dry_run:
            return follower.tell_plan()
        if follower.planned or _index_is_old(profile):
            try:
                build_index(profile, order)
            except EcmfError as error:  # the runs count for more than their summary
                print(f"index: {error}", file=sys.stderr)
                code = code or 1
        return follower.tell_end(code)


def _in_turn(profile: str, members: Sequence[str]) -> Iterator[str]:
    """The members of a study, each announced; once one has taken long, with what the rest will take."""
    print(f"{profile}: {len(members)} corpora in turn; 51_compare_runs of each tells how long it will take", flush=True)
    longest = 0.0
    for number, member in enumerate(members):
        left = longest * (len(members) - number)
        more = f"; {duration(left)} to go if each takes as long as the longest so far" if longest > LONG_S else ""
        print(f"{profile}: {member}, {number + 1} of {len(members)}{more}", flush=True)
        began = time.monotonic()
        yield member
        longest = max(longest, time.monotonic() - began)


def _failed(member: str, sets: Sequence[str], cores: int, dry_run: bool) -> bool:
    try:
        return reproduce(member, sets, cores, dry_run) != 0
    except EcmfError as error:  # the other members count for more
        print(f"{member}: {error}", file=sys.stderr, flush=True)
        return True


def _corpus_first(profile: str, sets: Sequence[str], cores: int, follower: Follower) -> int:
    """Read a real corpus before the rest is planned: what it holds decides what can be trained."""
    start = profiles.START
    settings = profiles.resolve(start, profile, profiles.select_sets(start, sets))
    if settings.get("kind", profiles.GENERATED) == profiles.GENERATED:
        return 0
    reasons = find_reruns(profile, sets, [start])
    if not reasons and all(path.exists() for path in steps.list_outputs(start, profile)):
        return 0
    page = str(steps.html_path(start, profile))
    return _snakemake(profile, sets, reasons, cores, False, follower, page)


def find_reruns(profile: str, sets: Sequence[str], order: Sequence[str]) -> dict[str, str]:
    """Why which runs have to run again, files aside; Snakemake remembers only what it ran itself.

    Returns
    -------
    dict
        Run -> reason. A run is a notebook, or one of its shards (`22_extract_scene--01-of-04`).
    """
    reasons = {}
    for nb in order:
        values = profiles.resolve(nb, profile, profiles.select_sets(nb, sets))
        n_shards = values.get("n_shards", 1)
        for shard, key in enumerate(steps.make_shard_keys(n_shards)):
            own = values | {"shard": shard} if n_shards > 1 else values
            if reason := reruns.find_reason(nb, profile, own):
                reasons[nb + key] = reason
    return reasons


def _index_is_old(profile: str) -> bool:
    index = reports_dir(profile) / "index.html"
    runs = (reports_dir(profile) / "runs").glob("*/run.json")
    return not index.exists() or any(r.stat().st_mtime > index.stat().st_mtime for r in runs)


def _snakemake(
    profile: str,
    sets: Sequence[str],
    reasons: Mapping[str, str],
    cores: int,
    dry_run: bool,
    follower: Follower,
    target: str = "notebooks",
) -> int:
    folder = data_dir(profile) / ".workflow"
    force = ["--forcerun", *(_target(run, profile) for run in reasons)] if reasons else []
    command = [
        sys.executable,
        "-c",
        BOOT,
        target,
        "--snakefile",
        SNAKEFILE,
        "--directory",
        folder,
        "--cores",
        cores,
        "--nolock",
        "--rerun-incomplete",
        "--keep-going",
        "--scheduler",
        "greedy",
        "--rerun-triggers",
        "mtime",
        "params",
        "input",
        "--max-checksum-file-size",
        CHECKSUM_BYTES,
        *force,
        *(["--dry-run"] if dry_run else []),
        "--config",
        f"profile={profile}",
        f"sets={json.dumps(list(sets))}",
    ]
    env = startup.make_child_env(ECMF_PARENT=runner.parent_mark(), ECMF_MARK="1")
    write_text(log_path(profile), "".join(f"{run}: {reason}\n" for run, reason in reasons.items()))
    with open(log_path(profile), "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches it through us, once
        )
        with _stopping(process):
            _follow(process, log, follower)
            return process.wait()


def _target(name: str, profile: str) -> str:
    """What Snakemake calls a run: a notebook has a rule of its own, a shard only its page."""
    nb, dashes, key = name.partition("--")
    return str(steps.html_path(nb, profile, dashes + key)) if key else f"nb_{nb}"


def _follow(process: subprocess.Popen[str], log: TextIO, follower: Follower) -> None:
    for line in process.stdout or ():
        log.write(line)
        log.flush()
        follower.read(line.rstrip("\n"))


@contextmanager
def _stopping(process: subprocess.Popen[str]) -> Iterator[None]:
    def stop(number: int, _: Any) -> NoReturn:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it may just have ended
            os.killpg(process.pid, signal.SIGTERM)  # the runs record that they were interrupted
            psutil.wait_procs(psutil.Process(process.pid).children(recursive=True), STOP_S)
            os.killpg(process.pid, signal.SIGKILL)  # Snakemake itself would start further ones
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr, flush=True)
        os._exit(128 + number)

    with runner.stopping(stop):
        yield


@contextmanager
def _only_one(profile: str) -> Iterator[None]:
    path = data_dir(profile) / ".workflow" / "lock"
    holder = path.with_name("pid")  # beside the lock, which a second process empties
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        by = f" by process {holder.read_text().strip()}" if holder.exists() else ""
        raise EcmfError(f"{profile} is being reproduced already{by}; wait for it or stop it") from None
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be written ({error.strerror or error})") from error
    try:
        write_text(holder, f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    for path in folder.rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # whoever wrote it has just renamed it
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink()


# ---- what `ecmf reproduce` says while Snakemake works: a line for each run that has ended, and the sum


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
            runs, total = sum(self.planned[nb] for nb in left), len(steps.plan_notebooks(self.profile))
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
        why = steps.explain_untrained(self.profile)
        if why and not code:
            print(f"Nothing was trained: {why}")
        print(f"Report: {show(reports_dir(self.profile) / 'index.html')}", flush=True)
        return 1 if code or self.failed else 0


def log_path(profile: str) -> Path:
    """Where everything that Snakemake and the runs print is kept."""
    return reports_dir(profile) / "runs" / "snakemake.log"
