"""`ecmf reproduce`: Snakemake over the notebooks of a profile, with progress that can be read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

import psutil
from filelock import FileLock, Timeout

from . import notebook, params, pipeline, runner, workers
from .paths import ROOT, EcmfError, data_dir, read_json, reports_dir, show, write_text

SNAKEFILE = ROOT / "workflow" / "Snakefile"
CHECKSUM_BYTES = 200_000_000  # inputs up to this size count as changed by content, not by time
STOP_S = 15  # how long the runs get to end after Ctrl-C before they are killed
LEFTOVER_S = 3600  # a temporary file this old belongs to a run that was killed
# Snakemake must not outlive `ecmf reproduce`, even when that is killed outright.
BOOT = """
import os
from ecmf_utils import workers
workers.die_with_parent(int(os.environ["ECMF_PARENT"].split("@")[0]))
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
    from . import report

    profile, sets = params.prepare(profile, sets)
    if members := params.load_profile(profile)["members"]:
        failed = [member for member in members if reproduce(member, sets, cores, dry_run)]
        if not dry_run:
            print(f"Report: {show(report.build_index(profile))}")
        return 1 if failed else 0
    params.check_sets(sets, pipeline.order(profile))
    cores = cores or workers.cpu_count()
    with _only_one(profile):
        _sweep(data_dir(profile))
        follower = Follower(profile, dry_run)
        code = 0 if dry_run else _corpus_first(profile, sets, cores, follower)
        order = pipeline.order(profile)
        if not code:
            code = _snakemake(profile, sets, outdated(profile, sets, order), cores, dry_run, follower)
        if dry_run:
            return follower.tell_plan()
        if follower.planned or _index_is_old(profile):
            try:
                report.build_index(profile, order)
            except EcmfError as error:  # the runs count for more than their summary
                print(f"index: {error}", file=sys.stderr)
                code = code or 1
        return follower.tell_end(code)


def _corpus_first(profile: str, sets: Sequence[str], cores: int, follower: Follower) -> int:
    """Read a real corpus before the rest is planned: what it holds decides what can be trained."""
    start = pipeline.START
    settings = params.resolve(start, profile, params.sets_for(start, sets))
    changed = outdated(profile, sets, [start])
    there = all(path.exists() for path in pipeline.writes(start, profile))
    if settings.get("kind", params.GENERATED) == params.GENERATED or (there and not changed):
        return 0
    page = str(pipeline.html_path(start, profile))
    return _snakemake(profile, sets, changed, cores, False, follower, page)


def outdated(profile: str, sets: Sequence[str], order: Sequence[str]) -> list[str]:
    """Notebooks last started with other parameters or code than now, or that did not end well.

    Snakemake remembers only what it ran itself; this also sees runs by hand.
    """
    found = []
    for nb in order:
        now = params.resolve(nb, profile, params.sets_for(nb, sets))
        made, record = notebook.made_path(nb, profile), pipeline.run_dir(nb, profile) / "run.json"
        if made.exists():
            last = read_json(made)
            same = _decisive(last["parameters"]) == _decisive(now)
            if not same or last["fingerprint"] != notebook.fingerprint(nb):
                found.append(nb)
                continue
        if record.exists() and read_json(record)["status"] != "ok":
            found.append(nb)
    return found


def _decisive(values: dict[str, Any]) -> str:
    kept = {name: value for name, value in values.items() if name not in notebook.EXECUTION}
    return json.dumps(kept, sort_keys=True)


def _index_is_old(profile: str) -> bool:
    index = reports_dir(profile) / "index.html"
    runs = (reports_dir(profile) / "runs").glob("*/run.json")
    return not index.exists() or any(r.stat().st_mtime > index.stat().st_mtime for r in runs)


class Follower:
    """Turns what Snakemake and the runs print into a line per notebook."""

    def __init__(self, profile: str, quiet: bool = False) -> None:
        self.profile, self.quiet = profile, quiet
        self.planned: list[str] = []
        self.running: list[str] = []
        self.done: list[str] = []
        self.failed: list[str] = []
        self.last, self.refused = "", ""

    def read(self, line: str) -> None:
        """Take in one line of output."""
        if line.startswith(runner.MARK):
            self._mark(**json.loads(line[len(runner.MARK) :]))
        elif row := re.match(r"nb_(\S+)\s+\d+\s*$", line):
            if row[1] not in self.planned:  # a dry run says it twice
                self.planned.append(row[1])
        elif line.startswith("total ") and not self.quiet and self.planned:
            left = [nb for nb in self.planned if nb not in self.done]
            total = len(pipeline.order(self.profile))
            print(f"{self.profile}: {len(left)} of {total} notebooks to run", flush=True)
        elif line.startswith("ecmf: "):
            self.refused = line[len("ecmf: ") :]
        elif (rule := re.match(r"Error in rule nb_(\w+)", line)) and rule[1] not in self.failed:
            self._mark(rule[1], "end", "killed", 0, self.refused or f"{rule[1]}: ended abruptly")
        elif line.strip():
            self.last = line.strip()

    def _mark(
        self, notebook: str, event: str, status: str = "", seconds: float = 0, error: str = ""
    ) -> None:
        if event == "start":
            self.running.append(notebook)
            return self._live()
        if notebook in self.running:
            self.running.remove(notebook)
        ended = self.done if status == "ok" else self.failed
        ended.append(notebook)
        number, total = len(self.done) + len(self.failed), len(self.planned)
        head = f"[{number:>{len(str(total))}}/{total}] {notebook} …"
        how = f"{seconds:.0f} s" if status == "ok" else f"{status.upper()} after {seconds:.0f} s"
        self._clear()
        print(f"{head} {how}" + (f"\n    {error}" if error else ""), flush=True)
        self._live()

    def _live(self) -> None:
        if sys.stdout.isatty() and self.running:
            print(f"\r\x1b[K        {', '.join(self.running)} …", end="", flush=True)

    def _clear(self) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")

    def tell_plan(self) -> int:
        """The end of a dry run."""
        print("\n".join(["would run:", *self.planned]) if self.planned else "Nothing to do.")
        return 0

    def tell_end(self, code: int) -> int:
        """Say what is left undone and where the report is; the exit code."""
        log = show(log_path(self.profile))
        self._clear()
        if code and not self.failed and (self.refused or len(self.done) < len(self.planned)):
            print(f"The workflow stopped: {self.refused or self.last} (see {log})", file=sys.stderr)
        if self.failed:
            rest = [n for n in self.planned if n not in self.done and n not in self.failed]
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


def _snakemake(
    profile: str,
    sets: Sequence[str],
    changed: Sequence[str],
    cores: int,
    dry_run: bool,
    follower: Follower,
    target: str = "notebooks",
) -> int:
    folder = data_dir(profile) / ".workflow"
    force = ["--forcerun", *(f"nb_{nb}" for nb in changed)] if changed else []
    command = [
        sys.executable, "-c", BOOT, target,
        "--snakefile", SNAKEFILE, "--directory", folder, "--cores", cores,
        "--nolock", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy",
        "--rerun-triggers", "mtime", "params", "input",
        "--max-checksum-file-size", CHECKSUM_BYTES, *force, *(["--dry-run"] if dry_run else []),
        "--config", f"profile={profile}", f"sets={json.dumps(list(sets))}",
    ]  # fmt: skip
    env = notebook.child_env(ECMF_PARENT=runner.parent_mark(), ECMF_MARK="1")
    write_text(log_path(profile), "")
    with open(log_path(profile), "w", encoding="utf-8") as log:
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
        raise EcmfError(
            f"{profile} is being reproduced already{by}; wait for it or stop it"
        ) from None
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be written ({error.strerror or error})") from error
    try:
        write_text(holder, f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    for path in folder.rglob(".*.tmp"):
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            path.unlink(missing_ok=True)
