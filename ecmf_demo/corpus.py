"""The demo corpus: generated clips whose face, voice, scene and words show an emotion, each not always.

`recipes.py` decides what each clip is to be; this module renders and writes them. It resumes where it
was interrupted, and gives the same files in every process.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import files, progress
from ecmf_utils.media.writing import write_clip
from ecmf_utils.parallel import parallel_map

from . import film, people
from .recipes import GENERATOR_VERSION, N_BLOCKS, plan
from .speech import SAMPLE_RATE, Voice, loudness_of, make_voice, record, speak

RECORD = "generated.jsonl"  # one line for each clip that is complete


def generate(
    folder: Path | str,
    *,
    n_train: int = 300,
    n_test: int = 120,
    n_unlabelled: int = 120,
    seed: int = 0,
    n_speakers: int = 40,
    n_workers: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make a corpus, or complete one that was interrupted.

    Parameters
    ----------
    folder : path
        Clips go to `folder/clips`; complete ones with the same recipe are kept.
    n_train, n_test, n_unlabelled : int
        Clips of each split. Two of the ten blocks of speakers and sentences are the test split's.
    n_speakers : int
        Dealt to the ten blocks in turn.
    n_workers : int
        Processes; 0: as many as there are processors.

    Returns
    -------
    clips : DataFrame
        clip_id, video (absolute path), text, label, split, group (the block), speaker.
    truth : DataFrame
        clip_id, truth, and what the recipe says of the clip; training never reads it.

    Raises
    ------
    EcmfError
        A number makes no sense, the extra `demo` is missing, or the folder cannot be written.
    """
    folder = Path(folder).resolve()
    recipes = plan(n_train, n_test, n_unlabelled, seed, n_speakers)
    done = _read_record(folder)
    wanted = {recipe["clip_id"]: files.digest(recipe) for recipe in recipes}
    kept = {name for name, key in wanted.items() if _is_complete(folder, done.get(name), key)}
    _forget(folder, set(done) - kept)
    missing = [recipe for recipe in recipes if recipe["clip_id"] not in kept]
    made = parallel_map(partial(make_clip, folder), missing, n_workers if len(missing) > 1 else 1)
    for entry in progress.track(made, len(missing), "clips"):
        files.append_line(folder / RECORD, entry, "complete clips are kept")
    return _tables(folder, recipes)


@cache
def speaker(seed: int, number: int) -> tuple[people.Identity, Voice]:
    """Face and voice of a speaker."""
    rng = np.random.default_rng([GENERATOR_VERSION, seed, 1_000_000 + number])
    # speakers of a block are ten numbers apart; the second term mixes voices and faces within it
    who = people.make_identity(rng, number + number // N_BLOCKS)
    return who, make_voice(rng, who.presents)


def make_clip(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Render and write one clip; returns its line of the record."""
    number = int(recipe["clip_id"][1:])
    rng = np.random.default_rng([GENERATOR_VERSION, recipe["seed"], number])
    who, speaks = speaker(recipe["seed"], recipe["speaker"])
    speech = speak(speaks, recipe["sentence"], recipe["shown_audio"], recipe["audio_intensity"], rng)
    level = loudness_of(record(speech, 99, np.random.default_rng(0)))
    sound = record(speech, recipe["snr_db"], rng)
    if recipe["hard_audio"] == "silent":
        sound = np.zeros_like(sound)
    moments = np.arange(int(len(sound) / SAMPLE_RATE * film.FPS)) / film.FPS
    frames = film.film(who, recipe, level[(moments * SAMPLE_RATE).astype(int)], rng)
    place = clip_path(folder, recipe["clip_id"])
    path = write_clip(place, frames, film.FPS, sound, SAMPLE_RATE)
    return dict(clip_id=recipe["clip_id"], recipe=files.digest(recipe), bytes=path.stat().st_size)


def clip_path(folder: Path, clip_id: str) -> Path:
    return folder / "clips" / f"{clip_id}.mp4"


def _read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """The record of complete clips."""
    return {entry["clip_id"]: entry for entry in files.read_lines(folder / RECORD) if "clip_id" in entry}


def _is_complete(folder: Path, entry: dict[str, Any] | None, key: str) -> bool:
    path = clip_path(folder, entry["clip_id"]) if entry else folder
    return bool(entry) and entry["recipe"] == key and path.is_file() and path.stat().st_size == entry["bytes"]


def _forget(folder: Path, clip_ids: set[str]) -> None:
    """Remove clips of an earlier recipe, so that the folder holds this corpus only."""
    for clip_id in clip_ids:
        clip_path(folder, clip_id).unlink(missing_ok=True)


def _tables(folder: Path, recipes: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    texts = {"missing": None, "empty": ""}
    rows = [
        dict(
            clip_id=r["clip_id"],
            video=str(clip_path(folder, r["clip_id"])),
            text=texts.get(r["hard_text"], r["sentence"]),
            label=r["label"],
            split=r["split"],
            group=f"block-{r['block']}",
            speaker=f"s{r['speaker']:02d}",
        )
        for r in recipes
    ]
    hidden = {"split", "label", "block", "speaker", "seed", "n_speakers", "version"}
    truth = [{k: r[k] for k in ("clip_id", "truth", *sorted(set(r) - hidden - {"clip_id", "truth"}))} for r in recipes]
    return pd.DataFrame(rows), pd.DataFrame(truth)
