"""What transcripts are made of: script, length, and how fast they are spoken."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from .explore import Note

LETTERS = {
    "Latin": "A-Za-z\u00c0-\u024f", "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "kana": "\u3040-\u30ff",
    "Hangul": "\u1100-\u11ff\uac00-\ud7af", "Cyrillic": "\u0400-\u052f", "Greek": "\u0370-\u03ff",
    "Hebrew": "\u0590-\u05ff", "Arabic": "\u0600-\u06ff", "Devanagari": "\u0900-\u097f", "Thai": "\u0e00-\u0e7f",
}  # fmt: skip
UNSPACED = ("Han", "kana", "Thai")  # written without blanks: a character counts, not a word
_EACH = "".join(LETTERS[name] for name in UNSPACED)
_UNIT = re.compile(rf"[{_EACH}]|[^\W_{_EACH}]+(?:['’-][^\W_{_EACH}]+)*")
_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in LETTERS.items()}
SECOND_SCRIPT = 0.2  # share of the letters from which a second script is named
SHORTEST_SPEECH_S = 0.3  # a rate over less than a syllable says nothing


def count_words(clips: pd.DataFrame) -> pd.DataFrame:
    """Script and length of each transcript.

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
            "script": pd.Series([detect_script(text) for text in texts], dtype="str"),
            "length": [np.nan if text is None else len(_UNIT.findall(text)) for text in texts],
        }
    )


def detect_script(text: str | None) -> str | None:
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
    """What `length` counts: words, characters, or both."""
    unspaced = scripts.dropna().str.contains("|".join(UNSPACED))
    if not unspaced.any():
        return "words"
    return "characters" if unspaced.all() else "words or characters"


def count_languages(clips: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame | Note:
    """Transcripts by script and by the language that the manifest states; `said` as `count` gives it."""
    stated = clips["language"].fillna("not stated").to_numpy(object)
    known = said.assign(language=stated).dropna(subset=["script"])
    if known.empty:
        return Note("No clip has a transcript.")
    table = known.groupby(["script", "language"], as_index=False).agg(
        clips=("length", "size"), median=("length", "median"), longest=("length", "max")
    )
    table["share"] = (table["clips"] / len(clips)).map("{:.1%}".format)
    table["counted in"] = [choose_unit(pd.Series([name])) for name in table["script"]]
    table = table.astype({"longest": int})[["script", "language", "clips", "share", "median", "longest", "counted in"]]
    return table.sort_values("clips", ascending=False).head(12).set_index("script").rename_axis(None)


def measure_speech_rates(said: pd.DataFrame, measured: pd.DataFrame) -> pd.Series:
    """Words (or characters) per second of estimated speech of the measured clips, NaN where either is unknown.

    `said` as `count` gives it, `measured` as `explore.measure_clips` does; rows are in the order of `measured`.
    """
    length = measured["clip_id"].map(said.set_index("clip_id")["length"])
    return length / measured["speech_s"].where(measured["speech_s"] >= SHORTEST_SPEECH_S)
