"""The anatomy of a notebook, as docs/notebooks.md tells it."""

import ast
import json
import re
from pathlib import Path

import pytest

from ecmf_utils.notebook import parameters, steps

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
PLOTTING = re.compile(r"%pip|^\s*!|(?:['\"])(?:/|\.\./|~/)\w", re.M)


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def path(request):
    return request.param


def test_every_step_of_the_pipeline_is_a_notebook_and_the_other_way_round():
    assert {p.stem for p in NOTEBOOKS} == set(steps.STEPS)


def test_it_opens_with_a_verb_and_says_what_it_reads_writes_and_takes(path):
    first = source(load(path)[0])
    assert first.startswith("# ") and "| Reads | Writes | About |" in first


def test_parameters_are_typed_literals_with_a_remark_and_at_most_twenty(path):
    cell = load(path)[1]
    assert tags(cell) == ["parameters"]
    statements = ast.parse(source(cell)).body
    assert all(isinstance(s, ast.AnnAssign) for s in statements) and len(statements) <= 20
    assert all(p.remark for p in parameters.read_parameters(path.stem).values())


def test_the_profile_is_tiny_by_default(path):
    declared = parameters.read_parameters(path.stem)
    assert declared["profile"].default == "tiny" and "seed" in declared


def test_it_starts_with_the_start_call_of_its_own_name(path):
    assert f'run = notebook.start("{path.stem}", globals())' in source(load(path)[2])


def test_it_ends_with_assertions_that_no_page_shows(path):
    last = load(path)[-1]
    assert tags(last) == ["check", "remove-cell"] and "assert " in source(last)


def test_its_size_is_that_of_one_unit_of_work(path):
    code = [source(c) for c in load(path) if c["cell_type"] == "code"]
    lines = [len([line for line in c.splitlines() if line.strip()]) for c in code]
    headings = [c for c in load(path) if c["cell_type"] == "markdown" and "\n## " in "\n" + source(c)]
    assert 8 <= len(code) <= 25 and max(lines) <= 25 and sum(lines) <= 200
    assert 3 <= len(headings) <= 9
    assert path.stat().st_size <= 300_000


def test_functions_are_short_and_no_shell_or_absolute_path_is_used(path):
    for cell in load(path):
        if cell["cell_type"] == "code":
            assert not PLOTTING.search(source(cell)), source(cell)
            for node in ast.walk(ast.parse(source(cell))):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 7


def test_it_is_committed_normalised_and_executed(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert all(set(c["metadata"]) <= {"tags"} for c in book["cells"])
    errors = [o for c in code for o in c["outputs"] if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not errors


def test_training_and_refinement_never_open_the_truth():
    """Only analysis cells may: each says so, and none of them writes anything."""
    for path in NOTEBOOKS:
        if path.stem[:2] in {"40", "50", "51", "52", "53"}:
            for cell in load(path):
                if cell["cell_type"] == "code" and "truth" in source(cell):
                    assert "write_" not in source(cell) and ".save" not in source(cell) and ".fit" not in source(cell)
