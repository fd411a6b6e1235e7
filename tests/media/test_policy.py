"""Of a corpus whose media may not be shown, no frame, sound or transcript reaches any page."""

import base64
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ecmf_utils.media.writing import write_clip

WORD = "zebrafish"  # in every transcript, and nowhere else
HAN = "斑马鱼"
MAGENTA, GREEN = (255, 0, 255), (0, 255, 0)  # every frame is of both, no figure of ours is
EMOTIONS = ["happy", "sad"]
OFFLINE = [
    "21.encoder=classical", "22.encoder=classical", "23.encoder=classical", "23.layers=last",
    "24.encoder=minilm", "24.layers=last", "30.model=replay", "30.encoder=minilm", "30.layers=last",
    "50.n_seeds=1", "51.n_seeds=1", "50.epochs=2", "51.epochs=2", "n_folds=2",
]  # fmt: skip
# every text that a figure draws is written to a file, since a picture cannot be searched for words
SPY = """
import os
def watch():
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    saved = Figure.savefig
    def savefig(self, *words, **named):
        with open(os.environ["ECMF_SPY"], "a", encoding="utf-8") as file:
            file.writelines(text.get_text() + "\\n" for text in self.findobj(Text))
        return saved(self, *words, **named)
    Figure.savefig = savefig
if os.environ.get("ECMF_SPY"):
    watch()
"""


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A gated corpus in the layout of MER2025, whose frames, sounds and words are unmistakable."""
    home = tmp_path_factory.mktemp("gated")
    source = home / "MER2025"
    (source / "video").mkdir(parents=True)
    names = [f"sample_{i:08d}" for i in range(16)]
    for i, name in enumerate(names):
        write_clip(source / "video" / f"{name}.mp4", striped(i), 12, tone(200 + 20 * i), 16000)
    train, test = names[:12], names[12:14]
    write(
        source / "track1_train_disdim.csv",
        "name,discrete,valence",
        [f"{name},{EMOTIONS[i % 2]},0.5" for i, name in enumerate(train)],
    )
    write(source / "track_all_candidates.csv", "name", test)
    write(
        source / "subtitle_chieng.csv",
        "name,chinese,english",
        [f"{name},{HAN}{i}在唱歌,the {WORD}{i} sings" for i, name in enumerate(names)],
    )
    (home / "spy").mkdir()
    (home / "spy" / "sitecustomize.py").write_text(SPY)
    return home


def striped(i):
    frames = np.zeros((12, 120, 160, 3), np.uint8)
    frames[:, :, :80], frames[:, :, 80:] = MAGENTA, GREEN
    frames[:, 40:60, 20 + i : 40 + i] = (i * 15, 60, 60)
    return frames


def tone(hertz):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)).astype(np.float32)


def write(path, head, rows):
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def ecmf(home, name, *words):
    """Run a command with data and reports under `name`; the pages, and what the figures said."""
    folder = home / name
    env = os.environ | {
        "ECMF_DATA": str(folder / "data"),
        "ECMF_REPORTS": str(folder / "reports"),
        "ECMF_SPY": str(folder / "spied.txt"),
        "PYTHONPATH": str(home / "spy"),
    }
    folder.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "ecmf_workflow.cli", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((folder / "reports").rglob("*.html")) + sorted((folder / "reports").rglob("results.json"))
    return {page.name: page.read_text(encoding="utf-8") for page in pages}, (folder / "spied.txt").read_text()


def shown(pages, said):
    """What of the corpus can be found: kinds of media, each with the pages that it is in."""
    found = {}
    for name, text in pages.items():
        if WORD in text or HAN in text:
            found.setdefault("words", []).append(name)
        if re.search(r"data:(video|audio)/|<audio|<video", text):
            found.setdefault("sound", []).append(name)
        if any(of_the_clips(picture) for picture in pictures(text)):
            found.setdefault("frames", []).append(name)
    if WORD in said or HAN in said:
        found["words in figures"] = ["figures"]
    if "frequency" in said.lower():
        found["spectrogram"] = ["figures"]
    return found


def pictures(text):
    for encoded in re.findall(r"data:image/(?:png|jpeg|webp);base64,([A-Za-z0-9+/=\s]+)", text):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def of_the_clips(picture):
    near = [np.abs(picture - colour).max(axis=2) < 70 for colour in (MAGENTA, GREEN)]
    return min(mask.sum() for mask in near) > 40


@pytest.mark.slow
def test_nothing_of_a_gated_corpus_is_in_any_page(gated):
    source = [f"--set=source={gated / 'MER2025'}", *(f"--set={text}" for text in OFFLINE)]
    pages, said = ecmf(gated, "default", "reproduce", "mer2025", *source)
    assert {"00_start_here.html", "10_explore_corpus.html", "60_analyse_errors.html", "index.html"} <= set(pages)
    assert shown(pages, said) == {}


@pytest.mark.slow
def test_the_same_corpus_shown_in_full_is_found(gated):
    """The test above can fail: with every page allowed to show all, it finds each kind of media."""
    source = f"--set=source={gated / 'MER2025'}"
    for number in ("00", "10"):
        words = ["run", number, "--profile", "mer2025", "--set", "media_in_reports=full"]
        pages, said = ecmf(gated, "full", *words, *([source, "--set=n_folds=2"] if number == "00" else []))
    assert set(shown(pages, said)) == {"words", "sound", "frames", "words in figures", "spectrogram"}


@pytest.mark.slow
def test_blurred_pages_show_no_frame_that_can_be_made_out_and_no_word(gated):
    source = f"--set=source={gated / 'MER2025'}"
    for number in ("00", "10"):
        words = ["run", number, "--profile", "mer2025", "--set", "media_in_reports=blurred"]
        pages, said = ecmf(gated, "blurred", *words, *([source, "--set=n_folds=2"] if number == "00" else []))
    found = shown(pages, said)
    assert not {"words", "sound", "words in figures", "spectrogram"} & set(found)
