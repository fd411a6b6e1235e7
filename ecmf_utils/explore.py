"""What a corpus holds before any model sees it, as tables; and what can be measured on a sample of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import binary_closing, binary_opening

from . import leakage
from .corpus import SPLITS, count_problems
from .findings import FINDINGS, severity
from .media import MediaError, frame_times, read_audio, read_frames
from .paths import EcmfError, data_dir, read_parquet
from .workers import parallel_map

RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms
MEASURES = ("loudness_dbfs", "snr_db", "speech_s", "brightness", "motion")
FLOOR = 1e-5  # full scale; keeps the logarithm of silence finite
# A window is taken for speech when it is this much below the loud ones at most, this much above the
# quiet ones at least, and no whisper of a noise floor. Rough: music and laughter count as well.
BELOW_LOUD_DB, ABOVE_QUIET_DB, AUDIBLE_DBFS = 25.0, 6.0, -60.0
SILENT_DBFS = -80.0  # of a whole clip; what is below has no loudness to speak of
PAUSE, CLICK = 5, 3  # windows: a shorter gap is part of a word, a shorter sound is none

REPEATED = {"text": "transcripts", "content_hash": "media files", "group": "groups", "speaker": "speakers"}


class Note(str):
    """One line in place of a table or figure that would be empty."""

    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return str(self)


# ---- media of a sample


def sample_clips(clips: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """At most `n` usable clips whose media were probed, drawn at random, in the order of their names."""
    media = clips[["video", "audio"]].notna().any(axis=1)
    readable = clips[(clips["status"] == "ok") & clips["duration_s"].notna() & media]
    return readable.sample(min(n, len(readable)), random_state=seed).sort_values("clip_id")


def measure_clips(clips: pd.DataFrame, n_workers: int = 0) -> pd.DataFrame:
    """Loudness, noise, speech, light and motion of each clip.

    Parameters
    ----------
    clips : DataFrame
        Rows of the manifest.

    Returns
    -------
    DataFrame
        `clip_id`, `loudness_dbfs` (root mean square, dB full scale), `snr_db` (loud against quiet 25 ms
        windows, a rough estimate), `speech_s` (seconds of windows that `speech_windows` takes for
        speech), `brightness` (mean grey level, 0–255), `motion` (mean absolute grey difference between
        five evenly spaced frames); NaN where the stream is missing.
    """
    rows = list(parallel_map(_measure_row, clips.to_dict("records"), n_workers, chunk=4))
    table = pd.DataFrame(rows, columns=["clip_id", *MEASURES])
    return table.astype(dict.fromkeys(MEASURES, float))


def describe_measures(measured: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame | Note:
    """Clips, mean, standard deviation, least, median and largest value of columns; `names` says how they are called."""
    if measured.empty:
        return Note("There are no media to measure.")
    table = measured[list(names)].rename(columns=names).describe().T.rename(columns={"count": "clips", "50%": "median"})
    table = table[["clips", "mean", "std", "min", "median", "max"]].round(1).astype({"clips": int}).astype(object)
    return table.where(table.notna(), "–")


def _measure_row(row: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"clip_id": row["clip_id"]} | dict.fromkeys(MEASURES, np.nan)
    try:
        if isinstance(row["audio"], str):
            made |= _sound(read_audio(row["audio"], RATE))
        if row["width"] == row["width"]:  # not NaN
            times = frame_times(row["duration_s"], count=5)
            made |= _pictures(read_frames(row["video"], times, max_side=120)[0])
    except MediaError:  # already a row of the problem table
        pass
    return made


def _sound(sound: np.ndarray) -> dict[str, float]:
    level = measure_levels(sound)
    if not len(level):
        return {}
    loud, quiet = np.percentile(level, [90, 10])
    overall = 20 * np.log10(np.sqrt((sound**2).mean()) + FLOOR)
    speech = find_speech(sound).sum() * WINDOW / RATE
    if overall <= SILENT_DBFS:  # silence has no noise to compare with, and says nothing about speaking
        return {}
    return {"loudness_dbfs": float(overall), "snr_db": float(loud - quiet), "speech_s": float(speech)}


def measure_levels(sound: np.ndarray) -> np.ndarray:
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return 20 * np.log10(np.sqrt((windows**2).mean(1)) + FLOOR)


def find_speech(sound: np.ndarray) -> np.ndarray:
    """Which 25 ms windows of a sound (T,) at 16 kHz are taken for speech, by their level alone.

    Returns
    -------
    bool (T // 400,)
        Louder than 25 dB below the loud windows (95th percentile), 6 dB above the quiet ones (10th) and
        -60 dBFS; gaps under 125 ms are closed, sounds under 75 ms left out.
    """
    level = measure_levels(sound)
    if not len(level):
        return np.zeros(0, bool)
    loud, quiet = np.percentile(level, [95, 10])
    spoken = level > max(loud - BELOW_LOUD_DB, quiet + ABOVE_QUIET_DB, AUDIBLE_DBFS)
    closed = binary_closing(np.pad(spoken, PAUSE), np.ones(PAUSE))[PAUSE:-PAUSE]
    return binary_opening(closed, np.ones(CLICK))


def _pictures(frames: np.ndarray) -> dict[str, float]:
    grey = np.stack([frame.mean(axis=2) for frame in frames]).astype(np.float32)
    motion = float(np.abs(np.diff(grey, axis=0)).mean()) if len(grey) > 1 else 0.0
    return {"brightness": float(grey.mean()), "motion": motion}


# ---- the manifest


def describe_splits(clips: pd.DataFrame) -> pd.DataFrame:
    """One row a split: clips, labelled, groups and how uneven they are, speakers, minutes."""
    rows = {"all": clips} | {name: clips[clips["split"] == name] for name in SPLITS if (clips["split"] == name).any()}
    return pd.DataFrame({name: _counts(part) for name, part in rows.items()}).T


def _counts(clips: pd.DataFrame) -> dict[str, str]:
    sizes, known = clips["group"].value_counts(), clips["duration_s"].dropna()
    minutes = f"{known.sum() / 60:,.1f}" if len(known) else "unknown"
    spread = f"{sizes.min():,} to {sizes.max():,}, median {sizes.median():,.0f}"
    return {
        "clips": f"{len(clips):,}",
        "labelled": f"{clips['label'].notna().sum():,}",
        "groups": f"{len(sizes):,}",
        "clips per group": spread if sizes.min() < sizes.max() else f"{sizes.max():,}",
        "speakers": f"{clips['speaker'].nunique():,}",
        "minutes": minutes + (f" in {len(known):,} clips" if 0 < len(known) < len(clips) else ""),
    }


def count_missing(clips: pd.DataFrame) -> pd.DataFrame | Note:
    """How many clips of each split lack a picture, a sound, a transcript, a label: rows that are all 0 left out."""
    usable, media = clips["status"] != "failed", clips[["video", "audio"]].notna().any(axis=1)
    probed = clips["duration_s"].notna()
    lacks = {
        "cannot be used at all": ~usable,
        "no media at all": usable & ~media,
        "not probed, so nothing is known of its streams": usable & media & ~probed,
        "no picture": usable & media & (clips["video"].isna() | probed & clips["width"].isna()),
        "no sound": usable & media & probed & clips["audio"].isna(),
        "silent sound": clips["problem"].str.contains("silent_sound", regex=False, na=False),
        "no transcript": clips["text"].isna(),
        "no label": clips["label"].isna(),
    }
    table = pd.DataFrame(lacks).groupby(clips["split"]).sum().T.reindex(columns=SPLITS).dropna(axis=1).astype(int)
    table.insert(0, "all", table.sum(axis=1))
    table["share"] = (table["all"] / max(1, len(clips))).map("{:.1%}".format)
    table = table[table["all"] > 0].rename_axis(columns=None)
    return (
        table
        if len(table)
        else Note("Nothing is missing: picture, sound, transcript and label of every clip are there.")
    )


def list_problems(clips: pd.DataFrame) -> pd.DataFrame | Note:
    """How often each problem occurs, what it means, and the first clips that have it."""
    counts = count_problems(clips)
    if counts.empty:
        return Note("No clip has a problem.")
    having = clips.loc[clips["problem"].notna(), ["clip_id", "problem"]]
    codes = having.assign(code=having["problem"].str.split(";")).explode("code")
    first = codes.groupby("code")["clip_id"].agg(lambda ids: ", ".join(ids.head(3)))
    return _by(counts.assign(**{"for example": counts["problem"].map(first)}), "problem")


def list_findings(profile: str) -> pd.DataFrame | Note:
    """What was found while the corpus was read, one row a kind and file; see `findings.FINDINGS`."""
    found = read_optional(profile, "findings")
    if found is None or found.empty:
        return Note("Nothing was found to be wrong with the files of the corpus.")
    table = found.groupby(["code", "file"], sort=False, dropna=False, as_index=False).agg(
        rows=("text", "size"), **{"for example": ("text", "first")}
    )
    table.insert(2, "meaning", table["code"].map(FINDINGS).fillna(""))
    remark = table["code"].map(severity) == "info"
    return _by(table.iloc[np.lexsort([-table["rows"], remark])].head(20), "code")


def list_label_changes(profile: str) -> pd.DataFrame | Note:
    """What became of each label that the corpus uses, where any is not simply kept."""
    table = read_optional(profile, "label_map")
    if table is None or (table["found"] == table["becomes"]).all():
        return Note("Every label of the corpus is one of the profile's: none was renamed or dropped.")
    becomes = table["becomes"].fillna("– (no counterpart)")
    return _by(table.assign(becomes=becomes), "found")


def count_repeated(clips: pd.DataFrame) -> pd.DataFrame:
    """How many transcripts, media files, groups and speakers there are, and how many are in train and test."""
    rows = {}
    for column, name in REPEATED.items():
        sizes = clips[column].value_counts()
        train, test = (set(clips.loc[clips["split"] == split, column].dropna()) for split in ("train", "test"))
        rows[name] = len(sizes), int((sizes > 1).sum()), len(train & test)
    return pd.DataFrame(rows, index=["distinct", "of several clips", "in train and test"]).T


def list_shared(profile: str) -> pd.DataFrame | Note:
    """What is shared across splits or folds, one row a kind, with clips of the largest case of each."""
    found = read_optional(profile, "leakage")
    if found is None:
        return Note("The leakage check has not run: `ecmf run 00` makes it.")
    if found.empty:
        return Note("Nothing is shared: no group, file, sentence or sound stands on both sides of a split or fold.")
    table = leakage.summarise_leaks(found)
    largest = found.sort_values("n_clips", ascending=False, kind="stable").drop_duplicates("kind").set_index("kind")
    examples = largest["clips"].map(lambda clips: ", ".join(list(clips)[:3]))
    table = table.assign(**{"for example": table["kind"].map(examples).fillna("–")})
    return _by(table.drop(columns="meaning").rename(columns={"clusters": "cases"}), "kind")


def _by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column of names as the names of the rows."""
    return table.set_index(column).rename_axis(None)


def read_optional(profile: str, name: str) -> pd.DataFrame | None:
    """A table that `00_start_here` may have written, or None."""
    path = data_dir(profile) / f"{name}.parquet"
    return read_parquet(path) if path.exists() else None


# ---- clips to look at


def with_pictures(clips: pd.DataFrame) -> pd.DataFrame:
    """The usable clips that are known to have a picture."""
    return clips[(clips["status"] == "ok") & clips["width"].notna() & clips["duration_s"].notna()]


def draw_clips(clips: pd.DataFrame, labels: Sequence[str], per_row: int = 5, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Random clips with a picture: a row for each label, or where there are no labels for the largest groups."""
    seen = with_pictures(clips)
    labelled = seen["label"].notna().any()
    column, names = ("label", labels) if labelled else ("group", seen["group"].value_counts().index[:6])
    rows = {name: seen[seen[column] == name] for name in names}
    drawn = {name: part.sample(min(per_row, len(part)), random_state=seed) for name, part in rows.items() if len(part)}
    return {name: part.sort_values("clip_id") for name, part in drawn.items()}


def choose_clip(clips: pd.DataFrame, clip_id: str = "") -> pd.Series | None:
    """The clip of that name; without a name the first of those with most of picture, sound and words; None: no media.

    Raises
    ------
    EcmfError
        No clip has that name.
    """
    if clip_id:
        named = clips[clips["clip_id"] == clip_id]
        if named.empty:
            raise EcmfError(
                f"clip_id={clip_id!r}: no such clip in clips.parquet; leave it empty for the first usable one"
            )
        return named.iloc[0]
    media = clips[(clips["status"] == "ok") & clips["duration_s"].notna()]
    silent = media["problem"].str.contains("silent_sound", regex=False, na=False)
    streams = media["width"].notna().astype(int) + (media["audio"].notna() & ~silent) + media["text"].notna()
    return None if media.empty else media.loc[streams.idxmax()]
