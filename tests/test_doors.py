"""Notebooks enter the shared code through the doors of the rooms, and every name they use is explained."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ROOMS = sorted(stub.parent.name for stub in (ROOT / "ecmf_utils").glob("*/__init__.pyi"))
PACKAGES = {"ecmf_utils", "ecmf_workflow", "ecmf_demo", "ecmf_bench"}
BENCHMARK = "90_benchmark"
MOST_NAMES = 100
DODGES = {"importlib", "__import__", "getattr", "exec", "eval", "runpy", "sys"}  # ways past a door
EMPTY_WORDS = {"one", "told", "known", "found"}  # names that do not say what a variable holds
SECTION = re.compile(r"^Parameters\n-{10}\n(.*?)(?=\n\n\w+\n-{3,}\n|\Z)", re.S | re.M)


def tree_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


def door(module):
    return set(importlib.import_module(module).__all__)


def used_names(tree, notebook):
    """(door, name) of everything that a notebook takes from our packages.

    Raises
    ------
    AssertionError
        It imports anything else of ours, takes a name that a door does not list, or goes round a door.
    """
    doors, names = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.split(".")[0]
                assert package not in DODGES, f"{notebook} imports {package}"
                if package in PACKAGES:
                    assert (alias.name, notebook) == ("ecmf_bench", BENCHMARK), f"{notebook} imports {alias.name}"
                    assert alias.asname is None, f"{notebook}: a door has one name, not {alias.asname}"
                    doors["ecmf_bench"] = "ecmf_bench"
        elif isinstance(node, ast.ImportFrom):
            package, _, room = (node.module or "").partition(".")
            assert not node.level and package not in DODGES, f"{notebook} imports from {node.module}"
            for alias in node.names if package in PACKAGES else ():
                assert package == "ecmf_utils", f"{notebook} imports from {node.module}"
                assert alias.asname is None, f"{notebook}: {alias.name} has one name, not {alias.asname}"
                if not room:
                    assert alias.name in ROOMS, f"{notebook}: {alias.name} is no room of ecmf_utils"
                    doors[alias.name] = f"ecmf_utils.{alias.name}"
                else:
                    assert room in ROOMS, f"{notebook}: {room} is no room of ecmf_utils"
                    names.add((f"ecmf_utils.{room}", alias.name))
    entered = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in doors:
            names.add((doors[node.value.id], node.attr))
            entered.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            assert node.id not in DODGES, f"{notebook} calls {node.id}"
            assert node.id not in doors or id(node) in entered, f"{notebook} hands on or replaces {node.id}"
    for module, name in names:
        assert name in door(module), f"{notebook}: {name} is not in the door of {module}"
    return names


ALL_NAMES = sorted({pair for path in NOTEBOOKS for pair in used_names(tree_of(path), path.stem)})


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_a_notebook_uses_only_what_the_doors_list(path):
    assert used_names(tree_of(path), path.stem)


@pytest.mark.parametrize(
    "source",
    [
        "from ecmf_utils import files",
        "from ecmf_utils import metrics",
        "from ecmf_utils import corpus as c",
        "from ecmf_utils.corpus import manifest",
        "from ecmf_utils.corpus.manifest import read_clips",
        "from ecmf_utils.corpus import read_clips as read",
        "from ecmf_utils import corpus\ncorpus.manifest.read_clips('tiny')",
        "from ecmf_utils import corpus\nread = corpus",
        "from ecmf_utils import corpus\ncorpus = 1",
        "from ecmf_utils import corpus\ngetattr(corpus, 'manifest')",
        "import ecmf_utils",
        "import ecmf_utils.corpus.manifest as manifest",
        "import importlib",
        "import ecmf_bench",
        "from ecmf_workflow import cli",
        "from ecmf_bench import protocols",
    ],
)
def test_every_other_way_in_is_refused(source):
    with pytest.raises(AssertionError):
        used_names(ast.parse(source), "10_explore_corpus")


def test_the_benchmark_has_a_door_of_its_own():
    assert used_names(ast.parse("import ecmf_bench\necmf_bench.time_calls(print, 1)"), BENCHMARK)
    with pytest.raises(AssertionError, match="in_turns is not in the door of ecmf_bench"):
        used_names(ast.parse("import ecmf_bench\necmf_bench.in_turns(print, print, 1)"), BENCHMARK)


def test_variables_say_what_they_hold(path):
    assigned = {
        node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert not assigned & EMPTY_WORDS


def test_the_doors_are_few_enough_to_know():
    assert len([name for module, name in ALL_NAMES if module.startswith("ecmf_utils")]) <= MOST_NAMES


@pytest.mark.parametrize(("module", "name"), ALL_NAMES, ids=[".".join(pair) for pair in ALL_NAMES])
def test_every_name_is_explained(module, name):
    """A docstring, with a line for every parameter; a constant has a comment where it is defined."""
    thing = getattr(importlib.import_module(module), name)
    if not callable(thing):
        definitions = [line for path in ROOT.joinpath(*module.split(".")).glob("*.py") for line in lines_of(path, name)]
        assert definitions and all("#" in line for line in definitions)
        return
    text = inspect.getdoc(thing)
    assert text and text[0].isupper()
    if inspect.isclass(thing):
        return
    section = SECTION.search(text)
    parameters = list(inspect.signature(thing).parameters)
    described = re.findall(r"\w+", " ".join(re.findall(r"^(\S.*?)(?: : |$)", section[1], re.M))) if section else []
    assert [name for name in parameters if name not in described] == []


def lines_of(path, name):
    """The lines that assign a constant, each with the line above it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [above + line for above, line in zip(["", *lines], lines, strict=False) if line.startswith(f"{name} = ")]
