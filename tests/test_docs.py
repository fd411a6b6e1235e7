"""What README and docs name exists, and the code that they show runs."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecmf_utils import media
from ecmf_utils.corpus import findings
from ecmf_utils.notebook import parameters, profiles
from ecmf_workflow import cli

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
WORKED = ["add-an-encoder", "add-a-fusion-model"]
FENCE = re.compile(r"^```(.*?)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
MODULE = re.compile(r"([a-z_]+)\.py")
MEMBER = re.compile(r"([a-z_]+)\.([A-Za-z_]\w*)(?:\(|$)")
ENDINGS = {"arrow", "csv", "html", "json", "jsonl", "parquet"}
PACKAGES = ("ecmf_utils", "ecmf_workflow", "ecmf_demo", "ecmf_bench")
INSIDE = re.compile(rf"(?:docs|notebooks|workflow|tests|{'|'.join(PACKAGES)})/[\w./-]+")


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request):
    return request.param


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page):
    """Everything in backticks, blanks joined."""
    return [" ".join(span.split()) for span in SPAN.findall(prose(page))]


def commands(page):
    """Every `ecmf …` line, of code spans, indented and fenced blocks, as words without a remark."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
    lines = [*spans(page), *re.findall(r"^ {4}(\S.*)$", text, re.M), *fenced]
    found = [re.match(r"(?:\.venv/bin/)?ecmf ([a-z-]+\b[^#]*)", line) for line in lines]
    return [match[1].split() for match in found if match]


def settings(page):
    """Every `--set NAME=VALUE` anywhere in a page; placeholders such as NAME or k are left out."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    found = re.findall(r"--set ['\"]?((?:\w+\.)?[a-z]\w+)=", text)
    return [name for name in found]


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_relative_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?:", target):
            name, _, anchor = target.partition("#")
            linked = (page.parent / name).resolve() if name else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_every_notebook_that_is_named_exists(page):
    named = re.findall(r"\b\d\d_[a-z]+_[a-z_]+\b", page.read_text(encoding="utf-8"))
    assert set(named) <= set(parameters.list_notebooks())


def test_every_profile_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"^# notebooks/profiles/(\S+)\.yaml", text, re.M))
    named = {words[1] for words in commands(page) if words[0] in {"reproduce", "verify", "index"} and len(words) > 1}
    named |= set(re.findall(r"--profile ([a-z][\w-]*)(?!\S)", text))
    named = {name for name in named if not name.startswith("folder-")}
    assert named <= {*profiles.list_profiles(), *shown}


def test_every_subcommand_that_is_named_exists(page):
    known = re.findall(r"^ {4}([a-z-]+)(?: |$)", cli._parser().format_help(), re.M)
    assert {words[0] for words in commands(page)} <= set(known)


def test_every_setting_that_is_shown_is_declared(page):
    for name in settings(page):
        notebook, dot, parameter = name.rpartition(".")
        known = [parameters.find_notebook(notebook)] if dot else parameters.list_notebooks()
        about_corpus = not dot and parameter in profiles.ABOUT_CORPUS
        assert about_corpus or any(parameter in parameters.read_parameters(nb) for nb in known), name


def test_every_module_member_and_file_that_is_named_exists(page):
    modules = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py*")):
        if path.suffix in (".py", ".pyi"):
            name = path.parent.name if path.stem == "__init__" else path.stem
            modules.setdefault(name, set()).update(defined(path))
    for span in spans(page):
        if match := MODULE.fullmatch(span):
            assert match[1] in modules, span
        elif (match := MEMBER.match(span)) and match[1] in modules and match[2] not in ENDINGS:
            assert match[2] in modules[match[1]], span
        elif INSIDE.fullmatch(span) and "…" not in span:
            assert (ROOT / span).exists(), span


def defined(module):
    """Names at the top of a module, imported ones included; of a room also its modules."""
    names = {path.stem for path in module.parent.glob("*")} if module.stem == "__init__" else set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names |= {getattr(node, "name", None)}
        names |= {a.asname or a.name for a in getattr(node, "names", [])}
        targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
        names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return names


def test_every_make_target_that_is_named_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = [span.split()[1:] for span in spans(page) if span.startswith("make ")]
    assert {word for words in named for word in words if "=" not in word and word.isascii()} <= targets


def test_every_code_of_a_problem_or_finding_is_explained():
    problems, found = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8").split("## Findings")
    assert set(re.findall(r"^\| `(\w+)`", problems, re.M)) == set(media.PROBLEMS)
    assert set(re.findall(r"^\| `(\w+)`", found, re.M)) == set(findings.FINDINGS)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_a_page_is_short_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


def test_the_worked_examples_run(tmp_path):
    """Each page's files and changes, in a copy of the package; then the tests that the pages show."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ecmf_utils", tmp_path / "ecmf_utils", ignore=skipped)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    shown = [f for name in WORKED for f in FENCE.findall((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"))]
    for kind, body in shown:
        if kind == "python run":
            place = tmp_path / body.partition("\n")[0].removeprefix("# ")
            place.write_text(body, encoding="utf-8")
        elif kind == "diff":
            change(tmp_path, body)
    tests = sorted(path.name for path in (tmp_path / "tests").glob("test_*.py"))
    assert len(tests) == len(WORKED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def change(folder, body):
    """Apply a diff as the pages show it: hunks divided by empty lines, lines found by their text."""
    first, _, rest = body.partition("\n")
    path = folder / first.removeprefix("--- ")
    text = path.read_text(encoding="utf-8")
    for hunk in re.split(r"\n\n+", rest.strip("\n")):
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{path.name} has no longer:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
