"""What is found out about files, and that it is found out once."""

import os
import shutil
import signal
import subprocess
import sys
import wave as wavfile
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from ecmf_utils.corpus import manifest, probing
from ecmf_utils.files import ROOT, digest, file_hash, read_parquet
from ecmf_utils.media import reading, writing
from tests.miniatures import _converted

FRAMES = [np.full((48, 64, 3), 20 + 10 * i, np.uint8) for i in range(12)]
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)).astype(np.float32)


def write(path, frames=FRAMES, sound=TONE):
    return str(writing.write_clip(path, frames, 12, sound, 16000))


def rows(paths, **columns):
    paths = [str(path) for path in paths]
    return pd.DataFrame({"clip_id": [f"c{i}" for i in range(len(paths))], "video": paths, "text": "Words.", **columns})


@pytest.fixture
def files(tmp_path, clip):
    """Six copies of a clip in files of their own."""
    return [str(shutil.copy(clip, tmp_path / f"{i}.mp4")) for i in range(6)]


@pytest.fixture
def looks(monkeypatch):
    """The files that were opened."""
    seen, look = [], probing._probe_clip
    monkeypatch.setattr(probing, "_probe_clip", lambda job: seen.append(job[1]) or look(job))
    return seen


def test_the_media_columns_follow_the_others_and_tell_what_a_clip_holds(tmp_path):
    path = write(tmp_path / "a.mp4")
    found = probing.probe_all(rows([path], label="happy", problem=None))
    assert list(found) == [
        "clip_id",
        "video",
        "label",
        *manifest.NUMBER_COLUMNS,
        "audio",
        "content_hash",
        "detail",
        "text",
        "status",
        "problem",
    ]
    assert list(found.loc[0, list(manifest.NUMBER_COLUMNS)]) == [2.0, 64, 48, 12.0, 12, 16000]
    known = found.loc[0, ["audio", "content_hash", "text", "status"]].to_dict()
    assert known == {"audio": path, "content_hash": file_hash(path), "text": "Words.", "status": "ok"}
    assert found[["problem", "detail"]].isna().all(axis=None)


def test_each_fault_of_a_file_has_its_code_and_no_row_is_lost(tmp_path):
    (tmp_path / "page.mp4").write_bytes(b"<html>sign in first</html>" * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    silence = np.zeros(32000, np.float32)
    table = rows(
        [
            tmp_path / "absent.mp4",
            tmp_path / "page.mp4",
            tmp_path / "empty.mp4",
            write(tmp_path / "mute.mp4", sound=None),
            write(tmp_path / "silent.mp4", sound=silence),
            write(tmp_path / "blind.mp4", frames=[]),
            write(tmp_path / "one.mp4", frames=FRAMES[:1]),
        ]
    )
    found = probing.probe_all(table)
    assert list(zip(found["status"], found["problem"], found["audio"].notna(), strict=True)) == [
        ("failed", "missing_file", False),
        ("failed", "not_media", False),
        ("failed", "empty_file", False),
        ("ok", "no_sound_stream", False),
        ("ok", "silent_sound", True),
        ("ok", "no_video_stream", True),
        ("ok", "one_frame", True),
    ]
    assert "absent.mp4: the file is not there" in found.loc[0, "detail"]
    assert list(found["duration_s"].isna()) == [True] * 3 + [False] * 4


def test_problems_of_the_row_come_first_and_a_failed_row_is_not_opened(files, looks):
    table = rows(files[:3], problem=["unknown_label", "duplicate_id", "bad_encoding"], status=["ok", "failed", "ok"])
    found = probing.probe_all(table.assign(text=[" ", None, None], detail=["row 2", "row 3", None]))
    assert list(found["problem"]) == ["unknown_label;empty_text", "duplicate_id;empty_text", "bad_encoding"]
    assert list(found["status"]) == ["ok", "failed", "ok"] and looks == [files[0], files[2]]
    assert list(found["detail"][:2]) == ["row 2", "row 3"] and found["text"].isna().all()
    assert list(found["content_hash"].isna()) == [False, True, False]


def test_a_row_without_a_path_is_missing_its_file():
    found = probing.probe_all(pd.DataFrame({"clip_id": ["a"], "video": [None], "text": ["Words."]})).iloc[0]
    assert (found["status"], found["problem"]) == ("failed", "missing_file") and "no path" in found["detail"]


def test_sound_in_a_file_of_its_own_is_content_too(tmp_path, files):
    mute = write(tmp_path / "mute.mp4", sound=None)
    found = probing.probe_all(rows([mute, mute], audio=[files[0], None]))
    assert found.loc[0, "audio"] == files[0] and pd.isna(found.loc[0, "problem"])
    both = digest(file_hash(mute), file_hash(files[0]))
    assert list(found["content_hash"]) == [both, file_hash(mute)]


def wave(path, keep=None):
    """A sound file of 2 s, or its first bytes."""
    with wavfile.open(str(path), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes((TONE * 32767).astype("<i2").tobytes())
    path.write_bytes(path.read_bytes()[:keep])
    return path


BROKEN_SOUND = {
    "missing_file": lambda path: None,
    "empty_file": lambda path: path.write_bytes(b""),
    "not_media": lambda path: path.write_text("<html>404</html>"),
    "truncated": lambda path: wave(path, 3000),
}


@pytest.mark.parametrize("code", BROKEN_SOUND)
def test_a_broken_sound_file_is_named_and_the_sound_of_the_video_is_used(code, tmp_path, files):
    BROKEN_SOUND[code](tmp_path / "extra.wav")
    mute = write(tmp_path / "mute.mp4", sound=None)
    found = probing.probe_all(rows([files[0], mute], audio=[str(tmp_path / "extra.wav")] * 2))
    assert list(found["status"]) == ["ok", "ok"] and list(found["problem"]) == [code, code]
    assert found.loc[0, "audio"] == files[0] and pd.isna(found.loc[1, "audio"])
    assert found["detail"].str.contains("extra.wav: ").all() and found.loc[0, "width"] == 160


def test_a_sound_file_with_its_size_left_open_is_whole(tmp_path, files):
    path = wave(tmp_path / "pipe.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    found = probing.probe_all(rows([files[0], wave(tmp_path / "own.wav")], audio=[str(path), None]))
    assert found.loc[0, "audio"] == str(path) and list(found["problem"].fillna("")) == ["", "no_video_stream"]


def test_a_flac_file_that_ends_early_is_truncated_alone_and_beside_a_video(tmp_path, files):
    whole, half = tmp_path / "whole.flac", tmp_path / "half.flac"
    with av.open(str(whole), "w") as out:
        stream = out.add_stream("flac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray((TONE * 32767).astype("<i2")[None], "s16", "mono")
        frame.sample_rate = 16000
        for made in (frame, None):
            out.mux(stream.encode(made))
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    alone = probing.probe_all(rows([whole, half]))
    assert list(alone["problem"]) == ["no_video_stream", "truncated"] and list(alone["status"]) == ["ok", "failed"]
    assert "half.flac: the file was cut off before its end (" in alone.loc[1, "detail"]
    beside = probing.probe_all(rows([files[0], files[0]], audio=[str(whole), str(half)]))
    assert list(beside["problem"].fillna("")) == ["", "truncated"] and list(beside["audio"]) == [str(whole), files[0]]


def test_an_flv_file_that_ends_early_is_truncated(tmp_path, files):
    whole = _converted(Path(files[0]), ".flv").read_bytes()
    (tmp_path / "whole.flv").write_bytes(whole)
    (tmp_path / "half.flv").write_bytes(whole[: len(whole) // 2])
    found = probing.probe_all(rows([tmp_path / "whole.flv", tmp_path / "half.flv"]))
    assert ["truncated" in str(problem) for problem in found["problem"]] == [False, True]


def test_an_error_nobody_thought_of_is_told_of_its_clip_alone(files, monkeypatch):
    def choke(path):
        if path == files[1]:
            raise ZeroDivisionError("no frames a second")
        return {"has_video": True, "n_frames": 9} | dict.fromkeys(manifest.NUMBER_COLUMNS, 9)

    monkeypatch.setattr(reading, "probe", choke)
    found = probing.probe_all(rows(files[:3]))
    assert list(found["status"]) == ["ok", "failed", "ok"]
    assert found.loc[1, "problem"] == "unreadable" and found.loc[1, "detail"].endswith("1.mp4: no frames a second")


def test_rows_keep_their_index_and_order(files):
    table = rows(files).set_axis(list("fedcba"))
    found = probing.probe_all(table)
    assert list(found.index) == list("fedcba") and list(found["video"]) == files


def test_no_rows_are_no_error(home):
    found = probing.probe_all(rows([]), profile="p")
    assert len(found) == 0 and set(manifest.NUMBER_COLUMNS) <= set(found)


def test_workers_find_the_same(tmp_path, clip):
    table = rows([shutil.copy(clip, tmp_path / f"{i}.mp4") for i in range(probing.FEW_CLIPS + 2)])
    pd.testing.assert_frame_equal(probing.probe_all(table, n_workers=2), probing.probe_all(table, n_workers=1))


# ---- once


def test_a_second_call_opens_nothing_and_finds_the_same(home, files, looks):
    first = probing.probe_all(rows(files), profile="p")
    again = probing.probe_all(rows(files), profile="p")
    assert looks == files
    pd.testing.assert_frame_equal(first, again)


def test_new_words_open_no_file(home, files, looks):
    probing.probe_all(rows(files), profile="p")
    found = probing.probe_all(rows(files).assign(text=None), profile="p")
    assert looks == files and set(found["problem"]) == {"empty_text"}


def test_only_a_file_that_has_changed_is_opened_again(home, files, looks):
    probing.probe_all(rows(files), profile="p")
    os.utime(files[2], ns=(1, 1))
    shutil.copy(write(home / "b.mp4"), files[4])
    found = probing.probe_all(rows(files), profile="p")
    assert looks[6:] == [files[2], files[4]]
    assert list(found["duration_s"] == 2.0) == [i == 4 for i in range(6)]


KILLED = """
import os, signal
import pandas as pd
from ecmf_utils.corpus import probing
look, probing.PART = probing._probe_clip, 2
probing._probe_clip = lambda job: os.kill(os.getpid(), signal.SIGKILL) if job[1].endswith("5.mp4") else look(job)
probing.probe_all(pd.read_json("rows.json"), profile="p")
"""


def test_a_killed_run_loses_at_most_one_part(home, files, looks):
    rows(files).to_json(home / "rows.json")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=home, env=env)
    assert killed.returncode == -signal.SIGKILL
    found = probing.probe_all(rows(files), profile="p")
    assert looks == files[4:] and (found["status"] == "ok").all()


def test_one_tidy_file_is_left_without_what_is_gone(home, files, monkeypatch):
    monkeypatch.setattr(probing, "PART", 2)
    probing.probe_all(rows(files), profile="p")
    os.utime(files[0], ns=(1, 1))
    probing.probe_all(rows(files[:3]), profile="p")
    left = list((home / "data" / "p" / ".probe").iterdir())
    assert [path.name for path in left] == ["all.parquet"]
    assert len(read_parquet(left[0])) == 3


def test_a_damaged_part_is_made_again(home, files, looks):
    first = probing.probe_all(rows(files), profile="p")
    for part in (home / "data" / "p" / ".probe").iterdir():
        part.write_bytes(b"PAR1 but not really")
    pd.testing.assert_frame_equal(probing.probe_all(rows(files), profile="p"), first)
    assert looks == files * 2


def test_two_rows_of_one_file_open_it_once(home, files, looks):
    found = probing.probe_all(rows([files[0]] * 3), profile="p")
    assert looks == files[:1] and found["content_hash"].nunique() == 1 and found["fps"].notna().all()


def test_without_a_profile_nothing_is_written(home, files):
    probing.probe_all(rows(files))
    assert not (home / "data").exists()


# ---- a sample


def test_a_sample_opens_so_many_files_and_says_nothing_of_the_others(home, files, looks):
    found = probing.probe_all(rows(files), profile="p", n_probe=2)
    opened = found["video"].isin(looks)
    assert opened.sum() == 2 and list(found["content_hash"].notna()) == list(opened)
    assert list(found["width"].notna()) == list(opened)
    assert (found["status"] == "ok").all() and found["problem"].isna().all()
    assert list(found["audio"]) == files
    assert list(probing.read_fingerprints("p").index) == list(found["clip_id"][opened])


def test_the_seed_draws_the_sample_and_new_clips_leave_the_draw_of_the_others(files):
    def drawn(table, **how):
        found = probing.probe_all(table, n_probe=3, **how)
        return set(found["clip_id"][found["content_hash"].notna()])

    table = rows(files)
    assert drawn(table) == drawn(table[::-1])
    assert len({frozenset(drawn(table, seed=seed)) for seed in range(8)}) > 1
    assert drawn(table.drop(index=0)) >= drawn(table) - {"c0"}


def test_a_sample_keeps_what_was_found_before(home, files, looks):
    probing.probe_all(rows(files), profile="p")
    probing.probe_all(rows(files), profile="p", n_probe=2)
    probing.probe_all(rows(files), profile="p")
    assert looks == files


def test_a_sample_is_drawn_from_rows_that_can_be_opened(files):
    table = rows(files, status=["failed"] * 4 + ["ok"] * 2)
    assert list(probing.probe_all(table, n_probe=2)["content_hash"].notna()) == [False] * 4 + [True] * 2


# ---- fingerprints


def test_fingerprints_are_stored_beside_the_manifest(home, tmp_path):
    sound = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    table = rows([write(tmp_path / "a.mp4", sound=sound), write(tmp_path / "b.mp4", sound=None)])
    probing.probe_all(table, profile="p")
    stored = probing.read_fingerprints("p")
    assert list(stored.index) == ["c0", "c1"] and len(stored["c0"]) > 80 and stored["c1"] == b""


def test_before_probing_there_are_no_fingerprints(home):
    assert len(probing.read_fingerprints("p")) == 0
