"""Measures of a clip before any model: right on clips whose answer is known; tables of any corpus."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import corpus, files
from ecmf_utils.corpus import exploration
from ecmf_utils.corpus.manifest import validate
from ecmf_utils.media import reading, writing
from ecmf_utils.media.sound import find_speech

LABELS = ["sad", "happy"]


def manifest(rows):
    """A checked manifest of a few rows, as `00_start_here` writes it."""
    base = {"split": "train", "group": "g", "status": "ok", "problem": None, "text": None}
    return validate(pd.DataFrame([base | row for row in rows]), LABELS, "test")


def clip_row(path, name="a"):
    """A manifest row of a file."""
    found = reading.probe(path)
    known = {key: found[key] for key in ("duration_s", "width", "height", "fps", "sample_rate")}
    return {"clip_id": name, "video": str(path), "audio": str(path) if found["has_audio"] else None} | known


def measured(path):
    return corpus.measure_clips(manifest([clip_row(path)]), 1).iloc[0]


def write(path, sound, grey=128, step=0):
    frames = [np.full((64, 64, 3), grey + step * i, np.uint8) for i in range(12)]
    writing.write_clip(path, frames, 12, sound.astype(np.float32), 16000)
    return path


def tone(amplitude, seconds=1.0):
    return amplitude * np.sin(2 * np.pi * 220 * np.arange(int(16000 * seconds)) / 16000)


# ---- media of a sample


def test_halving_the_amplitude_is_six_decibels(tmp_path):
    loud, soft = (measured(write(tmp_path / f"{a}.mp4", tone(a))) for a in (0.5, 0.25))
    assert loud["loudness_dbfs"] - soft["loudness_dbfs"] == pytest.approx(6.0, abs=0.5)


def test_a_voice_in_silence_has_more_signal_than_one_in_noise(tmp_path):
    voice = np.concatenate([tone(0.5, 0.5), np.zeros(8000)])
    noise = np.random.default_rng(0).normal(0, 0.05, 16000)
    clean, noisy = (measured(write(tmp_path / f"{i}.mp4", s)) for i, s in enumerate((voice, voice + noise)))
    assert clean["snr_db"] > noisy["snr_db"] + 10


def test_brightness_and_motion_are_in_grey_levels(tmp_path):
    still = measured(write(tmp_path / "still.mp4", tone(0.1), grey=100))
    moving = measured(write(tmp_path / "moving.mp4", tone(0.1), grey=100, step=8))
    assert still["brightness"] == pytest.approx(100, abs=3) and still["motion"] < 0.5
    assert moving["motion"] > 10


def test_a_missing_stream_is_unknown_not_zero(tmp_path):
    frames = [np.full((64, 64, 3), 100, np.uint8)] * 6
    writing.write_clip(tmp_path / "mute.mp4", frames, 12, None, 16000)
    found = measured(tmp_path / "mute.mp4")
    assert np.isnan(found["loudness_dbfs"]) and found["brightness"] > 90


def test_a_damaged_file_is_unknown_not_an_error(tmp_path):
    row = clip_row(write(tmp_path / "a.mp4", tone(0.1)))
    (tmp_path / "a.mp4").write_bytes(b"no media")
    assert corpus.measure_clips(manifest([row]), 1).iloc[0][list(exploration.MEASURES)].isna().all()


def test_the_sample_leaves_out_what_cannot_be_decoded():
    seen = {"video": "a.mp4", "duration_s": 1.0}
    clips = manifest(
        [
            {"clip_id": "a", **seen},
            {"clip_id": "b", **seen, "status": "failed"},
            {"clip_id": "c", "video": "c.mp4"},
            {"clip_id": "d", "duration_s": 1.0},
        ]
    )
    assert list(exploration.sample_clips(clips, 10)["clip_id"]) == ["a"]


def test_measuring_nothing_gives_the_columns():
    assert list(corpus.measure_clips(manifest([{"clip_id": "a"}]).iloc[:0]).columns) == [
        "clip_id",
        *exploration.MEASURES,
    ]


def test_the_spread_of_what_nobody_knows_is_a_dash():
    table = exploration.describe_measures(
        pd.DataFrame({"a": [1.0, 3.0], "b": np.nan}), {"a": "first (s)", "b": "second"}
    )
    assert table.loc["first (s)", ["clips", "mean", "max"]].tolist() == [2, 2.0, 3.0]
    assert table.loc["second", "clips"] == 0 and table.loc["second", "mean"] == "–"


# ---- speech time


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
def test_speech_time_is_that_of_the_voice(noise):
    sound = np.concatenate([np.zeros(8000), tone(0.3, 1.0), np.zeros(8000)])
    sound = sound + np.random.default_rng(0).normal(0, noise, len(sound))
    spoken = find_speech(sound.astype(np.float32))
    assert len(spoken) == 80 and spoken.sum() == pytest.approx(40, abs=3) and spoken[22:58].all()


def test_a_short_pause_belongs_to_the_speech_and_a_click_does_not():
    pause = np.concatenate([np.zeros(8000), tone(0.3, 0.5), np.zeros(1200), tone(0.3, 0.5), np.zeros(8000)])
    click = np.concatenate([np.zeros(12000), tone(0.3, 0.02), np.zeros(12000)])
    assert find_speech(pause)[20:63].all()
    assert not find_speech(click).any()


@pytest.mark.parametrize("length", [0, 10, 399, 16000])
def test_silence_of_any_length_has_no_speech(length):
    assert find_speech(np.zeros(length, np.float32)).sum() == 0


# ---- tables


@pytest.fixture
def clips():
    seen = {"video": "a.mp4", "audio": "a.mp4", "duration_s": 60.0, "width": 320.0, "content_hash": "h"}
    return manifest(
        [
            {"clip_id": "a", "label": "sad", "text": "Same words", "speaker": "s1", **seen},
            {
                "clip_id": "b",
                "label": "happy",
                "text": "Same words",
                "split": "test",
                "group": "h",
                "speaker": "s2",
                **seen,
            },
            {
                "clip_id": "c",
                "video": "c.mp4",
                "split": "unlabelled",
                "status": "failed",
                "problem": "not_media;empty_text",
            },
            {"clip_id": "d", "split": "unlabelled"},
            {"clip_id": "e", "video": "e.mp4", "split": "unlabelled"},
        ]
    )


def test_the_overview_counts_each_split(clips):
    table = corpus.describe_splits(clips)
    assert list(table.index) == ["all", "train", "test", "unlabelled"]
    assert table.loc["all", ["clips", "labelled", "groups"]].tolist() == ["5", "2", "2"]
    assert table.loc["all", "clips per group"] == "1 to 4, median 2"
    assert table["minutes"].tolist() == ["2.0 in 2 clips", "1.0", "1.0", "unknown"]


def test_what_is_missing_is_counted_once_and_by_split(clips):
    table = corpus.count_missing(clips)["unlabelled"]
    assert table["cannot be used at all"] == 1 and table["no media at all"] == 1
    assert table["not probed, so nothing is known of its streams"] == 1
    assert "no picture" not in table.index and table["no label"] == 3


def test_nothing_missing_is_one_line(clips):
    assert corpus.count_missing(clips.iloc[:1]).startswith("Nothing is missing")


def test_problems_name_their_meaning_and_clips(clips):
    table = corpus.list_problems(clips)
    assert table.loc["not_media", "for example"] == "c" and table.loc["not_media", "meaning"]
    assert corpus.list_problems(clips.iloc[:2]) == "No clip has a problem."


def test_what_repeats_in_train_and_test_is_counted(clips):
    table = corpus.count_repeated(clips)
    assert table.loc["transcripts"].tolist() == [1, 1, 1]
    assert table.loc["speakers"].tolist() == [2, 0, 0]


def write_table(name, rows):
    files.write_parquet(pd.DataFrame(rows), files.data_dir("p") / f"{name}.parquet")


def test_tables_that_were_not_written_are_one_line_each(home):
    assert "none was renamed" in corpus.list_label_changes("p")
    assert "has not run" in corpus.list_shared("p")
    assert "Nothing was found" in corpus.list_findings("p")


def test_labels_that_changed_are_shown(home):
    write_table(
        "label_map", [{"found": "joy", "becomes": "happy", "clips": 4}, {"found": "calm", "becomes": None, "clips": 1}]
    )
    table = corpus.list_label_changes("p")
    assert table["becomes"].tolist() == ["happy", "– (no counterpart)"] and table["clips"].sum() == 5


def test_findings_are_one_row_a_kind_with_the_first_example(home):
    found = [{"code": "duplicate_id", "file": "l.csv", "row": i, "clip_id": "a", "text": f"line {i}"} for i in range(9)]
    write_table("findings", [*found, {"code": "encoding", "file": "t.csv", "row": 1, "clip_id": None, "text": "gbk"}])
    table = corpus.list_findings("p")
    assert table.loc["duplicate_id", "rows"] == 9 and table.loc["duplicate_id", "for example"] == "line 0"
    assert table["meaning"].str.len().min() > 10 and list(table.index) == ["duplicate_id", "encoding"]


def test_what_is_shared_is_one_row_a_kind_with_the_largest_case(home):
    row = {"kind": "transcript", "key": "k", "splits": "test+train", "folds": "0+1", "groups": 2}
    write_table("leakage", [row | {"n_clips": 2, "clips": ["a", "b"]}, row | {"n_clips": 3, "clips": ["c", "d", "e"]}])
    table = corpus.list_shared("p").loc["transcript"]
    assert table["clips"] == 5 and table["for example"] == "c, d, e"


# ---- clips to look at


def test_a_row_of_pictures_for_each_label_or_else_for_the_largest_groups(clips):
    assert list(corpus.draw_clips(clips, LABELS)) == LABELS
    assert list(corpus.draw_clips(clips.assign(label=None), LABELS)) == ["g", "h"]


def test_the_clip_to_look_at_has_all_streams_if_one_has(clips):
    assert corpus.choose_clip(clips.iloc[::-1])["clip_id"] == "b"
    assert corpus.choose_clip(clips, "d")["clip_id"] == "d"
    assert corpus.choose_clip(clips[clips["clip_id"] == "d"]) is None


def test_an_unknown_clip_is_one_line(clips):
    with pytest.raises(files.EcmfError, match="clip_id='x'"):
        corpus.choose_clip(clips, "x")


def test_a_sample_is_measured_beside_the_words_of_all_clips_and_summed_up(tmp_path, home):
    sound = np.concatenate([np.zeros(8000), tone(0.3), np.zeros(8000)])
    spoken = clip_row(write(tmp_path / "a.mp4", sound)) | {"text": "two words", "label": "sad", "speaker": "s"}
    clips = manifest([spoken, {"clip_id": "b", "text": "three more words", "problem": "unknown_label"}])
    measures = corpus.measure_sample(clips, 10, n_workers=1)
    assert list(measures.clips["clip_id"]) == ["a"] and list(measures.words["length"]) == [2, 3]
    assert measures.note == "Measured: 1 clips, drawn at random from 1 probed ones of 2 in all."
    row = measures.clips.iloc[0]
    assert (row["label"], row["script"]) == ("sad", "Latin") and row["share"] <= 100
    assert row["rate"] == pytest.approx(2 / row["speech_s"])
    assert set(measures.summary.index) == set(measures.names.values())
    assert measures.names["rate"] == "words per second of speech"
    summary = corpus.save_summary("p", clips, measures)
    assert files.read_json(files.data_dir("p") / "explore" / "summary.json") == summary
    assert {key: summary[key] for key in ("clips", "labelled", "with_problems", "probed", "measured", "scripts")} == {
        "clips": 2, "labelled": 1, "with_problems": 1, "probed": 1, "measured": 1, "scripts": "Latin",
    }  # fmt: skip


def test_without_media_there_is_a_note_in_place_of_measures(home):
    measures = corpus.measure_sample(manifest([{"clip_id": "a"}]), 10, n_workers=1)
    assert measures.clips.empty and measures.summary == "There are no media to measure."
