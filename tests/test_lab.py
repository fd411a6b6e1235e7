"""A notebook opened in JupyterLab, run with Run All, whichever comes first."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.browser import chromium, needs_chromium

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "loopback-only"
# the last of the chain first: it has to build everything before it
FIRST_OPENED = ["24_extract_text", "20_detect_faces", "00_start_here"]
# asks the notebook's model, since JupyterLab draws only the cells in view
STATE = """
const book = window.jupyterapp.shell.currentWidget;
const cells = [...Array(book.content.model.cells.length).keys()].map(i => book.content.model.cells.get(i))
  .filter(cell => cell.type === 'code').map(cell => cell.toJSON());
return JSON.stringify({
  kernel: book.sessionContext.session?.kernel?.status ?? "none",
  done: cells.filter(cell => cell.execution_count !== null).length,
  cells: cells.length,
  errors: cells.flatMap(c => c.outputs).filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`),
});
"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on loopback over a copy of the notebooks, with an empty data folder."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for book in (tmp_path / "notebooks").glob("*.ipynb"):
        clear(book)
    env = os.environ | {
        "ECMF_DATA": str(tmp_path / "data"),
        "ECMF_REPORTS": str(tmp_path / "reports"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "w"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--expose-app-in-browser",
        "--ip=127.0.0.1",
        "--port=0",
        "--allow-root",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)
    try:
        yield address(tmp_path / "lab.log", server)
    finally:
        server.terminate()
        server.wait(30)


def clear(book):
    content = json.loads(book.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    book.write_text(json.dumps(content), encoding="utf-8")


def address(log, server):
    import re

    for _ in range(120):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found:
            try:
                urllib.request.urlopen(f"{found[0]}api?token={TOKEN}", timeout=2)
                return found[0]
            except (urllib.error.URLError, OSError):
                pass
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("name", FIRST_OPENED)
def test_run_all_works_whichever_notebook_is_opened_first(lab, name):
    with chromium(1400, 1000) as driver:
        driver.get(f"{lab}lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
        wait(
            lambda: driver.execute_script(
                "return Boolean(window.jupyterapp?.shell?.currentWidget?.content?.model)"
            ),
            90,
        )
        wait(lambda: look(driver)["kernel"] == "idle", 90)
        driver.execute_script("window.jupyterapp.commands.execute('runmenu:run-all')")
        state = wait(lambda: settled(look(driver)), 900)
    assert not state["errors"], state["errors"]
    assert state["done"] == state["cells"] >= 9


def look(driver):
    return json.loads(driver.execute_script(STATE))


def settled(state):
    return (
        state if state["errors"] or (state["done"] == state["cells"] and state["kernel"] == "idle") else None
    )


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s")
