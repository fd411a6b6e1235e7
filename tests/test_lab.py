"""A notebook opened in JupyterLab, run with Run All, whichever comes first; and the clip browser, used by hand."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
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


# JupyterLab draws only the cells in view
TO_THE_BROWSER = """
const book = window.jupyterapp.shell.currentWidget.content;
const cells = [...Array(book.model.cells.length).keys()];
const index = cells.find(i => book.model.cells.get(i).sharedModel.getSource().startsWith('corpus.browse_clips'));
book.activeCellIndex = index;
book.scrollToItem(index, 'start');
"""
LISTED = "return [...document.querySelectorAll('.widget-select select option')].map(o => o.textContent)"
PLAYING = """
const video = document.querySelector('.ecmf-player video');
if (!video || video.readyState < 2) return null;
return {width: video.videoWidth, seconds: video.duration, said: document.querySelector('.ecmf-player').innerText,
        heard: video.webkitAudioDecodedByteCount > 0 || video.mozHasAudio || Boolean(video.audioTracks?.length)};
"""


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on loopback over a copy of the notebooks, with an empty data folder."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for book in (tmp_path / "notebooks").glob("*.ipynb"):
        clear(book)
    hand = {key: value for key, value in os.environ.items() if key not in ("PYTEST_VERSION", "TQDM_DISABLE")}
    env = hand | {
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
        run_all(driver, lab, name)


def run_all(driver, lab, name):
    driver.get(f"{lab}lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
    wait(lambda: driver.execute_script("return Boolean(window.jupyterapp?.shell?.currentWidget?.content?.model)"), 90)
    wait(lambda: look(driver)["kernel"] == "idle", 90)
    driver.execute_script("window.jupyterapp.commands.execute('runmenu:run-all')")
    state = wait(lambda: settled(look(driver)), 900)
    assert not state["errors"], state["errors"]
    assert state["done"] == state["cells"] >= 9


@pytest.mark.slow
@needs_chromium
def test_the_clip_browser_filters_plays_and_saves_nothing(lab, tmp_path):
    pytest.importorskip("anywidget")
    keep_widget_state(tmp_path / "s")  # the setting that would save most
    book = tmp_path / "notebooks" / "10_explore_corpus.ipynb"
    book.write_text(book.read_text().replace('\'full\']\\" = \\"full\\"', '\'full\']\\" = \\"none\\"'))
    with chromium(1400, 1400) as driver:
        run_all(driver, lab, "10_explore_corpus")
        clips = pd.read_parquet(tmp_path / "data" / "tiny" / "clips.parquet")
        driver.execute_script(TO_THE_BROWSER)
        wait(lambda: listed(driver) == [f"▶ {name}" for name in clips["clip_id"]], 60)

        expected = clips[clips["split"] == "test"]
        choose(driver, ".widget-dropdown select", "test")
        wait(lambda: f"{len(expected)} of {len(clips)} clips fit" in driver.page_source, 30)
        assert listed(driver) == [f"▶ {name}" for name in expected["clip_id"]] and len(expected) < len(clips)

        clip = expected[expected["text"].notna()].iloc[0]
        choose(driver, ".widget-select select", f"▶ {clip['clip_id']}")
        video = wait(lambda: playing(driver), 60)
        assert video["width"] == clip["width"] and video["seconds"] == pytest.approx(clip["duration_s"], abs=0.3)
        assert clip["text"] in video["said"] and video["heard"]

        driver.execute_script("window.jupyterapp.commands.execute('docmanager:save')")
        wait(lambda: "jupyter.widget-view" in book.read_text() and '"state"' in book.read_text(), 30)
    saved = book.read_text()
    assert not [text for text in clips["text"].dropna() if text in saved]
    assert "data:video" not in saved and "data:image" not in saved and "ftyp" not in saved


def keep_widget_state(folder):
    """Turn on "Save Widget State Automatically", which is off by default."""
    place = folder / "@jupyter-widgets" / "jupyterlab-manager" / "plugin.jupyterlab-settings"
    place.parent.mkdir(parents=True)
    place.write_text('{"saveState": true}')


def listed(driver):
    """Mark and name of each clip in the list, without label and length."""
    return [" ".join(text.split()).split(" · ")[0] for text in driver.execute_script(LISTED)[1:]]


def choose(driver, menu, text):
    """Click the first entry of a menu that begins with a text."""
    options = driver.find_elements("css selector", f"{menu} option")
    next(option for option in options if option.text.startswith(text)).click()


def playing(driver):
    found = driver.execute_script(PLAYING)
    if found and not found["heard"]:  # decoded once it plays
        driver.execute_script("document.querySelector('.ecmf-player video').play()")
        return None
    return found


def look(driver):
    return json.loads(driver.execute_script(STATE))


def settled(state):
    return state if state["errors"] or (state["done"] == state["cells"] and state["kernel"] == "idle") else None


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s")
