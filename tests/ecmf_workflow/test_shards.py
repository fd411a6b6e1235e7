"""One notebook in several shards: each a job, a page and a file; what is done is not done again."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from ecmf_utils import features
from ecmf_utils.files import ROOT, EcmfError, data_dir, read_json, reports_dir, write_json, write_text
from ecmf_utils.notebook import reruns, steps
from ecmf_workflow import reproduction, runner, shards
from ecmf_workflow.pages import index
from ecmf_workflow.pages.page import duration
from ecmf_workflow.reproduction import Follower
from tests.features.test_loading import clips_of, encoder
from tests.small_notebooks import PARAMETERS, make_notebook, make_pipeline

NB = "24_extract_text"
KEYS = ["--00-of-03", "--01-of-03", "--02-of-03"]
SPLIT = ["24.n_shards=3"]
EXTRACT = """
from tests.features.test_loading import clips_of, encoder
from ecmf_utils import features
features.extract(profile, "text", clips_of(20), encoder(), features.read_text, shard=shard, n_shards=n_shards)
"""


def make(folder):
    """The small pipeline, whose text notebook really extracts and can be split."""
    start = f"from ecmf_utils import files as paths, notebook\nrun = notebook.start({NB!r}, globals())"
    declared = PARAMETERS + "shard: int = 0  # this run's part\nn_shards: int = 1  # out of so many\n"
    make_pipeline(folder)
    make_notebook(folder, NB, start, EXTRACT, parameters=declared)
    return folder


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Profile `words`, reproduced with its text notebook in three shards."""
    home = tmp_path_factory.mktemp("home")
    make(home / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NOTEBOOKS", "DATA", "REPORTS"):
            patch.setenv(f"ECMF_{name}", str(home / name.lower()))
        assert reproduction.reproduce("words", SPLIT, cores=2) == 0
        yield home


def planned(capsys, *sets):
    """The lines of a dry run that name notebooks."""
    capsys.readouterr()
    reproduction.reproduce("words", sets, dry_run=True)
    return [line for line in capsys.readouterr().out.splitlines() if line[:2].isdigit()]


def file_of(shard):
    return data_dir("words") / "features/text/spell-last-mean/utterance" / f"{shard:03d}-of-003.arrow"


def run_page(key):
    return steps.html_path(NB, "words", key)


# ---- reproduce


def test_each_shard_leaves_a_page_a_record_a_note_and_a_file(split):
    for shard, key in enumerate(KEYS):
        record = read_json(steps.run_dir(NB, "words", key) / "run.json")
        assert (record["status"], record["parameters"]["shard"]) == ("ok", shard)
        assert run_page(key).exists() and file_of(shard).exists()
        note = read_json(steps.note_path(NB, "words", key))
        assert data_dir("words") / note["file"] == file_of(shard)
    assert not run_page("").exists()


def test_second_call_does_nothing(split, capsys):
    assert planned(capsys, *SPLIT) == []


def test_features_are_those_of_one_run(split):
    features.extract("whole", "text", clips_of(20), encoder(), features.read_text)
    whole = features.load("whole", ["text"])
    joined = features.load("words", ["text"], whole.clip_ids)
    assert np.array_equal(joined.x["text"], whole.x["text"])
    assert np.array_equal(joined.present["text"], whole.present["text"])


def test_only_the_shard_whose_file_is_gone_runs_again(split, capsys):
    file_of(1).unlink()
    assert planned(capsys, *SPLIT) == [f"{NB} (shards 01 of 03)"]
    before = [run_page(key).stat().st_mtime_ns for key in KEYS]
    assert reproduction.reproduce("words", SPLIT, cores=2) == 0
    told = capsys.readouterr().out
    assert "words: 1 of 3 notebooks to run" in told and f"[1/1] {NB}--01-of-03 …" in told
    after = [run_page(key).stat().st_mtime_ns for key in KEYS]
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True, False]
    assert file_of(1).exists() and planned(capsys, *SPLIT) == []


def test_only_the_shard_that_did_not_end_runs_again(split, capsys):
    path = steps.run_dir(NB, "words", KEYS[2]) / "run.json"
    record = read_json(path)
    write_json(path, record | {"status": "interrupted"})
    assert planned(capsys, *SPLIT) == [f"{NB} (shards 02 of 03)"]
    write_json(path, record)


def test_a_shard_run_by_hand_with_other_parameters_is_not_taken_for_the_profiles(split, capsys):
    path = reruns.start_note_path(NB, "words", KEYS[0])
    made = read_json(path)
    write_json(path, made | {"parameters": made["parameters"] | {"seed": 9}})
    assert planned(capsys, *SPLIT) == [f"{NB} (shards 00 of 03)"]
    write_json(path, made)


def test_a_run_in_one_piece_by_hand_makes_all_shards_run_again(split, capsys):
    path = reruns.start_note_path(NB, "words")
    made = read_json(path)
    write_json(path, made | {"parameters": made["parameters"] | {"n_shards": 1, "shard": 0}})
    assert planned(capsys, *SPLIT) == [f"{NB} (shards 00, 01, 02 of 03)"]
    write_json(path, made)


def test_a_parameter_reruns_every_shard(split, capsys):
    assert planned(capsys, *SPLIT, "24.seed=5") == [f"{NB} (shards 00, 01, 02 of 03)"]
    assert planned(capsys, "24.n_shards=2") == [f"{NB} (shards 00, 01 of 02)"]


def test_pages_lead_to_the_first_shard(split):
    text = steps.html_path("10_explore_corpus", "words").read_text()
    assert f'href="{NB}--00-of-03.html"' in text and f'href="{NB}.html"' not in text


def test_in_one_piece_again_the_rows_are_joined(split, capsys):  # the last one: it ends the shards
    assert planned(capsys) == [NB]
    assert reproduction.reproduce("words", cores=2) == 0
    assert "1 of 3 notebooks" in capsys.readouterr().out
    assert [path.name for path in file_of(0).parent.glob("*-of-*")] == ["000-of-001.arrow"]
    assert run_page("").exists() and not any(run_page(key).exists() for key in KEYS)
    assert [path.name for path in (reports_dir("words") / "runs").glob(f"{NB}*")] == [NB]
    assert f'href="{NB}.html"' in steps.html_path("10_explore_corpus", "words").read_text()
    assert planned(capsys) == []


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("n_shards=0", f"{NB}: n_shards=0: expected 1 to 64"),
        ("24.n_shards=65", f"{NB}: n_shards=65: expected 1 to 64"),
        ("n_shards=few", "parameter n_shards is int, which 'few' is not"),
        ("10.n_shards=2", "10_explore_corpus: unknown parameter 'n_shards'"),
        ("shard=1", "shard=1: expected 0 to n_shards - 1 = 0"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_before_anything_starts(notebooks, home, setting, line):
    with pytest.raises(EcmfError, match=re.escape(line)):
        reproduction.reproduce("words", [setting])
    assert not (home / "reports").exists()


def test_one_shard_alone_is_not_reproduced(notebooks):
    with pytest.raises(EcmfError, match="every shard is run, leave `shard` out; one alone: `ecmf run 24"):
        reproduction.reproduce("words", ["n_shards=3", "shard=1"])
    with pytest.raises(EcmfError, match="shard=3: expected 0 to n_shards - 1 = 2"):
        runner.run(NB, "tiny", ["n_shards=3", "shard=3"])


def test_what_needs_a_split_notebook_waits_for_all_its_shards(notebooks):
    wanted = {steps.note_path(NB, "tiny", key) for key in KEYS}
    assert wanted <= set(steps.list_inputs("40_refine_labels", "tiny", {NB: 3}))
    assert not wanted & set(steps.list_inputs("40_refine_labels", "tiny"))


# ---- names, notes, reports


def test_shards_have_keys_of_their_own():
    assert steps.make_run_key({"shard": 1, "n_shards": 4}) == "--01-of-04"
    assert steps.make_run_key({"shard": 0, "n_shards": 1}) == steps.make_run_key({}) == ""
    assert steps.make_shard_keys(3) == KEYS and steps.make_shard_keys(1) == [""]


def test_leftovers_of_another_number_of_shards_are_removed(home):
    kept = ["--00-of-02", "--from-demo"]
    for key in ["", *KEYS, *kept]:
        write_text(steps.html_path(NB, "p", key), "page")
        write_json(steps.run_dir(NB, "p", key) / "run.json", {})
        write_json(reruns.start_note_path(NB, "p", key), {})
    write_json(steps.note_path(NB, "p", KEYS[0]), {})
    shards.settle(NB, "p", 2)
    assert sorted(path.stem for path in reports_dir("p").glob("*.html")) == [NB + key for key in kept]
    assert sorted(path.name for path in (reports_dir("p") / "runs").iterdir()) == [NB + key for key in kept]
    made = sorted(path.name for path in (data_dir("p") / ".made").iterdir())
    assert made == sorted(f"{NB}{key}.json" for key in ["", *kept])


def record(key, **changes):
    run = {"notebook": NB, "status": "ok", "seconds": 60.0, "peak_memory_mb": 100.0, "inputs": {}}
    write_json(steps.run_dir(NB, "p", key) / "run.json", run | {"html": f"{NB}{key}.html"} | changes)
    write_text(steps.html_path(NB, "p", key), "page")


def test_the_index_has_one_entry_for_all_shards(home):
    for key in KEYS:
        record(key, seconds=60.0)
    page = index.build_index("p", [NB]).read_text()
    assert page.count(f'<br><span class="ok">ok</span> · 3 of 3 shards · {duration(180)} · 100 MB') == 1
    assert [link for link in re.findall(r'href="(2\d_[^"]+)"', page)] == [f"{NB}{key}.html" for key in KEYS]
    assert '<div class="big">1</div><small>notebooks run' in page
    assert len(read_json(reports_dir("p") / "results.json")["notebooks"]) == 3


def test_the_index_says_which_shards_are_missing_or_failed(home):
    record(KEYS[0])
    record(KEYS[2])
    assert '<span class="incomplete">incomplete</span> · 2 of 3 shards' in index.build_index("p").read_text()
    record(KEYS[1], status="failed", error="no\nmore")
    page = index.build_index("p").read_text()
    assert '<span class="failed">failed</span> · 3 of 3 shards' in page
    assert '<span class="failed">01</span>' in page and f"{NB}--01-of-03 failed: no" in page


def test_all_shards_are_stale_together_and_said_to_be_so_once(home):
    for key in KEYS:
        record(key, inputs={str(home / "gone.parquet"): "00"})
    assert index.build_index("p").read_text().count(f"{NB} is stale") == 1


def test_progress_names_shards_and_counts_them_as_runs(notebooks, capsys):
    follower = Follower("words")
    for line in [
        f"nb_{NB}      3",
        "total   4",
        '::ecmf {"notebook": "24_extract_text--00-of-03", "event": "end", "status": "ok", "seconds": 2}',
        f"Error in rule nb_{NB}:",
        f"    log: /r/words/runs/{NB}--02-of-03/executed.ipynb (check log file(s) for error details)",
    ]:
        follower.read(line)
    assert follower.tell_end(1) == 1
    told = capsys.readouterr()
    assert "words: 1 of 3 notebooks to run in 3 runs" in told.out
    assert f"[1/3] {NB}--00-of-03 … 2 s" in told.out
    assert f"[2/3] {NB}--02-of-03 … KILLED after 0 s" in told.out
    assert f"Failed: {NB}--02-of-03 (log:" in told.err


# ---- the real notebooks


@pytest.mark.slow
def test_tiny_in_shards_gives_the_same_features_and_scores(home):
    command = [sys.executable, "-m", "ecmf_workflow.cli", "reproduce", "tiny"]
    whole, parts = home / "whole", home / "parts"
    for folder, sets in ((whole, []), (parts, ["--set", "n_shards=3"])):
        env = os.environ | {"ECMF_DATA": str(folder / "data"), "ECMF_REPORTS": str(folder / "reports")}
        assert subprocess.run([*command, *sets], cwd=ROOT, env=env).returncode == 0
    again = subprocess.run([*command, "--set", "n_shards=3"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert "nothing to do" in again.stdout
    found = []
    for folder in (whole, parts):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ECMF_DATA", str(folder / "data"))
            ids = None if folder == whole else found[0].clip_ids
            found.append(features.load("tiny", ["face", "scene", "audio", "text"], ids))
    for branch, vectors in found[0].x.items():
        assert np.array_equal(vectors, found[1].x[branch]), branch
    scores = [read_json(folder / "reports" / "tiny" / "results.json")["scores"] for folder in (whole, parts)]
    assert scores[0] == scores[1] != []
