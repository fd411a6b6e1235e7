import os
import random
import subprocess
import sys

import pytest

from ecmf_utils import notebook
from ecmf_utils.paths import EcmfError, read_json

from .small_notebooks import edit, make_notebook, make_pipeline

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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules in place of the real one: a imports b, and c stands alone."""
    folder = tmp_path / "package"
    (folder / "resources").mkdir(parents=True)
    (folder / "a.py").write_text("def f():\n    from .b import g\n    return g\n")
    (folder / "b.py").write_text("from .paths import resource\ng = resource('list.txt')\n")
    (folder / "c.py").write_text("h = 1\n")
    (folder / "paths.py").write_text("resource = print\n")
    (folder / "resources" / "list.txt").write_text("one\n")
    monkeypatch.setattr(notebook, "PACKAGE", folder)
    notebook._module.cache_clear()
    yield folder
    notebook._module.cache_clear()


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
    made = read_json(notebook.made_path("00_start_here", "tiny"))
    assert made["parameters"]["seed"] == 3
    assert made["fingerprint"] == notebook.fingerprint("00")


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
    env = {**os.environ, "PYTHONPATH": str(notebook.PACKAGE.parent)}
    started = [
        subprocess.Popen([*command, f"{name}.ipynb", "--output-dir", home], cwd=notebooks, env=env)
        for name in names
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert [path.name for path in (home / "reports" / "tiny").glob("*.html")] == [
        "00_start_here.html"
    ]


def test_a_mendable_mistake_shows_as_one_line(notebooks):
    (line,) = EcmfError("row 3: no label")._render_traceback_()
    assert "row 3: no label" in line


def test_fingerprint_ignores_all_but_code(notebooks):
    before = notebook.fingerprint("24")
    edit(notebooks, "24_extract_text", "# 24_extract_text", "# Words")
    edit(notebooks, "24_extract_text", '"execution_count": null', '"execution_count": 7')
    edit(notebooks, "24_extract_text", "import os, time", "import os,  time  # why")
    assert notebook.fingerprint("24") == before
    edit(notebooks, "24_extract_text", "time.sleep(120)", "time.sleep(121)")
    assert notebook.fingerprint("24") != before


def test_fingerprint_follows_imports_of_imports(notebooks, package):
    make_notebook(notebooks, "11_more", "from ecmf_utils import a")
    make_notebook(notebooks, "12_else", "import ecmf_utils.c as c")
    before = notebook.fingerprint("11"), notebook.fingerprint("12")
    (package / "b.py").write_text("g = 2\n")
    notebook._module.cache_clear()
    assert notebook.fingerprint("11") != before[0]
    assert notebook.fingerprint("12") == before[1]


@pytest.mark.parametrize("name", ["00_start_here", "22_extract_scene"])
def test_how_the_index_page_looks_decides_nothing_that_a_notebook_computes(name, monkeypatch):
    followed, module = [], notebook._module
    monkeypatch.setattr(notebook, "_module", lambda one: followed.append(one) or module(one))
    notebook.fingerprint(name)
    assert not {"index", "results", "scoreboard"} & set(followed) and "report" in followed


def test_fingerprint_covers_resources_but_not_the_machinery(notebooks, package):
    make_notebook(notebooks, "11_more", "from ecmf_utils.a import f")
    before = notebook.fingerprint("11")
    (package / "paths.py").write_text("resource = len\n")
    notebook._module.cache_clear()
    assert notebook.fingerprint("11") == before
    (package / "resources" / "list.txt").write_text("two\n")
    notebook._module.cache_clear()
    assert notebook.fingerprint("11") != before
