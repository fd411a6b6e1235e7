"""kill -9 at random moments of an extraction: the same files in the end, no process left, little done twice."""

import os
import random
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from functools import partial

import pandas as pd
import psutil
import pytest

from ecmf_bench import untrained
from ecmf_utils import corpus, encoders, features, files, parallel
from ecmf_utils.features import extraction
from ecmf_utils.files import ROOT
from ecmf_workflow import cli

KILLS = 10
PART = 4
COPIES = 4  # of the 24 clips of `tiny`, so that no run is done before it is killed
SLOW_S = 0.1  # that reading and encoding a clip take longer
WORKERS, CHUNK = 2, 2
AT_WORK = {"model": 0, "light": (WORKERS * parallel.AHEAD + 1) * CHUNK}  # clips that worker processes encode ahead
MARK = "ECMF_TEST_MARK"


def slowly(row, log):
    """The real reader; notes the clip and takes its time."""
    note(log, "read", row["clip_id"])
    time.sleep(SLOW_S)
    return features.read_audio(row)


def note(log, *words):
    with open(log, "a") as file:
        file.write(" ".join([os.environ.get(MARK, "-"), *words]) + "\n")


def many():
    """The clips of `tiny`, several times under other names."""
    clips = corpus.read_clips("tiny")
    return pd.concat([clips.assign(clip_id=clips["clip_id"] + f"-{i}") for i in range(COPIES)], ignore_index=True)


def extract(profile, kind, log):
    """What the processes do that are killed: worker processes read, and encode where the encoder is light."""
    extraction.FEW_CLIPS = 0  # so that they start
    encoder = replace(encoders.load("classical", "audio"), portable=kind == "light")
    encode = extraction.encode_batch

    def noted(batch, *more):
        for outcome in encode(batch, *more):
            note(log, "encoded", outcome["clip_id"])
            time.sleep(SLOW_S)
            yield outcome

    extraction.encode_batch = noted
    reader = partial(slowly, log=log)
    features.extract(profile, "audio", many(), encoder, reader, part=PART, n_workers=WORKERS)


def start(profile, kind, log):
    code = f"from tests.features.test_kill_extraction import extract; extract({profile!r}, {kind!r}, {str(log)!r})"
    mark = uuid.uuid4().hex
    return mark, subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, MARK: mark})


def lines(log, mark, word):
    found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [clip_id for one, what, clip_id in found if (one, what) == (mark, word)]


def marked(mark):
    """Processes that carry a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and parallel.is_alive(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.02)


def files_of(profile):
    """Content of everything that an extraction leaves; nothing else may lie there."""
    place = files.data_dir(profile) / "features"
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The corpus of the profile, made once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "REPORTS"):
            patch.setenv(f"ECMF_{name}", str(home / name.lower()))
        assert cli.main(["corpus", "tiny"]) == 0
        yield home


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(AT_WORK))
def test_killed_ten_times_it_ends_with_the_same_files_and_loses_a_part_at_most(kind, tiny):
    killed, whole, log, calm = f"killed-{kind}", f"whole-{kind}", tiny / f"{kind}.log", tiny / f"{kind}-whole.log"
    word = "read" if kind == "light" else "encoded"
    marks, moments = [], random.Random(0)
    for number in range(KILLS):
        mark, process = start(killed, kind, log)
        marks.append(mark)
        if number % 4:  # else anywhere, also before the first clip
            wait_until(lambda mark=mark: lines(log, mark, word), 60)
        time.sleep(moments.uniform(0, 1 if number % 4 else 3))
        assert process.poll() is None
        process.kill()
        process.wait()
        wait_until(lambda mark=mark: not marked(mark), 5)
    for profile, place in ((killed, log), (whole, calm)):
        mark, process = start(profile, kind, place)
        assert process.wait(120) == 0 and not marked(mark)
        marks.append(mark)
    assert files_of(killed) == files_of(whole)
    assert sorted(lines(calm, marks.pop(), word)) == sorted(many()["clip_id"])
    seen = set()
    for mark in marks:
        done = lines(log, mark, word)
        assert len(seen.intersection(done)) <= PART + AT_WORK[kind]
        seen.update(done)
    assert len(done) < len(seen) - 2 * PART  # the last run found most of it done


@pytest.mark.slow
def test_a_notebook_killed_in_the_middle_leaves_no_process_and_ends_as_if_it_were_not(tiny):
    name = untrained.save("vit", tiny / "model")
    command = [sys.executable, "-m", "ecmf_workflow.cli", "run", "22", "--profile", "tiny", "--set", f"encoder={name}"]

    def run(mark):
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert run("whole").wait(120) == 0
    took, whole = time.monotonic() - began, files_of("tiny")
    for path in (files.data_dir("tiny") / "features").rglob("*.*"):
        path.unlink()
    for mark, share in {"early": 0.5, "late": 0.8}.items():
        process = run(mark)
        time.sleep(share * took)
        process.kill()
        process.wait()
        wait_until(lambda mark=mark: not marked(mark), 20)
    assert run("last").wait(120) == 0
    assert files_of("tiny") == whole != {}
