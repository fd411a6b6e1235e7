"""`ecmf reproduce`: Snakemake over the notebooks of a profile, with progress that can be read."""

from __future__ import annotations

import json
import os
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

from . import notebook, params, pipeline, runner, shards, workers
from .follower import Follower, log_path
from .pages import duration
from .paths import ROOT, EcmfError, data_dir, read_json, reports_dir, show, write_text

SNAKEFILE = ROOT / "workflow" / "Snakefile"
CHECKSUM_BYTES = 200_000_000  # inputs up to this size count as changed by content, not by time
STOP_S = 15  # how long the runs get to end after Ctrl-C before they are killed
LONG_S = 60  # of a member of a study: worth telling how long the others will take
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
    from .index import build_index

    profile, sets = params.prepare(profile, sets)
    if members := params.load_profile(profile)["members"]:
        failed = [member for member in _in_turn(profile, members) if _failed(member, sets, cores, dry_run)]
        if not dry_run:
            print(f"Report: {show(build_index(profile))}")
        return 1 if failed else 0
    params.check_sets(sets, pipeline.order(profile))
    shards.counts(profile, sets, pipeline.order(profile))  # a number that cannot be is refused at once
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
    start = params.START
    settings = params.resolve(start, profile, params.sets_for(start, sets))
    changed = outdated(profile, sets, [start])
    there = all(path.exists() for path in pipeline.writes(start, profile))
    if settings.get("kind", params.GENERATED) == params.GENERATED or (there and not changed):
        return 0
    page = str(pipeline.html_path(start, profile))
    return _snakemake(profile, sets, changed, cores, False, follower, page)


def outdated(profile: str, sets: Sequence[str], order: Sequence[str]) -> list[str]:
    """Runs last started with other parameters or code than now, or that did not end well.

    A run is a notebook, or one of its shards (`22_extract_scene--01-of-04`). Snakemake remembers only
    what it ran itself; this also sees runs by hand.
    """
    found = []
    for nb in order:
        now = params.resolve(nb, profile, params.sets_for(nb, sets))
        keys = pipeline.shard_keys(now.get("n_shards", 1))
        if len(keys) == 1:
            found += [nb] if _is_outdated(nb, profile, now) else []
            continue
        made = notebook.made_path(nb, profile)
        replaced = made.exists() and not _same(read_json(made)["parameters"] | {"shard": 0}, now)
        for shard, key in enumerate(keys):  # after a run of another kind, all of them again
            if replaced or _is_outdated(nb, profile, now | {"shard": shard}, key):
                found.append(nb + key)
    return found


def _is_outdated(nb: str, profile: str, now: dict[str, Any], key: str = "") -> bool:
    made, record = notebook.made_path(nb, profile, key), pipeline.run_dir(nb, profile, key) / "run.json"
    last = read_json(made) if made.exists() else None
    if last and not (_same(last["parameters"], now) and last["fingerprint"] == notebook.fingerprint(nb)):
        return True
    return record.exists() and read_json(record)["status"] != "ok"


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sets of parameters give the same outputs."""
    return _decisive(one) == _decisive(other)


def _decisive(values: dict[str, Any]) -> str:
    kept = {name: value for name, value in values.items() if name not in notebook.EXECUTION}
    return json.dumps(kept, sort_keys=True)


def _index_is_old(profile: str) -> bool:
    index = reports_dir(profile) / "index.html"
    runs = (reports_dir(profile) / "runs").glob("*/run.json")
    return not index.exists() or any(r.stat().st_mtime > index.stat().st_mtime for r in runs)


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
    force = ["--forcerun", *(_target(name, profile) for name in changed)] if changed else []
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


def _target(name: str, profile: str) -> str:
    """What Snakemake calls a run: a notebook has a rule of its own, a shard only its page."""
    nb, dashes, key = name.partition("--")
    return str(pipeline.html_path(nb, profile, dashes + key)) if key else f"nb_{nb}"


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
