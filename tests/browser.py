"""Open an HTML page in headless Chromium: what it logs, what it asks for, how it looks."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
MISSING = [name for name in (CHROMIUM, DRIVER) if not Path(name).exists()]

needs_chromium = pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")


@dataclass
class Visit:
    """What one page did: console entries, requests other than the page itself, its height."""

    console: list[str]
    requests: list[str]
    height: int  # pixels of the whole document
    overflow: int  # pixels that it is wider than the window


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A driver with a user folder of its own, gone afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tempfile.mkdtemp(prefix="chromium-")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(folder, ignore_errors=True)


def visit(page: Path, screenshot: Path | None = None, width: int = 1280, open_details: bool = False) -> Visit:
    """Load a file and report on it; the screenshot shows the whole document."""
    if not page.exists():
        raise FileNotFoundError(page)
    with chromium(width) as driver:
        driver.get("about:blank")
        driver.get_log("performance")  # what the browser's own start page asked for
        driver.get(page.resolve().as_uri())
        if open_details:
            driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        size = driver.execute_script(
            "const d = document.documentElement;return [d.scrollHeight, d.scrollWidth - d.clientWidth]"
        )
        if screenshot is not None:
            driver.set_window_size(width, min(int(size[0]) + 150, 16000))
            driver.save_screenshot(str(screenshot))
        console = [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]
        asked = _requests(driver.get_log("performance"))
    own = page.resolve().as_uri()
    other = [url for url in asked if url.split("#")[0] != own and not url.startswith("data:")]
    return Visit(console, other, int(size[0]), int(size[1]))


def _requests(log: list[dict[str, Any]]) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in log]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent]
