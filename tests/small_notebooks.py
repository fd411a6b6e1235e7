"""A pipeline of empty notebooks under the real names, for tests of what runs them."""

import json
from pathlib import Path

from ecmf_utils.notebook.steps import STEPS

PARAMETERS = """
profile: str = "tiny"  # which corpus
seed: int = 0  # of everything random
labels: list = ["sad", "happy"]  # in order
branches: list = ["text"]  # in order
source: str = ""  # a folder
mode: str = "fine"  # what the last cell does
"""
# What a cell does in each `mode`; "fine" is nothing.
MODES = """
import os, time
if mode == "raise":
    raise ValueError("a = b, said twice\\nand more")
if mode == "mend":
    raise paths.EcmfError("clips.csv, row 3: no such label")
if mode == "die":
    os.kill(os.getpid(), 9)
if mode == "sleep":
    time.sleep(120)
"""
PROFILES = {
    "tiny": "description: small\nlabels: [sad, happy]\nbranches: [text]\n",
    "words": "labelled: false\nbranches: [text]\nall: {seed: 1}\n",
    "more": "extends: words\nall: {seed: 2}\nnotebooks:\n  24_extract_text: {mode: fine}\n",
    "folder": "labelled: false\nbranches: [text]\n",
    "both": "members: [words, more]\n",
}


def make_notebook(folder: Path, name: str, *codes: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: a heading, the parameters cell, then a cell for each code."""
    cells = [{"cell_type": "markdown", "id": "head", "metadata": {}, "source": f"# {name}"}]
    for number, code in enumerate([parameters.strip(), *codes]):
        cells.append(
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": {"tags": ["parameters"]} if number == 0 else {},
                "execution_count": None,
                "outputs": [],
                "source": code,
            }
        )
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(content))
    return path


def make_pipeline(folder: Path) -> Path:
    """Write every notebook of the pipeline and a few profiles into a folder."""
    (folder / "profiles").mkdir(parents=True)
    for name, step in STEPS.items():
        start = f"from ecmf_utils import files as paths, notebook\nrun = notebook.start({name!r}, globals())"
        make_notebook(folder, name, start, MODES, "\n".join(map(_write, step.writes)) or "pass")
    for name, text in PROFILES.items():
        (folder / "profiles" / f"{name}.yaml").write_text(text)
    return folder


def edit(folder: Path, name: str, old: str, new: str) -> None:
    """Replace text in the file of a notebook."""
    path = folder / f"{name}.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _write(name: str) -> str:
    path = f"paths.data_dir(profile) / {name!r}"
    if name.endswith(".parquet"):
        return (
            "import pandas as pd\n"
            "frame = pd.DataFrame({'clip_id': ['a'], 'label': ['sad'], 'split': ['test'], "
            "'status': ['ok'], 'problem': [None], 'seed': [seed]})\n"
            f"paths.write_parquet(frame, {path})"
        )
    if name.endswith("selected.json"):
        return f"paths.write_json({path}, {{'slug': 'x', 'level': 'utterance', 'seed': seed}})"
    if name == "corpus.json":
        return f"paths.write_json({path}, {{'untrained': ''}})"
    return f"paths.write_json({path}, [])"
