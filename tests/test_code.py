import pytest

from ecmf_utils import code
from ecmf_utils.files import ROOT
from ecmf_utils.notebook import reruns
from ecmf_utils.notebook.parameters import list_notebooks, read_code_cells
from tests.small_notebooks import edit, make_pipeline

FILES = {
    "ecmf_utils/__init__.py": "",
    "ecmf_utils/files.py": "def write(): ...\n",
    "ecmf_utils/sound/__init__.py": '"""A room whose door is a stub, so that it is opened lazily."""\n',
    "ecmf_utils/sound/__init__.pyi": "from .reading import read\nfrom .pitch import track as follow\n",
    "ecmf_utils/sound/reading.py": "from .rates import RATE\nfrom ecmf_utils.files import write\nread = RATE\n",
    "ecmf_utils/sound/pitch.py": "import ecmf_utils.plots.theme\ntrack = 1\n",
    "ecmf_utils/sound/rates.py": "RATE = open('list.txt')\n",
    "ecmf_utils/sound/list.txt": "16000\n",
    "ecmf_utils/plots/__init__.py": "from .theme import dark\n",
    "ecmf_utils/plots/theme.py": "dark = 1\n",
    "ecmf_utils/corpus.py": "READERS = {'demo': 'ecmf_demo.corpus:read'}\n",
    "ecmf_bench/__init__.py": "",
    "ecmf_bench/__init__.pyi": "from .speed import measure\n",
    "ecmf_bench/speed.py": "measure = 1\n",
    "ecmf_demo/__init__.py": "",
    "ecmf_demo/corpus.py": "def read(): ...\n",
    "ecmf_workflow/__init__.py": "",
    "ecmf_workflow/pages.py": "CSS = 1\n",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small packages in place of the real ones; call it with a file and its new content to edit one."""
    monkeypatch.setattr(code, "PARENT", tmp_path)
    monkeypatch.setattr(code, "MACHINERY", ("ecmf_utils.files", "ecmf_workflow"))

    def write(name, content):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
        forget()

    for name, content in FILES.items():
        write(name, content)
    yield write
    forget()


def forget():
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def moves(packages, cells, name, content="changed = 1\n"):
    """Whether an edit of a file changes the fingerprint of a notebook's cells."""
    before = code.fingerprint(cells)
    packages(name, content)
    after = code.fingerprint(cells)
    packages(name, FILES[name])
    assert code.fingerprint(cells) == before
    return after != before


WAYS_TO_READ = [
    ["from ecmf_utils import sound\nsound.read(1)"],
    ["from ecmf_utils import sound", "x = sound.read(1)"],
    ["from ecmf_utils import sound as s\ns.read(1)"],
    ["from ecmf_utils.sound import read"],
    ["from ecmf_utils.sound import reading\nreading.read"],
    ["from ecmf_utils.sound.reading import read"],
    ["import ecmf_utils.sound.reading"],
    ["def f():\n    from ecmf_utils.sound import read"],
]


@pytest.mark.parametrize("cells", WAYS_TO_READ, ids=lambda cells: cells[0])
def test_a_name_leads_through_its_room_to_the_module_that_defines_it(packages, cells):
    assert moves(packages, cells, "ecmf_utils/sound/reading.py")
    assert moves(packages, cells, "ecmf_utils/sound/rates.py")  # which that one imports
    assert not moves(packages, cells, "ecmf_utils/sound/pitch.py")
    assert not moves(packages, cells, "ecmf_utils/plots/theme.py")


def test_another_name_of_the_same_room_leads_elsewhere(packages):
    cells = ["from ecmf_utils import sound\nsound.follow"]
    assert moves(packages, cells, "ecmf_utils/sound/pitch.py")
    assert moves(packages, cells, "ecmf_utils/plots/theme.py")
    assert not moves(packages, cells, "ecmf_utils/sound/reading.py")


@pytest.mark.parametrize("cell", ["import ecmf_utils.sound", "from ecmf_utils import sound\nf(sound)"])
def test_a_room_that_is_handed_on_counts_as_a_whole(packages, cell):
    assert moves(packages, [cell], "ecmf_utils/sound/reading.py")
    assert moves(packages, [cell], "ecmf_utils/sound/pitch.py")


@pytest.mark.parametrize("cell", ["import ecmf_bench\necmf_bench.measure", "from ecmf_bench import measure"])
def test_a_package_with_a_door_of_its_own_leads_to_its_modules(packages, cell):
    assert moves(packages, [cell], "ecmf_bench/speed.py")
    assert not moves(packages, [cell], "ecmf_utils/sound/reading.py")


def test_a_function_that_is_found_by_its_dotted_name_counts(packages):
    cells = ["from ecmf_utils import corpus\ncorpus.READERS"]
    assert moves(packages, cells, "ecmf_demo/corpus.py")
    assert not moves(packages, cells, "ecmf_utils/sound/reading.py")


def test_a_file_beside_a_module_that_names_it_counts(packages):
    cells = ["from ecmf_utils.sound import read"]
    assert moves(packages, cells, "ecmf_utils/sound/list.txt", "8000\n")


def test_machinery_and_what_only_it_imports_do_not_count(packages):
    cells = ["from ecmf_utils.sound import read\nimport ecmf_workflow.pages"]
    assert not moves(packages, cells, "ecmf_utils/files.py")
    assert not moves(packages, cells, "ecmf_workflow/pages.py")


def test_comments_docstrings_and_formatting_do_not_count(packages):
    cells = ["from ecmf_utils.sound import read"]
    same = '"""What it is."""\nfrom .rates import (\n    RATE,  # Hz\n)\nfrom ecmf_utils.files import write\n'
    same += "read=RATE\n"
    assert not moves(packages, cells, "ecmf_utils/sound/reading.py", same)
    assert code.fingerprint(["x = 'a'"]) == code.fingerprint(['x = "a"  # why'])
    assert code.fingerprint(["x = 1"]) != code.fingerprint(["x = 2"])


def test_a_cell_with_a_magic_counts_as_text(packages):
    assert code.fingerprint(["%time x"]) != code.fingerprint(["%time y"])


def test_a_digest_of_a_package_is_of_all_its_modules(packages):
    before = code.digest_modules("ecmf_utils.sound", "ecmf_utils.corpus")
    packages("ecmf_utils/sound/pitch.py", "track = 2\n")
    assert code.digest_modules("ecmf_utils.sound", "ecmf_utils.corpus") != before
    with pytest.raises(ValueError, match="ecmf_utils.noise is no module or package"):
        code.digest_modules("ecmf_utils.noise")


def logic(source):
    return code._logic(code._parse(source))


def test_what_code_says_of_itself_does_not_count_what_it_does_does():
    source = '"""Page."""\n# why\ndef f(x):\n    """Twice."""\n\n    return 2 * x\n'
    same = logic(source.replace("Twice", "Doubled\n\n    of x").replace("# why\n", ""))
    assert same == logic(source) == "def f(x):\n    return 2 * x"
    assert logic(source.replace("2 *", "3 *")) != same


FUNCTIONS = """
import logging
from ecmf_utils.files import write
from . import pitch
from .rates import RATE as rate
LIMIT = 3
logging.disable()
def read(x):
    return _half(x) + LIMIT
def _half(x):
    from .rates import RATE
    return RATE
def tune():
    return pitch.track
class Reader:
    def read(self):
        return read(rate)
"""


@pytest.mark.parametrize(
    ("cell", "edit", "counts"),
    [
        ("read", ("LIMIT = 3", "LIMIT = 4"), True),
        ("read", ("_half(x) +", "_half(2 * x) +"), True),
        ("read", ("return RATE\n", "return 2 * RATE\n"), True),
        ("read", ("return pitch.track", "return 2 * pitch.track"), False),
        ("read", ("return read(rate)", "return read(2 * rate)"), False),
        ("read", ("logging.disable()", "logging.disable(1)"), True),  # it has its effect whatever is used
        ("tune", ("LIMIT = 3", "LIMIT = 4"), False),
        ("Reader", ("LIMIT = 3", "LIMIT = 4"), True),
        ("Reader", ("return pitch.track", "return 2 * pitch.track"), False),
    ],
)
def test_only_what_is_used_of_a_module_counts(packages, cell, edit, counts):
    packages("ecmf_utils/sound/reading.py", FUNCTIONS)
    cells = [f"from ecmf_utils.sound.reading import {cell}\n{cell}()"]
    before = code.fingerprint(cells)
    packages("ecmf_utils/sound/reading.py", FUNCTIONS.replace(*edit))
    assert (code.fingerprint(cells) != before) is counts


def test_what_a_used_function_uses_elsewhere_counts_and_nothing_else_there(packages):
    packages("ecmf_utils/sound/reading.py", FUNCTIONS)
    packages("ecmf_utils/sound/rates.py", "RATE = 1\nOTHER = 1\n")
    cells = ["from ecmf_utils.sound import read\nread()"]
    before = code.fingerprint(cells)
    packages("ecmf_utils/sound/rates.py", "RATE = 1\nOTHER = 2\n")
    assert code.fingerprint(cells) == before
    packages("ecmf_utils/sound/rates.py", "RATE = 2\nOTHER = 1\n")
    assert code.fingerprint(cells) != before


def test_a_name_that_a_module_passes_on_leads_to_where_it_is_defined(packages):
    packages("ecmf_utils/sound/reading.py", "from .rates import RATE as read\n")
    cells = ["from ecmf_utils.sound import read\nread"]
    assert moves(packages, cells, "ecmf_utils/sound/rates.py", "RATE = 2\n")


# ---- the real notebooks


def test_a_notebook_s_fingerprint_ignores_all_but_code(home, monkeypatch):
    folder = make_pipeline(home / "notebooks")
    monkeypatch.setenv("ECMF_NOTEBOOKS", str(folder))
    before = reruns.fingerprint("24")
    edit(folder, "24_extract_text", "# 24_extract_text", "# Words")
    edit(folder, "24_extract_text", '"execution_count": null', '"execution_count": 7')
    edit(folder, "24_extract_text", "import os, time", "import os,  time  # why")
    assert reruns.fingerprint("24") == before
    edit(folder, "24_extract_text", "time.sleep(120)", "time.sleep(121)")
    assert reruns.fingerprint("24") != before


def used(name):
    """(module, name) of every definition of ours that a notebook uses."""
    statements = code.find_used(cell["source"] for cell in read_code_cells(name))
    return {(statement.module, defined) for statement in statements for defined in statement.defines}


@pytest.mark.parametrize("name", list_notebooks())
def test_everything_that_a_notebook_uses_is_found(name):
    modules = {module for module, _ in used(name)}
    assert modules and all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in modules)


def test_an_edit_reruns_the_notebooks_that_use_it_and_no_others():
    """Notebook 21 reads the crops that 20 has written; how faces are detected is nothing to it."""
    by_notebook = {name[:2]: used(name) for name in list_notebooks()}

    def users(module, name):
        return {number for number, found in by_notebook.items() if (module, name) in found}

    assert users("ecmf_utils.media.faces", "detect_in_clip") == {"20", "70"}
    assert users("ecmf_utils.media.faces", "read_crops") == {"20", "21"}
    assert users("ecmf_utils.encoders.classical", "describe_audio") >= {"23", "70"}
    assert not users("ecmf_utils.encoders.classical", "describe_audio") & {"20", "40", "50", "51", "60"}
    assert not {module for found in by_notebook.values() for module, _ in found if module.startswith("ecmf_workflow")}
    plots = {module for number in ("20", "21", "22", "23", "24") for module, _ in by_notebook[number]}
    assert "ecmf_utils.plots.scores" not in plots
