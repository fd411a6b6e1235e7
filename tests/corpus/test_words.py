"""Transcripts counted: script, length, rate."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import corpus
from ecmf_utils.corpus import exploration


def said(*texts, language=None):
    clips = pd.DataFrame({"clip_id": [f"c{i}" for i in range(len(texts))], "text": list(texts), "language": language})
    return clips, corpus.count_words(clips)


@pytest.mark.parametrize(
    ("text", "script", "length"),
    [
        ("Don't you see?", "Latin", 3),
        ("Ça va très bien", "Latin", 4),
        ("你好，世界！", "Han", 4),
        ("我爱 Python", "Latin + Han", 3),
        ("我觉得这个 OK 吧我们走了", "Han", 11),
        ("日本語です", "Han + kana", 5),
        ("안녕 하세요", "Hangul", 2),
        ("Привет, как дела?", "Cyrillic", 3),
        ("123 !!!", "other", 1),
        ("…", "other", 0),
        (None, None, np.nan),
    ],
)
def test_script_and_length(text, script, length):
    table = said(text)[1].iloc[0]
    assert (table["script"] == script) or (script is None and pd.isna(table["script"]))
    assert table["length"] == pytest.approx(length, nan_ok=True)


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [(["Latin"], "words"), (["Han"], "characters"), (["Han", "Latin"], "words or characters"), ([None], "words")],
)
def test_the_unit_says_what_is_counted(scripts, expected):
    assert corpus.choose_unit(pd.Series(scripts, dtype="str")) == expected


def test_languages_are_those_of_the_manifest_beside_the_script():
    clips, table = said("Hello there", "你好", None, language=["en", None, None])
    found = corpus.count_languages(clips, table)
    assert found.loc["Latin", "language"] == "en" and found.loc["Han", "language"] == "not stated"
    assert found.loc["Han", "share"] == "33.3%" and found.loc["Han", "counted in"] == "characters"


def test_no_transcript_at_all_is_one_line():
    assert corpus.count_languages(*said(None, None)) == "No clip has a transcript."


def test_a_rate_needs_speech():
    _, table = said("one two three", "one two three", None)
    measured = pd.DataFrame({"clip_id": ["c1", "c0", "c2"], "speech_s": [0.1, 1.5, 2.0]})
    assert exploration.measure_speech_rates(table, measured).tolist() == pytest.approx(
        [np.nan, 2.0, np.nan], nan_ok=True
    )
