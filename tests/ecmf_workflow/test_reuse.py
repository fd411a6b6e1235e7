"""What is encoded again after a change: nothing for a plot, one branch for its recipe. In a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from ecmf_utils.files import ROOT, read_json

NOTEBOOKS = {
    "face": "21_extract_face",
    "scene": "22_extract_scene",
    "audio": "23_extract_audio",
    "text": "24_extract_text",
}
CLIPS = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which every branch of `tiny` has been extracted."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("ecmf_utils", "ecmf_workflow", "ecmf_demo", "ecmf_bench", "notebooks", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    assert [run(folder, branch) for branch in NOTEBOOKS] == [CLIPS] * 4
    return folder


def run(folder, branch, *sets):
    """How many clips `ecmf run` computes; told by the speed table of the notebook."""
    words = [word for one in sets for word in ("--set", one)]
    command = [sys.executable, "-m", "ecmf_workflow.cli", "run", NOTEBOOKS[branch], "--profile", "tiny", *words]
    own = {"PYTHONPATH": str(folder), "ECMF_DATA": str(folder / "data"), "ECMF_REPORTS": str(folder / "reports")}
    subprocess.run(command, cwd=folder, env={**os.environ, **own}, check=True, capture_output=True)
    cells = json.loads((folder / "reports/tiny/runs" / NOTEBOOKS[branch] / "executed.ipynb").read_text())["cells"]
    told = [
        "".join(output["data"]["text/plain"])
        for cell in cells
        for output in cell.get("outputs", ())
        if "data" in output and "".join(cell["source"]) == 'counts.attrs["speed"]'
    ]
    return int(re.search(r"^clips +(\d+)$", told[0], re.M)[1])


def fingerprint(folder, branch):
    return read_json(folder / "reports/tiny/runs" / NOTEBOOKS[branch] / "run.json")["fingerprint"]


def vectors(folder, branch):
    return {path: path.read_bytes() for path in (folder / "data/tiny/features" / branch).rglob("*.arrow")}


def edit(project, name, old, new):
    text = (project / name).read_text(encoding="utf-8")
    assert old in text
    (project / name).write_text(text.replace(old, new), encoding="utf-8")


def test_another_plot_runs_the_notebook_and_encodes_nothing(project):
    before, stored = fingerprint(project, "scene"), vectors(project, "scene")
    edit(project, "ecmf_utils/plots/theme.py", "SHARPNESS = 1.5  #", "SHARPNESS = 1.5  # a remark:")
    assert run(project, "scene") == 0 and fingerprint(project, "scene") == before
    edit(project, "ecmf_utils/plots/theme.py", "SHARPNESS = 1.5", "SHARPNESS = 1.6")
    assert run(project, "scene") == 0 and fingerprint(project, "scene") != before
    assert vectors(project, "scene") == stored


def test_a_page_the_benchmark_and_other_figures_decide_nothing_that_is_extracted(project):
    before, stored = fingerprint(project, "audio"), vectors(project, "audio")
    for name in (
        "ecmf_workflow/pages/templates/style.css",
        "ecmf_workflow/pages/page.py",
        "ecmf_bench/extraction.py",
        "ecmf_utils/plots/scores.py",
        "ecmf_utils/media/faces.py",
    ):
        with open(project / name, "a", encoding="utf-8") as file:
            file.write("\nANOTHER = 1\n" if name.endswith(".py") else "\np {color: red}\n")
    assert run(project, "audio") == 0 and fingerprint(project, "audio") == before
    assert vectors(project, "audio") == stored


def test_another_pooling_of_one_branch_encodes_that_branch_only(project):
    counts = {branch: run(project, branch, "22_extract_scene.pooling=mean") for branch in NOTEBOOKS}
    assert counts == {"face": 0, "scene": CLIPS, "audio": 0, "text": 0}
