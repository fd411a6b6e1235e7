"""pyproject.toml, environment.yml and the lock say the same."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {
    "torch": "pytorch",
    "dlib-bin": "dlib",
    "opencv-python-headless": "opencv",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
}


def name(requirement):
    return re.split(r"[\s<>=!\[;]", requirement.strip())[0].lower().replace("_", "-")


def bounds(requirement):
    return re.sub(r"^[A-Za-z0-9_.\-]+(\[\w+\])?\s*", "", requirement.split(";")[0].strip())


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]


def conda():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return [e for e in entries if isinstance(e, str)] + [p for e in entries if isinstance(e, dict) for p in e["pip"]]


def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {name(line): line for line in lines if line and not line.startswith("#")}


def test_conda_and_pip_users_get_the_same_packages():
    wanted = {CONDA_NAMES.get(name(r), name(r)) for r in declared()}
    assert wanted == {name(r) for r in conda()} - {"python", "pip", "setuptools", "make"}


def test_conda_and_pip_users_get_the_same_versions():
    theirs = {name(r): bounds(r) for r in conda()}
    for requirement in declared():
        if name(requirement) != "dlib-bin":
            assert theirs[CONDA_NAMES.get(name(requirement), name(requirement))] == bounds(requirement), requirement


def test_every_declared_package_is_pinned():
    assert {name(r) for r in declared()} <= set(lock())


def test_the_lock_pins_without_local_versions_hashes_or_paths():
    for line in lock().values():
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9.]+", line), line
