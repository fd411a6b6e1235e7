"""The floors of the house: imports run down, and `make lint` says so when one runs up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ecmf_utils", "ecmf_workflow", "ecmf_demo", "ecmf_bench")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The packages with the Makefile that checks them, and the virtual environment of this project."""
    folder = tmp_path_factory.mktemp("copy")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.lock", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "workflow").mkdir()
    (folder / "workflow" / "bootstrap.py").write_text("")  # what `make lint` needs is installed
    (folder / "tests").mkdir()
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("ruff", "lint-imports"):
        (tools / tool).symlink_to(Path(sys.executable).parent / tool)
    (folder / ".venv" / ".ready").write_text("")
    return folder


def lint(folder):
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(["make", "lint"], cwd=folder, env=env, capture_output=True, text=True)


def test_the_project_keeps_its_floors(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


UPWARD = [
    ("ecmf_utils/media/reading.py", "ecmf_utils.corpus.manifest"),  # up
    ("ecmf_utils/plots/scores.py", "ecmf_utils.features.loading"),  # to a neighbour
    ("ecmf_utils/training/runs.py", "ecmf_workflow.results"),  # out of the shared code
    ("ecmf_workflow/results.py", "ecmf_utils.training.runs"),  # what runs notebooks does not train
]


@pytest.mark.parametrize(("module", "imported"), UPWARD)
def test_an_import_that_runs_up_fails_the_lint(copy, module, imported):
    path = copy / module
    before = path.read_text()
    path.write_text(f"{before}\n\ndef later():\n    import {imported}\n\n    return {imported}\n")
    try:
        done = lint(copy)
    finally:
        path.write_text(before)
    assert done.returncode != 0
    assert imported in done.stdout and "BROKEN" in done.stdout
