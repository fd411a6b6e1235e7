import os
import random
import subprocess
import sys

import pytest

from ecmf_utils import code, notebook
from ecmf_utils.files import EcmfError, read_json
from ecmf_utils.notebook import reruns
from tests.small_notebooks import edit, make_pipeline

DEFAULTS = {
    "profile": "tiny", "seed": 0, "labels": ["sad", "happy"], "branches": ["text"], "source": "",
    "mode": "fine",
}  # fmt: skip


@pytest.fixture
def notebooks(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    monkeypatch.delenv("ECMF_BATCH", raising=False)
    return folder


def start(name="00_start_here", **values):
    scope = {**DEFAULTS, **values}
    return notebook.start(name, scope), scope


def test_start_says_one_line_and_seeds(notebooks, capsys):
    start(seed=5)
    first = random.random()
    assert capsys.readouterr().out == "00_start_here · profile tiny · seed 5 · cpu\n"
    start(seed=5)
    assert random.random() == first


def test_start_returns_and_sets_values_of_the_declared_type(notebooks):
    run, scope = start(labels=("a", "b"))
    assert run.labels == scope["labels"] == ["a", "b"]


def test_start_refuses_a_wrong_type_by_hand_too(notebooks):
    with pytest.raises(EcmfError, match="parameter seed is int"):
        start(seed="many")


def test_by_hand_the_profile_fills_what_was_left_at_its_default(notebooks):
    assert start(profile="words")[0].seed == 1
    assert start(profile="words", seed=9)[0].seed == 9


def test_in_batch_the_given_values_stand(notebooks, monkeypatch):
    monkeypatch.setenv("ECMF_BATCH", "1")
    assert start(profile="words")[0].seed == 0


def test_start_notes_with_what_it_ran(notebooks):
    start(seed=3)
    made = read_json(reruns.start_note_path("00_start_here", "tiny"))
    assert made["parameters"]["seed"] == 3
    assert made["fingerprint"] == reruns.fingerprint("00")


def test_missing_input_names_the_command(notebooks):
    with pytest.raises(EcmfError, match="run `ecmf run 00_start_here --profile words`"):
        start("24_extract_text", profile="words")


def test_tiny_builds_what_comes_before(notebooks, home):
    start("24_extract_text")
    assert (home / "data" / "tiny" / "clips.parquet").exists()


def test_failure_of_what_comes_before_is_one_line(notebooks):
    edit(notebooks, "00_start_here", 'mode: str = \\"fine\\"', 'mode: str = \\"mend\\"')
    with pytest.raises(EcmfError) as error:
        start("24_extract_text")
    assert "24_extract_text needs 00_start_here, which failed" in str(error.value)
    assert "clips.csv, row 3: no such label" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_notebooks_opened_side_by_side_do_not_collide(notebooks, home):
    names = ["22_extract_scene", "24_extract_text", "10_explore_corpus"]
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    env = {**os.environ, "PYTHONPATH": str(code.PARENT)}
    started = [
        subprocess.Popen([*command, f"{name}.ipynb", "--output-dir", home], cwd=notebooks, env=env) for name in names
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert [path.name for path in (home / "reports" / "tiny").glob("*.html")] == ["00_start_here.html"]


def test_a_mendable_mistake_shows_as_one_line(notebooks):
    (line,) = EcmfError("row 3: no label")._render_traceback_()
    assert "row 3: no label" in line
