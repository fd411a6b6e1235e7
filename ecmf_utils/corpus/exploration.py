"""Explore a corpus before any model: tables of the manifest, measures of a sample, transcripts, example clips."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, data_dir, read_parquet, write_json
from ecmf_utils.media import SAMPLE_RATE, frame_times, read_audio, read_frames
from ecmf_utils.media.reading import MediaError
from ecmf_utils.media.sound import FLOOR, WINDOW, find_speech, measure_levels
from ecmf_utils.notebook import Note
from ecmf_utils.parallel import parallel_map

from . import leakage
from .findings import FINDINGS, rate_severity
from .manifest import SPLITS, count_problems

REPEATED = {"text": "transcripts", "content_hash": "media files", "group": "groups", "speaker": "speakers"}

MEASURES = ("loudness_dbfs", "snr_db", "speech_s", "brightness", "motion")
SILENT_DBFS = -80.0  # a clip that is quieter as a whole counts as silent: it has no loudness, noise or speech

LETTERS = {
    "Latin": "A-Za-z\u00c0-\u024f", "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "kana": "\u3040-\u30ff",
    "Hangul": "\u1100-\u11ff\uac00-\ud7af", "Cyrillic": "\u0400-\u052f", "Greek": "\u0370-\u03ff",
    "Hebrew": "\u0590-\u05ff", "Arabic": "\u0600-\u06ff", "Devanagari": "\u0900-\u097f", "Thai": "\u0e00-\u0e7f",
}  # fmt: skip
UNSPACED = ("Han", "kana", "Thai")  # scripts without spaces between words: their characters are counted
_UNSPACED_LETTERS = "".join(LETTERS[name] for name in UNSPACED)
_UNIT = re.compile(rf"[{_UNSPACED_LETTERS}]|[^\W_{_UNSPACED_LETTERS}]+(?:['’-][^\W_{_UNSPACED_LETTERS}]+)*")
_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in LETTERS.items()}
SECOND_SCRIPT = 0.2  # a second script is named when it has more than this share of the letters
SHORTEST_SPEECH_S = 0.3  # a speech rate over less than a syllable means nothing


# ---- tables of the manifest


def describe_splits(clips: pd.DataFrame) -> pd.DataFrame:
    """One row a split: clips, labelled, groups and how uneven they are, speakers, minutes.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    DataFrame
        Index split, all clips first; text to show.
    """
    parts = {"all": clips} | {name: clips[clips["split"] == name] for name in SPLITS if (clips["split"] == name).any()}
    return pd.DataFrame({name: _describe_part(part) for name, part in parts.items()}).T


def _describe_part(clips: pd.DataFrame) -> dict[str, str]:
    sizes, durations = clips["group"].value_counts(), clips["duration_s"].dropna()
    minutes = f"{durations.sum() / 60:,.1f}" if len(durations) else "unknown"
    spread = f"{sizes.min():,} to {sizes.max():,}, median {sizes.median():,.0f}"
    return {
        "clips": f"{len(clips):,}",
        "labelled": f"{clips['label'].notna().sum():,}",
        "groups": f"{len(sizes):,}",
        "clips per group": spread if sizes.min() < sizes.max() else f"{sizes.max():,}",
        "speakers": f"{clips['speaker'].nunique():,}",
        "minutes": minutes + (f" in {len(durations):,} clips" if 0 < len(durations) < len(clips) else ""),
    }


def count_missing(clips: pd.DataFrame) -> pd.DataFrame | Note:
    """How many clips of each split lack a picture, a sound, a transcript or a label.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    DataFrame or Note
        Index what is missing, as far as any clip lacks it; a column for each split. A note where nothing is missing.
    """
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
    if table.empty:
        return Note("Nothing is missing: picture, sound, transcript and label of every clip are there.")
    return table


def count_repeated(clips: pd.DataFrame) -> pd.DataFrame:
    """How many transcripts, media files, groups and speakers there are, and how many are in train and test.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    DataFrame
        Index what repeats; columns distinct, of several clips, in train and test.
    """
    rows = {}
    for column, name in REPEATED.items():
        sizes = clips[column].value_counts()
        train, test = (set(clips.loc[clips["split"] == split, column].dropna()) for split in ("train", "test"))
        rows[name] = len(sizes), int((sizes > 1).sum()), len(train & test)
    return pd.DataFrame(rows, index=["distinct", "of several clips", "in train and test"]).T


def list_problems(clips: pd.DataFrame) -> pd.DataFrame | Note:
    """How often each problem occurs, what it means, and the first clips that have it.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    DataFrame or Note
        Index problem. A note where no clip has one.
    """
    counts = count_problems(clips)
    if counts.empty:
        return Note("No clip has a problem.")
    with_problem = clips.loc[clips["problem"].notna(), ["clip_id", "problem"]]
    codes = with_problem.assign(code=with_problem["problem"].str.split(";")).explode("code")
    first = codes.groupby("code")["clip_id"].agg(lambda ids: ", ".join(ids.head(3)))
    return _name_rows(counts.assign(**{"for example": counts["problem"].map(first)}), "problem")


def list_findings(profile: str) -> pd.DataFrame | Note:
    """What was found while the corpus was read, one row a kind and file; see `findings.FINDINGS`.

    Parameters
    ----------
    profile : str
        Whose corpus to look at.

    Returns
    -------
    DataFrame or Note
        Index code, warnings first. A note where nothing was found.
    """
    findings = _read_optional(profile, "findings")
    if findings is None or findings.empty:
        return Note("Nothing was found to be wrong with the files of the corpus.")
    table = findings.groupby(["code", "file"], sort=False, dropna=False, as_index=False).agg(
        rows=("text", "size"), **{"for example": ("text", "first")}
    )
    table.insert(2, "meaning", table["code"].map(FINDINGS).fillna(""))
    remark = table["code"].map(rate_severity) == "info"
    return _name_rows(table.iloc[np.lexsort([-table["rows"], remark])].head(20), "code")


def list_label_changes(profile: str) -> pd.DataFrame | Note:
    """What became of each label that the corpus uses, where any is not simply kept.

    Parameters
    ----------
    profile : str
        Whose corpus to look at.

    Returns
    -------
    DataFrame or Note
        Index label of the corpus. A note where all labels were kept.
    """
    table = _read_optional(profile, "label_map")
    if table is None or (table["found"] == table["becomes"]).all():
        return Note("Every label of the corpus is one of the profile's: none was renamed or dropped.")
    return _name_rows(table.assign(becomes=table["becomes"].fillna("– (no counterpart)")), "found")


def list_shared(profile: str) -> pd.DataFrame | Note:
    """What is shared across splits or folds, one row a kind, with clips of the largest case of each.

    Parameters
    ----------
    profile : str
        Whose corpus to look at.

    Returns
    -------
    DataFrame or Note
        Index kind. A note where nothing is shared, or the check has not run.
    """
    shared = _read_optional(profile, "leakage")
    if shared is None:
        return Note("The leakage check has not run: `ecmf run 00` makes it.")
    if shared.empty:
        return Note("Nothing is shared: no group, file, sentence or sound is on both sides of a split or fold.")
    table = leakage.summarise_leaks(shared)
    largest = shared.sort_values("n_clips", ascending=False, kind="stable").drop_duplicates("kind").set_index("kind")
    examples = largest["clips"].map(lambda clips: ", ".join(list(clips)[:3]))
    table = table.assign(**{"for example": table["kind"].map(examples).fillna("–")})
    return _name_rows(table.drop(columns="meaning").rename(columns={"clusters": "cases"}), "kind")


def _name_rows(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with a column as the names of its rows."""
    return table.set_index(column).rename_axis(None)


def _read_optional(profile: str, name: str) -> pd.DataFrame | None:
    """A table that `00_start_here` may have written, or None."""
    path = data_dir(profile) / f"{name}.parquet"
    return read_parquet(path) if path.exists() else None


# ---- measures of a sample


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
    n_workers : int
        Processes; 0 takes as many as there are processors.

    Returns
    -------
    DataFrame
        `clip_id`, `loudness_dbfs` (root mean square, dB full scale), `snr_db` (loud against quiet 25 ms
        windows, a rough estimate), `speech_s` (seconds of the windows that `sound.find_speech` takes for
        speech), `brightness` (mean grey level, 0–255), `motion` (mean absolute grey difference between
        five evenly spaced frames); NaN where the stream is missing.
    """
    rows = list(parallel_map(_measure_clip, clips.to_dict("records"), n_workers, chunk=4))
    table = pd.DataFrame(rows, columns=["clip_id", *MEASURES])
    return table.astype(dict.fromkeys(MEASURES, float))


def _measure_clip(clip: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"clip_id": clip["clip_id"]} | dict.fromkeys(MEASURES, np.nan)
    try:
        if isinstance(clip["audio"], str):
            row |= _measure_sound(read_audio(clip["audio"], SAMPLE_RATE))
        if clip["width"] == clip["width"]:  # not NaN
            times = frame_times(clip["duration_s"], count=5)
            row |= _measure_frames(read_frames(clip["video"], times, max_side=120)[0])
    except MediaError:  # it is already in the table of problems
        pass
    return row


def _measure_sound(sound: np.ndarray) -> dict[str, float]:
    levels = measure_levels(sound)
    if not len(levels):
        return {}
    loud, quiet = np.percentile(levels, [90, 10])
    overall = 20 * np.log10(np.sqrt((sound**2).mean()) + FLOOR)
    speech = find_speech(sound).sum() * WINDOW / SAMPLE_RATE
    if overall <= SILENT_DBFS:
        return {}
    return {"loudness_dbfs": float(overall), "snr_db": float(loud - quiet), "speech_s": float(speech)}


def _measure_frames(frames: np.ndarray) -> dict[str, float]:
    grey = np.stack([frame.mean(axis=2) for frame in frames]).astype(np.float32)
    motion = float(np.abs(np.diff(grey, axis=0)).mean()) if len(grey) > 1 else 0.0
    return {"brightness": float(grey.mean()), "motion": motion}


def describe_measures(measured: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame | Note:
    """Number of clips, mean, standard deviation, minimum, median and maximum of some measures.

    Parameters
    ----------
    measured : DataFrame
        The table of `measure_clips`, perhaps with further columns.
    names : mapping
        Column to the name that the table shows.
    """
    if measured.empty:
        return Note("There are no media to measure.")
    table = measured[list(names)].rename(columns=names).describe().T.rename(columns={"count": "clips", "50%": "median"})
    table = table[["clips", "mean", "std", "min", "median", "max"]].round(1).astype({"clips": int}).astype(object)
    return table.where(table.notna(), "–")


# ---- transcripts: script, length and speech rate


def count_words(clips: pd.DataFrame) -> pd.DataFrame:
    """Script and length of each transcript.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    DataFrame
        `clip_id`, `script` (`Latin`, `Han`, …, `Han + Latin` where a second one has a fifth of the
        letters, `other`; None without transcript), `length` (words; where a script has no blanks,
        characters; NaN without transcript), in the order of `clips`.
    """
    texts = [text if isinstance(text, str) else None for text in clips["text"]]
    return pd.DataFrame(
        {
            "clip_id": clips["clip_id"].to_numpy(object),
            "script": pd.Series([_detect_script(text) for text in texts], dtype="str"),
            "length": [np.nan if text is None else len(_UNIT.findall(text)) for text in texts],
        }
    )


def _detect_script(text: str | None) -> str | None:
    """The script that a text is written in; None for no text."""
    if text is None:
        return None
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "other"
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPT.items()}
    total = sum(counts.values())
    named = [name for name in sorted(counts, key=counts.get, reverse=True) if counts[name] > SECOND_SCRIPT * total]
    return " + ".join(named[:2]) or "other"


def choose_unit(scripts: pd.Series) -> str:
    """What the `length` of transcripts in these scripts counts: words, characters, or both."""
    unspaced = scripts.dropna().str.contains("|".join(UNSPACED))
    if not unspaced.any():
        return "words"
    return "characters" if unspaced.all() else "words or characters"


def count_languages(clips: pd.DataFrame, lengths: pd.DataFrame) -> pd.DataFrame | Note:
    """Transcripts by script and by the language that the manifest states.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    lengths : DataFrame
        Of `count_words`, for the same clips.

    Returns
    -------
    DataFrame or Note
        Index script; language, clips, share, median and longest length, and what is counted. A note where no clip has a
        transcript.
    """
    stated = clips["language"].fillna("not stated").to_numpy(object)
    transcripts = lengths.assign(language=stated).dropna(subset=["script"])
    if transcripts.empty:
        return Note("No clip has a transcript.")
    table = transcripts.groupby(["script", "language"], as_index=False).agg(
        clips=("length", "size"), median=("length", "median"), longest=("length", "max")
    )
    table["share"] = (table["clips"] / len(clips)).map("{:.1%}".format)
    table["counted in"] = [choose_unit(pd.Series([name])) for name in table["script"]]
    table = table.astype({"longest": int})[["script", "language", "clips", "share", "median", "longest", "counted in"]]
    return table.sort_values("clips", ascending=False).head(12).set_index("script").rename_axis(None)


def measure_speech_rates(lengths: pd.DataFrame, measured: pd.DataFrame) -> pd.Series:
    """Words or characters per second of estimated speech.

    Parameters
    ----------
    lengths : DataFrame
        The table of `count_words`.
    measured : DataFrame, length N
        The table of `measure_clips`.

    Returns
    -------
    float Series, length N
        In the order of `measured`; NaN where the length or the speech is unknown, or the speech is too short.
    """
    length = measured["clip_id"].map(lengths.set_index("clip_id")["length"])
    return length / measured["speech_s"].where(measured["speech_s"] >= SHORTEST_SPEECH_S)


# ---- clips to look at


def draw_clips(clips: pd.DataFrame, labels: Sequence[str], per_row: int = 5, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Random clips with a picture: some of each label, or where there are no labels of the largest groups.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    labels : sequence of str
        All labels, in the order of the result.
    per_row : int
        Clips of each label or group, at most.
    seed : int
        Of the choice.

    Returns
    -------
    dict
        Label or group to rows of the manifest.
    """
    seen = clips[(clips["status"] == "ok") & clips["width"].notna() & clips["duration_s"].notna()]
    labelled = seen["label"].notna().any()
    column, names = ("label", labels) if labelled else ("group", seen["group"].value_counts().index[:6])
    rows = {name: seen[seen[column] == name] for name in names}
    drawn = {name: part.sample(min(per_row, len(part)), random_state=seed) for name, part in rows.items() if len(part)}
    return {name: part.sort_values("clip_id") for name, part in drawn.items()}


def choose_clip(clips: pd.DataFrame, clip_id: str = "") -> pd.Series | None:
    """The clip of that name; without a name the first of those with most of picture, sound and words.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    clip_id : str
        Name of a clip; empty: any.

    Returns
    -------
    Series or None
        A row of the manifest; None where no clip has media.

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
    readable = clips[(clips["status"] == "ok") & clips["duration_s"].notna()]
    silent = readable["problem"].str.contains("silent_sound", regex=False, na=False)
    streams = readable["width"].notna().astype(int) + (readable["audio"].notna() & ~silent) + readable["text"].notna()
    return None if readable.empty else readable.loc[streams.idxmax()]


@dataclass(frozen=True)
class Measures:
    """What `measure_sample` returns.

    Attributes
    ----------
    words : DataFrame
        Script and length of the transcript of every clip, see `count_words`.
    clips : DataFrame
        The clips of the sample: `clip_id`, `label`, `duration_s`, `script`, the columns of `measure_clips`, `rate`
        (words or characters per second of speech) and `share` (speech, % of the clip).
    names : dict
        Column of `clips` to its name with unit.
    note : Note
        How many clips were measured, of how many.
    summary : DataFrame or Note
        Clips, mean, standard deviation, least, median and largest value of each measure.
    """

    words: pd.DataFrame
    clips: pd.DataFrame
    names: dict[str, str]
    note: Note
    summary: pd.DataFrame | Note


def measure_sample(clips: pd.DataFrame, n: int, seed: int = 0, n_workers: int = 0) -> Measures:
    """Measure sound, speech and pictures of a random sample of clips.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    n : int
        Clips of the sample, at most.
    seed : int
        Of the sample.
    n_workers : int
        Processes; 0: as many as there are processors.

    Returns
    -------
    Measures
        The words of all clips, and the measures of the sample.
    """
    words = count_words(clips)
    sample = sample_clips(clips, n, seed)
    measured = sample[["clip_id", "label", "duration_s"]].merge(measure_clips(sample, n_workers), on="clip_id")
    measured["rate"] = measure_speech_rates(words, measured)
    measured["share"] = (100 * measured["speech_s"] / measured["duration_s"]).clip(upper=100)
    measured["script"] = measured["clip_id"].map(words.set_index("clip_id")["script"])
    names = {
        "loudness_dbfs": "loudness (dBFS)",
        "snr_db": "signal to noise (dB)",
        "speech_s": "speech (s)",
        "rate": f"{choose_unit(words['script'])} per second of speech",
        "brightness": "brightness (0–255)",
        "motion": "motion (grey levels between frames)",
    }
    probed = int(clips["duration_s"].notna().sum())
    note = f"Measured: {len(sample):,} clips, drawn at random from {probed:,} probed ones of {len(clips):,} in all."
    return Measures(words, measured, names, Note(note), describe_measures(measured, names))


def save_summary(profile: str, clips: pd.DataFrame, measures: Measures) -> dict[str, Any]:
    """Write `data/<profile>/explore/summary.json`: a corpus in a few numbers.

    Parameters
    ----------
    profile : str
        Whose corpus it is.
    clips : DataFrame
        The manifest.
    measures : Measures
        Of `measure_sample`.

    Returns
    -------
    dict
        What was written.
    """
    summary = {
        "clips": len(clips),
        "hours": round(clips["duration_s"].sum() / 3600, 3),
        "speakers": clips["speaker"].nunique(),
        "labelled": int(clips["label"].notna().sum()),
        "with_problems": int(clips["problem"].notna().sum()),
        "shared_transcripts": int(count_repeated(clips).loc["transcripts", "in train and test"]),
        "groups": clips["group"].nunique(),
        "probed": int(clips["duration_s"].notna().sum()),
        "measured": len(measures.clips),
        "scripts": ", ".join(measures.words["script"].value_counts().index[:3]),
    }
    write_json(data_dir(profile) / "explore" / "summary.json", summary)
    return summary
