"""What a person sees of long work: a bar on a terminal, whole lines in a log, nothing in a notebook."""

import os
import time

import pytest

from ecmf_utils import progress


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A log file in the place of the runner's stderr; returns what is in it."""
    path = tmp_path / "log"
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with open(path, "w") as file:
        monkeypatch.setenv("ECMF_LOG_FD", str(file.fileno()))
        yield path.read_text


def test_a_log_gets_whole_lines_with_rate_and_note(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    assert list(progress.track(iter("abcd"), 4, "audio", lambda: "83% in the model")) == list("abcd")
    lines = log().splitlines()
    assert len(lines) == 4 and "\r" not in log()
    assert lines[1].startswith("audio:  50%") and "2/4" in lines[1] and lines[1].endswith("83% in the model]")
    assert "/s" in lines[1] and "<" in lines[1]  # clips a second, and the time that is left


def test_short_work_leaves_no_line(log):
    assert list(progress.track([1, 2], what="text")) == [1, 2]
    assert log() == ""


def test_a_loop_within_a_loop_is_silent(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    for _ in progress.track([1, 2], what="outer"):
        list(progress.track([3, 4], what="inner"))
    assert "outer" in log() and "inner" not in log()


def test_a_loop_that_was_left_early_does_not_silence_the_next(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    next(first := progress.track([1, 2], what="first"))
    first.close()
    list(progress.track([1, 2], what="second"))
    assert "second" in log()


def test_it_can_be_switched_off(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(progress.track([1, 2])) == [1, 2] and log() == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    master, slave = os.openpty()
    monkeypatch.setenv("ECMF_LOG_FD", str(slave))
    list(progress.track([1, 2], what="scene", note=lambda: "half"))
    assert b"scene:" in os.read(master, 4096)


def test_work_elsewhere_is_told_in_its_own_units(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.01)
    seen = iter(range(1000))
    with progress.watch(lambda: (min(next(seen), 3), 4.0), "compare", "min of one core"):
        assert list(progress.track([1, 2], what="inner")) == [1, 2]
        while log().count("\n") < 4:
            time.sleep(0.01)
    lines = log().splitlines()
    assert all(progress.LINE.match(line) for line in lines) and "inner" not in log()
    assert lines[0].startswith("compare:   0% of 4 min of one core [00:00<")
    assert lines[3].startswith("compare:  75% of 4 min")
    count = len(lines)
    time.sleep(0.05)
    assert len(log().splitlines()) == count  # it ends with the work


def test_work_elsewhere_has_a_line_of_a_terminal_that_goes_when_it_is_done(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(progress, "LIVE_INTERVAL_S", 0.01)
    master, slave = os.openpty()
    monkeypatch.setenv("ECMF_LOG_FD", str(slave))
    with progress.watch(lambda: (1.0, 4.0), "compare", "min"):
        assert b"compare:  25% of 4 min" in os.read(master, 4096)
    assert os.read(master, 65536).endswith(progress.NEW_LINE.encode())


def test_the_share_of_a_kind_of_work():
    meter = progress.Meter()
    assert meter.timed(lambda: time.sleep(0.05) or 7) == 7
    time.sleep(0.05)
    assert 0.2 < meter.share() < 0.8
