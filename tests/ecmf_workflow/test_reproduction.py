import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecmf_utils.files import ROOT, EcmfError, read_json, write_json
from ecmf_utils.notebook import reruns, steps
from ecmf_workflow import reproduction
from ecmf_workflow.reproduction import Follower
from tests.small_notebooks import edit, make_pipeline

SMALL = ["00_start_here", "10_explore_corpus", "24_extract_text"]  # what profile `words` runs
COMMAND = [sys.executable, "-m", "ecmf_workflow.cli", "reproduce"]
KILLS = 5
BEGUN = [
    "nb_00_start_here        1",
    "nb_24_extract_text      1",
    "total   2",
    '::ecmf {"notebook": "00_start_here", "event": "start"}',
]  # what a follower reads until the first notebook is under way


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Profile `words`, reproduced once."""
    home = tmp_path_factory.mktemp("home")
    make_pipeline(home / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NOTEBOOKS", "DATA", "REPORTS"):
            patch.setenv(f"ECMF_{name}", str(home / name.lower()))
        assert reproduction.reproduce("words", cores=2) == 0
        yield home


def planned(capsys, *sets, profile="words"):
    """The notebooks that would run."""
    capsys.readouterr()
    reproduction.reproduce(profile, sets, dry_run=True)
    return sorted(line for line in capsys.readouterr().out.split() if line in steps.STEPS)


def test_all_notebooks_leave_pages_and_the_index(finished):
    pages = {path.stem for path in (finished / "reports" / "words").glob("*.html")}
    assert pages == {*SMALL, "index"}
    assert (finished / "reports" / "words" / "results.json").exists()


def test_second_call_does_nothing(finished, capsys):
    began = time.monotonic()
    assert reproduction.reproduce("words") == 0
    told = capsys.readouterr().out
    assert "nothing to do" in told
    assert "Report: " in told
    assert time.monotonic() - began < 20


def test_touching_notebooks_or_their_text_reruns_nothing(finished, capsys):
    for path in (finished / "notebooks").glob("*.ipynb"):
        os.utime(path)
    edit(finished / "notebooks", SMALL[2], "# 24_extract_text", "# Words")
    edit(finished / "notebooks", SMALL[2], '"execution_count": null', '"execution_count": 3')
    assert planned(capsys) == []


def test_rewriting_an_input_with_the_same_content_reruns_nothing(finished, capsys):
    for path in (finished / "data" / "words").glob("*.parquet"):
        path.write_bytes(path.read_bytes())
    assert planned(capsys) == []


def test_a_deleted_output_is_made_again_even_where_nothing_needs_it(finished, capsys):
    path = finished / "data" / "words" / "features" / "text" / "selected.json"
    kept = path.read_bytes()
    path.unlink()
    assert planned(capsys) == [SMALL[2]]
    path.write_bytes(kept)
    assert planned(capsys) == []


def test_a_parameter_reruns_only_its_notebook_and_what_needs_it(finished, capsys):
    assert planned(capsys, "24.seed=5") == SMALL[2:]
    assert planned(capsys, "00.seed=5") == SMALL


def test_code_reruns_only_its_notebook(finished, capsys):
    edit(finished / "notebooks", SMALL[1], "time.sleep(120)", "time.sleep(119)")
    assert planned(capsys) == SMALL[1:2]
    edit(finished / "notebooks", SMALL[1], "time.sleep(119)", "time.sleep(120)")
    assert planned(capsys) == []


def test_a_run_by_hand_with_other_parameters_is_not_taken_for_the_profiles(finished, capsys):
    path = reruns.start_note_path(SMALL[2], "words")
    made = read_json(path)
    write_json(path, made | {"parameters": made["parameters"] | {"seed": 9}})
    assert planned(capsys) == SMALL[2:]
    write_json(path, made)
    assert planned(capsys) == []


def test_failure_stops_only_what_needs_it_and_keeps_the_rest(finished, capsys):
    old = (finished / "reports" / "words" / f"{SMALL[2]}.html").read_bytes()
    assert reproduction.reproduce("words", ["24.mode=raise", "10.seed=4"]) == 1
    told = capsys.readouterr()
    assert "24_extract_text … FAILED after" in told.out
    assert "24_extract_text: ValueError: a = b" in told.out
    assert "10_explore_corpus … " in told.out
    assert "Failed: 24_extract_text" in told.err
    assert (finished / "reports" / "words" / f"{SMALL[2]}.html").read_bytes() == old
    assert (finished / "data/words/features/text/selected.json").exists()
    assert planned(capsys) == SMALL[1:]


def test_plan_of_a_fresh_profile_is_its_order(notebooks, capsys):
    assert planned(capsys, profile="tiny") == steps.plan_notebooks("tiny")


def test_second_reproduce_at_the_same_time_is_refused_with_the_pid(notebooks):
    with reproduction._only_one("words"):
        with pytest.raises(EcmfError, match=f"already by process {os.getpid()}"):
            reproduction.reproduce("words", dry_run=True)


def test_members_run_one_after_the_other(notebooks, monkeypatch, capsys):
    from ecmf_workflow.pages import index

    indexed = []
    monkeypatch.setattr(reproduction, "_snakemake", lambda profile, *_: profile == "words")
    monkeypatch.setattr(index, "build_index", lambda *words: indexed.append(words[0]) or Path("x"))
    assert reproduction.reproduce("both") == 1
    assert indexed == ["words", "more", "both"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("both: ")] == [
        "both: 2 corpora in turn; 51_compare_runs of each tells how long it will take",
        "both: words, 1 of 2",
        "both: more, 2 of 2",
    ]


def test_a_member_that_is_refused_does_not_keep_the_others_from_running(notebooks, monkeypatch, capsys):
    from ecmf_workflow.pages import index

    ran = []
    monkeypatch.setattr(reproduction, "_snakemake", lambda profile, *_: ran.append(profile) or 0)
    monkeypatch.setattr(index, "build_index", lambda *words: Path(words[0]))
    with reproduction._only_one("words"):
        assert reproduction.reproduce("both") == 1
    told = capsys.readouterr()
    assert ran == ["more"] and "Report: both" in told.out
    assert f"words: words is being reproduced already by process {os.getpid()}" in told.err


def test_a_study_tells_how_long_its_other_members_will_take(monkeypatch, capsys):
    times = iter([0.0, 7200.0, 7200.0, 7201.0, 7201.0, 7209.0])
    with monkeypatch.context() as during:
        during.setattr(reproduction.time, "monotonic", lambda: next(times))
        assert list(reproduction._in_turn("study", ["a", "b", "c"])) == ["a", "b", "c"]
    condition = "to go if each takes as long as the longest so far"
    first = "study: 3 corpora in turn; 51_compare_runs of each tells how long it will take"
    told = [first, "study: a, 1 of 3", f"study: b, 2 of 3; 4.0 h {condition}", f"study: c, 3 of 3; 2.0 h {condition}"]
    assert capsys.readouterr().out.splitlines() == told


def test_follower_counts_and_names_what_is_left(notebooks, capsys):
    follower = Follower("words")
    for line in [
        *BEGUN,
        "ecmf: clips.csv is missing",
        "Error in rule nb_00_start_here:",
        "    log: /r/words/runs/00_start_here/executed.ipynb (check log file(s) for error details)",
    ]:
        follower.read(line)
    assert follower.tell_end(1) == 1
    told = capsys.readouterr()
    assert "words: 2 of 3 notebooks to run" in told.out
    assert "[1/2] 00_start_here … KILLED after 0 s\n    clips.csv is missing" in told.out
    assert "not run because of it: 24_extract_text" in told.err


def test_follower_tells_how_far_a_long_run_is(notebooks, capsys, monkeypatch):
    monkeypatch.setattr("ecmf_workflow.reproduction.PROGRESS_S", 0.0)
    follower = Follower("words")
    for line in [
        *BEGUN,
        "WorkflowError: why it stopped",
        "compare:  12% of 93 min of one core [10:00<1:13:20]",
        "audio:  50% 2/4 [00:20<00:20, 10.0s/it, 83% in the model]",
    ]:
        follower.read(line)
    told = capsys.readouterr().out.splitlines()
    assert told[1:] == [
        "        00_start_here … compare:  12% of 93 min of one core [10:00<1:13:20]",
        "        00_start_here … audio:  50% 2/4 [00:20<00:20, 10.0s/it, 83% in the model]",
    ]
    monkeypatch.setattr("ecmf_workflow.reproduction.PROGRESS_S", 60.0)
    follower.read("audio:  75% 3/4 [00:30<00:10, 10.0s/it]")
    assert not capsys.readouterr().out
    assert follower.tell_end(1) == 1 and "why it stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "torn", ['::ecmf {"notebook": "00_start_here", "ev::ecmf {"note', "::ecmf 5", '::ecmf {"notebook": "x", "odd": 1}']
)
def test_a_line_that_two_runs_wrote_at_once_ends_nothing(notebooks, capsys, torn):
    follower = Follower("words")
    for line in [*BEGUN, torn, '::ecmf {"notebook": "00_start_here", "event": "end", "status": "ok", "seconds": 2}']:
        follower.read(line)
    assert follower.done == ["00_start_here"] and "[1/2] 00_start_here … 2 s" in capsys.readouterr().out


def test_leftovers_of_killed_runs_are_swept_but_not_those_at_work(tmp_path):
    old, new = tmp_path / ".a.1.tmp", tmp_path / ".b.2.tmp"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    (tmp_path / ".c.3.tmp").symlink_to("gone")  # renamed meanwhile
    reproduction._sweep(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_everything_and_the_next_call_goes_on(notebooks, home, number):
    process = subprocess.Popen([*COMMAND, "words", "--set", "24.mode=sleep"], cwd=ROOT)
    record = home / "reports" / "words" / "runs" / SMALL[2] / "run.json"
    while not record.exists():
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert read_json(record)["status"] == "interrupted"
    assert reproduction.reproduce("words") == 0


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_scores(home):
    undisturbed, killed = home / "undisturbed", home / "killed"
    assert subprocess.run([*COMMAND, "tiny"], cwd=ROOT, env=_env(undisturbed)).returncode == 0
    moments = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen([*COMMAND, "tiny"], cwd=ROOT, env=_env(killed))
        time.sleep(moments.uniform(3, 25))
        process.kill()
        process.wait()
    assert subprocess.run([*COMMAND, "tiny"], cwd=ROOT, env=_env(killed)).returncode == 0
    scores = [read_json(folder / "tiny" / "results.json")["scores"] for folder in (undisturbed, killed)]
    assert scores[0] == scores[1] != []


def _env(reports):
    return {**os.environ, "ECMF_REPORTS": str(reports), "ECMF_DATA": str(reports / "data")}
