"""How fast extraction is against the bare model, and how much memory it takes: measured, in one run."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import encoders, features, parallel
from ecmf_utils.features import extraction
from ecmf_utils.media import writing

from . import untrained

SOUND_RATE = 16000
# branch -> family and size of the random-weight model; what the names stand for is in `untrained`
MODELS = {
    "tiny": {"audio": ("hubert", "tiny"), "text": ("bert", "tiny"), "scene": ("timm", "tiny")},
    "base": {"audio": ("hubert", "base"), "text": ("bert", "base"), "scene": ("timm", "base")},
    "large": {"audio": ("hubert-large", "large"), "text": ("qwen", "7b"), "scene": ("clip", "large")},
}
WORDS = "the day was long and nobody came to say why it had to end like this at all".split()


def time_calls(call: Callable[[], Any], repeats: int) -> float:
    """Median time of several calls, after one that does not count.

    Parameters
    ----------
    call : callable
        What to time; without arguments.
    repeats : int
        Calls that count.

    Returns
    -------
    float
        Seconds.
    """
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def make_models(size: str, folder: Path) -> pd.DataFrame:
    """Make the models of the extraction test with random weights and save them.

    Parameters
    ----------
    size : {"tiny", "base", "large"}
        Of the models.
    folder : Path
        Gets a folder for each branch.

    Returns
    -------
    DataFrame
        Index branch; `name`, as `encoders.load` takes it, `family` and `size`.
    """
    rows = {
        branch: {"name": untrained.save(family, folder / branch, scale), "family": family, "size": scale}
        for branch, (family, scale) in MODELS[size].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def make_clips(folder: Path, count: int, height: int, seed: int = 0, duration_s: float = 3.0) -> pd.DataFrame:
    """Videos of moving noise with sound, and sentences of 5 to 15 words.

    Parameters
    ----------
    folder : Path
        Where the videos go; it has to exist.
    count : int
        Clips.
    height : int
        Of the frames in pixels, 16:9, 25 a second.
    seed : int
        Of noise and words.
    duration_s : float
        Mean length; they differ by up to a third.

    Returns
    -------
    DataFrame
        Rows as in `clips.parquet`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = duration_s * rng.uniform(2 / 3, 4 / 3)
        sound = rng.normal(0, 0.1, int(length * SOUND_RATE)).astype(np.float32)
        name = f"clip{i:03d}"
        writing.write_clip(folder / f"{name}.mp4", _moving(rng, int(length * 25), height), 25, sound, crf=28)
        text = " ".join(rng.choice(WORDS, rng.integers(5, 16)))
        path = str(folder / f"{name}.mp4")
        row = {"clip_id": name, "video": path, "audio": None, "text": text, "duration_s": length}
        rows.append(row | {"content_hash": name, "problem": None})
    return pd.DataFrame(rows).astype({"audio": object, "problem": object})


def _moving(rng: np.random.Generator, count: int, height: int) -> list[np.ndarray]:
    width = round(height * 16 / 9 / 2) * 2
    coarse = rng.integers(0, 256, (height // 20 + 1, width // 20 + 2, 3)).astype(np.uint8)
    picture = np.kron(coarse, np.ones((20, 20, 1), np.uint8))
    return [np.ascontiguousarray(picture[:height, i % 20 : i % 20 + width]) for i in range(count)]


def measure_efficiency(
    branch: str, name: str, clips: pd.DataFrame, repeats: int, device: str = "auto", **how: Any
) -> dict[str, Any]:
    """Clips a second of the whole extraction over those of the bare forward pass on inputs in memory.

    Both use the same encoder, batches and parts; the whole one reads, decodes, prepares, encodes
    and writes, with a new store every time.

    Parameters
    ----------
    branch : str
        scene, audio or text.
    name : str
        Of the encoder, as `encoders.load` takes it.
    clips : DataFrame
        Of `make_clips`.
    repeats : int
        Runs of each that count; the median is taken.
    device : str
        auto, cpu, cuda.
    **how
        Further settings of `encoders.load`.

    Returns
    -------
    dict
        branch, precision, batch (frames, samples or tokens), clips/s bare and whole, efficiency, and
        on a GPU the mean utilisation while the whole extraction ran.
    """
    encoder = encoders.load(name, branch, device=device, **how)
    reader = _reader(branch, encoder)
    rows = features.distinct_texts(clips) if encoder.modality == "text" else clips
    ready = [encoder.prepare_input(reader(row)) for row in rows.to_dict("records")]
    parts = [ready[i : i + extraction.PART] for i in range(0, len(ready), extraction.PART)]
    with tempfile.TemporaryDirectory() as folder:
        stores = (str(Path(folder) / str(i)) for i in range(repeats + 1))
        bare, whole = in_turns(
            lambda: [encoder.run(part) for part in parts],
            lambda: features.extract(next(stores), branch, rows, encoder, reader),
            repeats,
        )
        busy = _utilisation(lambda: features.extract(str(Path(folder) / "gpu"), branch, rows, encoder, reader), device)
    found = {"branch": branch, "precision": encoder.recipe["precision"], "batch": encoder.batches.budget}
    found |= {"bare (clips/s)": len(ready) / bare, "whole (clips/s)": len(ready) / whole}
    return found | {"efficiency": bare / whole, "GPU busy (%)": busy}


def in_turns(
    one: Callable[[], Any],
    other: Callable[[], Any],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Medians in seconds of two calls that take turns, so that what else the machine does hits both."""
    times = np.empty((repeats + 1, 2))
    for i in range(repeats + 1):
        for j, call in enumerate((one, other)):
            start = clock()
            call()
            times[i, j] = clock() - start
    return tuple(float(value) for value in np.median(times[1:], axis=0))


def _utilisation(call: Callable[[], Any], device: str) -> float | None:
    """Mean utilisation of the first GPU in per cent during a call, by nvidia-smi; None without it."""
    tool = shutil.which("nvidia-smi")
    if device == "cpu" or tool is None:
        return None
    seen, done = [], threading.Event()
    ask = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]

    def watch() -> None:
        while not done.wait(0.2):
            told = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
            seen.extend([float(told)] if told.isdigit() else [])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return float(np.mean(seen)) if seen else None


def _reader(branch: str, encoder: encoders.Encoder) -> Callable[[dict[str, Any]], Any]:
    if branch == "scene":
        return partial(features.read_scene, n_frames=encoder.n_frames or 8, max_side=encoder.frame_side)
    if branch == "audio":
        return partial(features.read_audio, sample_rate=encoder.sample_rate or SOUND_RATE)
    return features.read_text


def measure_memory(counts: Sequence[int], name: str) -> pd.DataFrame:
    """Peak memory of processes that each extract so many clips of made-up sound.

    Parameters
    ----------
    counts : sequence of int
        Clips of each process.
    name : str
        Of the encoder, as `encoders.load` takes it.

    Returns
    -------
    DataFrame
        clips, peak (MiB), ratio to the first.
    """
    peaks = [parallel.alone(partial(_extract_made_up, name=name), n) for n in counts]
    table = pd.DataFrame({"clips": counts, "peak (MiB)": peaks})
    return table.assign(ratio=table["peak (MiB)"] / peaks[0])


def _extract_made_up(count: int, name: str) -> float:
    clips = pd.DataFrame({"clip_id": [f"c{i}" for i in range(count)], "content_hash": "made up"})
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoders.load(name, "audio", device="cpu")
        features.extract(folder, "audio", clips, encoder, _noise, n_workers=1)
    return peak_mib()


def peak_mib() -> float:
    """Most memory that this process has held, in MiB.

    The system's own count (`ru_maxrss`) begins with that of the parent where a process is started from
    a large one, so Linux is asked for the peak of this process's own memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return float(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024**2 if sys.platform == "darwin" else 1024)


def _noise(row: dict[str, Any]) -> np.ndarray:
    rng = np.random.default_rng(int(row["clip_id"][1:]))
    return rng.normal(0, 0.1, rng.integers(SOUND_RATE, 3 * SOUND_RATE)).astype(np.float32)
