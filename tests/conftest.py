"""Shared fixtures: data and reports of a test live in its own temporary folder."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent
REALDATA = Path(os.environ.get("ECMF_REALDATA", ROOT.parent / "shared" / "realdata"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Empty data and reports folders that the code under test uses instead of the project's, with its own notebooks."""
    monkeypatch.delenv("ECMF_NOTEBOOKS", raising=False)  # a fixture of the whole file may have set another folder
    monkeypatch.setenv("ECMF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ECMF_REPORTS", str(tmp_path / "reports"))
    return tmp_path


@pytest.fixture(scope="session")
def realdata():
    """The folder of real recordings; tests that need it are skipped where it is absent."""
    if not (REALDATA / "clips").is_dir():
        pytest.skip(f"no real recordings at {REALDATA}: set ECMF_REALDATA to their folder")
    return REALDATA


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """One small real-format clip: 1.2 s, 12 frames a second, 160x120, with a tone."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def make_clip(path, seconds=1.2, fps=12, sound=True, size=(120, 160)):
    """Write an mp4 of a moving square (and a 220 Hz tone)."""
    import numpy as np

    from ecmf_utils.media.writing import write_clip

    frames = np.full((int(seconds * fps), *size, 3), 90, np.uint8)
    for i, frame in enumerate(frames):
        frame[20:60, 10 + 3 * i : 50 + 3 * i] = (200, 120, 60)
    time = np.arange(int(16000 * seconds)) / 16000
    tone = (0.2 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    write_clip(path, frames, fps, tone if sound else None, 16000)
    return path


def build(profile="p", **settings):
    """The corpus that `00_start_here` would make with these parameters."""
    from ecmf_utils import corpus, features
    from ecmf_utils.notebook import profiles

    values = profiles.resolve("00_start_here", "tiny") | {"kind": "folder", "n_workers": 1}
    values |= {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return corpus.build(profile, values, features.import_features)
