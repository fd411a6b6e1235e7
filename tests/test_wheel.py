"""The wheel works on its own: in an empty environment and an empty folder it lists, runs and verifies."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_every_package_is_named():
    """A folder of code that pyproject.toml does not name would be missing from the wheel."""
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("ecmf_*/**/__init__.py")}
    mapped = {"ecmf_workflow.notebooks", "ecmf_workflow.notebooks.profiles", "ecmf_workflow.workflow"}
    assert named == {".".join(folder.parts) for folder in folders} | mapped


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `ecmf` of a new environment that has the wheel, and of this one only the packages that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "-w", folder], check=True, cwd=folder)
    venv.create(folder / "venv", with_pip=False)
    there = folder / "venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (wheel,) = folder.glob("*.whl")
    bins = ["--target", str(there), "--no-deps"]
    subprocess.run([*pip, "install", *bins, str(wheel)], check=True)
    (there / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # without this project's own .pth
    return [str(folder / "venv" / "bin" / "python"), "-m", "ecmf_workflow.cli"]


@pytest.mark.slow
def test_the_wheel_reproduces_tiny_below_the_folder_it_is_called_from(installed, tmp_path):
    def ecmf(*words):
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ECMF_", "PYTHONPATH"))}
        own["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # belongs to the packages that it borrows
        done = subprocess.run([*installed, *words], cwd=tmp_path, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert ecmf("--version").startswith("ecmf 0.")
    assert "50_train_fusion" in ecmf("list") and "mer2025" in ecmf("list")
    ecmf("reproduce", "tiny")
    assert ecmf("verify", "tiny") == "tiny: ok\n"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "reports"}
    assert (tmp_path / "reports" / "tiny" / "index.html").exists()
    assert "run again" not in ecmf("reproduce", "tiny")
