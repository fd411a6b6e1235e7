"""Extraction: what is written, what is used again, what a failure costs, and reading it back."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ecmf_utils import encoders, features, files, media
from ecmf_utils.features import feature_files, loading
from ecmf_utils.features.loading import average_spans
from ecmf_utils.media import writing
from tests.conftest import ROOT

SEEN = []


def clips_of(n=6, **columns):
    rows = {"clip_id": [f"c{i:02d}" for i in range(n)], "text": [f"word{i}" for i in range(n)]}
    frame = pd.DataFrame(rows | columns)
    return frame.assign(content_hash=[files.digest(row) for row in frame.to_dict("records")])


def spell(texts):
    """An encoder that remembers what it was given: one row a letter."""
    SEEN.extend(texts)
    return [np.array([[ord(c), len(text)] for c in text], np.float32) for text in texts]


def fail_on_three(texts):
    if any(text == "word3" for text in texts):
        raise ValueError("three is too many")
    return spell(texts)


def nan_on_two(texts):
    return [rows * (np.nan if text == "word2" else 1) for text, rows in zip(texts, spell(texts), strict=True)]


def stop_on_four(texts):
    if "word4" in texts:
        raise KeyboardInterrupt
    return spell(texts)


def slowly(texts):
    time.sleep(0.15)
    return spell(texts)


def brightness(clips):
    return [frames.mean((1, 2)).astype(np.float32) for frames in clips]


def encoder(run=spell, name="spell", **settings):
    return encoders.Encoder(
        name=name, branch="text", modality="text", layers="last", revision="1", run=run, dim=2, **settings
    )


def read(row):
    return features.read_text(row)


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def file_of(branch="text", slug="spell-last-mean", level="utterance", name="000-of-001"):
    return files.data_dir("p") / "features" / branch / slug / level / f"{name}.arrow"


def read_table(path):
    """A feature file as any Arrow reader shows it."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def rewrite(path, rows, dim):
    """Write a feature file again with some of its rows, and vectors of another length."""
    table, header = read_table(path).take(list(rows)), feature_files.read_header(path)
    vectors = [np.resize(vector or [], (1 if vector else 0, dim)) for vector in table["vector"].to_pylist()]
    lengths = np.array([len(vector) for vector in vectors])
    keys = table.drop_columns("vector").replace_schema_metadata(None)
    feature_files.write_file(path, header | {"dim": dim, "rows": len(table)}, keys, lengths, vectors.__getitem__)


def extract(clips, run=spell, branch="text", reader=read, **settings):
    return features.extract("p", branch, clips, encoder(run), reader, **settings)


def test_a_file_says_what_its_vectors_are(home):
    summary = extract(clips_of()).iloc[0]
    assert (summary["clips"], summary["ok"], summary["dim"]) == (6, 6, 2)
    schema, header = read_table(file_of()).schema, feature_files.read_header(file_of())
    assert str(schema.field("vector").type) == "fixed_size_list<item: float>[2]"
    assert header["recipe"]["pooling"] == "mean" and header["recipe"]["level"] == "utterance"
    assert header["recipe_hash"] == features.read_selected("p", "text")["recipe_hash"]
    assert header["schema_version"] == feature_files.SCHEMA_VERSION == 2 and header["rows"] == 6


def test_vectors_come_back_as_they_were_pooled(home):
    extract(clips_of(), pooling="mean+std")
    loaded = features.load("p", ["text"])
    rows = spell(["word3"])[0]
    assert loaded.dims == {"text": 4} and loaded.present["text"].all()
    assert np.allclose(loaded.x["text"][3], np.concatenate([rows.mean(0), rows.std(0)]))


def test_a_normalising_encoder_gives_vectors_of_length_one(home):
    features.extract("p", "text", clips_of(), encoder(normalise=True), read)
    assert np.allclose(np.linalg.norm(features.load("p", ["text"]).x["text"], axis=1), 1)


def test_nothing_known_is_null_in_the_file_and_absent_when_loaded(home):
    extract(clips_of(3, text=["a", None, " "]))
    table = pd.read_feather(file_of())
    assert table["status"].tolist() == ["ok", "missing", "missing"]
    assert table["problem"].tolist()[1:] == ["empty_text", "empty_text"]
    assert table["vector"].isna().tolist() == [False, True, True]
    loaded = features.load("p", ["text"])
    assert loaded.present["text"].tolist() == [True, False, False]
    assert not loaded.x["text"][1:].any()


def test_one_clip_that_fails_spoils_no_other(home):
    summary = extract(clips_of(), fail_on_three).iloc[0]
    assert (summary["ok"], summary["failed"]) == (5, 1)
    row = features.read_status("p", ["text"]).set_index("clip_id").loc["c03"]
    assert (row["status"], row["problem"]) == ("failed", "encoder_failed")
    assert row["detail"] == "ValueError: three is too many"


def test_numbers_that_are_not_finite_are_a_failure(home):
    extract(clips_of(), nan_on_two)
    row = features.read_status("p", ["text"]).set_index("clip_id").loc["c02"]
    assert (row["status"], row["problem"]) == ("failed", "not_finite")
    assert np.isfinite(features.load("p", ["text"]).x["text"]).all()


def test_a_second_extraction_computes_nothing(home):
    first = extract(clips_of())
    before = file_of().read_bytes()
    again = extract(clips_of())
    assert (first.attrs["computed"], again.attrs["computed"], len(SEEN)) == (6, 0, 6)
    assert file_of().read_bytes() == before and again.equals(first)


def test_only_changed_and_new_clips_are_computed(home):
    clips = clips_of(5)
    extract(clips)
    clips.loc[1, ["text", "content_hash"]] = ["other", "changed"]
    clips = pd.concat([clips, clips_of(7).tail(1)], ignore_index=True)
    SEEN.clear()
    extract(clips)
    assert SEEN == ["other", "word6"]
    assert features.load("p", ["text"]).clip_ids == clips["clip_id"].tolist()


def test_another_recipe_computes_everything_and_is_selected(home):
    extract(clips_of())
    extract(clips_of(), extra={"window": 3})
    assert len(SEEN) == 12
    assert features.read_selected("p", "text")["recipe"]["extra"] == {"window": 3}


def test_a_clip_that_failed_is_tried_again(home):
    extract(clips_of(), fail_on_three)
    SEEN.clear()
    assert extract(clips_of()).iloc[0]["ok"] == 6 and SEEN == ["word3"]


def test_a_clip_that_left_the_corpus_leaves_the_file(home):
    extract(clips_of(6))
    extract(clips_of(4))
    assert features.load("p", ["text"]).clip_ids == ["c00", "c01", "c02", "c03"]


def test_an_interrupted_extraction_keeps_its_finished_parts(home):
    with pytest.raises(KeyboardInterrupt):
        extract(clips_of(8), stop_on_four, part=2)
    assert not file_of().exists()
    SEEN.clear()
    extract(clips_of(8), part=2)
    assert SEEN == ["word4", "word5", "word6", "word7"]
    assert features.load("p", ["text"]).present["text"].all()
    assert not list(file_of().parent.glob(".parts-*"))


def test_a_killed_extraction_goes_on_and_gives_the_same_file(home):
    code = (
        f"import sys; sys.path.insert(0, r'{ROOT}')\nfrom tests.features.test_loading import *\n"
        "extract(clips_of(12), slowly, part=1)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as run:
        end = time.monotonic() + 20
        while len(list(file_of().parent.glob(".parts-*/*.arrow"))) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL)
    extract(clips_of(12), part=1)
    assert 0 < len(SEEN) <= 9
    resumed = file_of().read_bytes()
    file_of().unlink()
    extract(clips_of(12))
    assert file_of().read_bytes() == resumed


def test_shards_join_to_the_whole(home):
    extract(clips_of(20))
    whole = features.load("p", ["text"])
    file_of().unlink()
    SEEN.clear()
    for shard in range(3):
        extract(clips_of(20), shard=shard, n_shards=3)
    joined = features.load("p", ["text"], clip_ids=whole.clip_ids)
    assert sorted(SEEN) == sorted(clips_of(20)["text"])
    assert np.array_equal(joined.x["text"], whole.x["text"])
    extract(clips_of(20))
    assert len(SEEN) == 20 and [p.stem for p in file_of().parent.glob("*.arrow")] == ["000-of-001"]


def test_a_missing_or_stale_shard_is_one_clear_line(home):
    extract(clips_of(20), shard=0, n_shards=2)
    with pytest.raises(files.EcmfError, match="24_extract_text --set shard=1 first"):
        features.load("p", ["text"])
    with pytest.raises(files.EcmfError, match="shard=2: expected 0 to n_shards - 1 = 1"):
        extract(clips_of(), shard=2, n_shards=2)


def test_a_clip_with_two_rows_is_refused(home):
    extract(clips_of(3))
    rewrite(file_of(), [0, 1, 2, 1], 2)
    with pytest.raises(files.EcmfError, match="features/text: clip 'c01' has more than one row: run 24_extract_text"):
        features.load("p", ["text"], clip_ids=["c00", "c01", "c02"])


def test_a_broken_file_is_named(home):
    extract(clips_of(3))
    file_of().write_bytes(file_of().read_bytes()[:1000])
    with pytest.raises(files.EcmfError, match=r"000-of-001.arrow: the file is damaged \(.*\); delete it, then extract"):
        features.load("p", ["text"])


def test_frame_level_files_hold_rows_and_their_times(home, tmp_path):
    frames = [np.full((32, 32, 3), 40 * i, np.uint8) for i in range(1, 6)]
    video = writing.write_clip(tmp_path / "v.mp4", frames, 5)
    clips = clips_of(1, video=[str(video)], duration_s=[1.0])
    light = replace(encoder(brightness), dim=3, modality="frames")
    reader = partial(features.read_scene, n_frames=5)
    features.extract("p", "scene", clips, light, reader, level="frame")
    row = read_table(file_of("scene", level="frame")).to_pylist()[0]
    assert row["n_frames"] == 5 and np.allclose(row["times"], [0, 0.2, 0.4, 0.6, 0.8])
    assert np.allclose(np.array(row["vectors"])[:, 0], [40, 80, 120, 160, 200], atol=4)
    loaded = features.load("p", ["scene"])
    assert np.allclose(loaded.x["scene"][0], np.mean(row["vectors"], axis=0))


def test_workers_give_the_same_vectors(home, clip):
    clips = clips_of(40, video=[str(clip)] * 40, duration_s=[1.2] * 40)
    light = encoders.load("classical", "scene")
    assert light.portable
    for profile, n_workers in (("one", 1), ("two", 2)):
        features.extract(profile, "scene", clips, light, features.read_scene, n_workers=n_workers)
    one, two = (features.load(profile, ["scene"]) for profile in ("one", "two"))
    assert np.array_equal(one.x["scene"], two.x["scene"]) and two.present["scene"].all()


def test_a_heavy_encoder_stays_here_and_only_reading_goes_to_workers(home, clip):
    clips = clips_of(40, video=[str(clip)] * 40, duration_s=[1.2] * 40)
    heavy = replace(encoder(lambda given: brightness(given)), dim=3, modality="frames")
    features.extract("p", "scene", clips, heavy, features.read_scene, n_workers=2)
    assert features.load("p", ["scene"]).present["scene"].all()


def test_every_reader_names_what_is_not_there(home, tmp_path):
    tone = np.full(8000, 0.1, np.float32)
    sound = writing.write_clip(tmp_path / "s.mp4", [], 10, tone)
    picture = writing.write_clip(tmp_path / "p.mp4", [np.zeros((32, 32, 3), np.uint8)] * 4, 10)
    hush = writing.write_clip(tmp_path / "h.mp4", [], 10, np.zeros(8000, np.float32))
    page = tmp_path / "page.mp4"
    page.write_text("<html></html>")
    videos = [sound, picture, hush, page, tmp_path / "gone.mp4", None]
    clips = clips_of(6, video=[v and str(v) for v in videos], audio=None, duration_s=0.8)
    media.detect_faces(clips, "p", 1)
    read_crops = partial(features.read_face, profile="p")
    looks = {
        "scene": (features.read_scene, ["no_video_stream", "few_frames", "no_video_stream"]),
        "face": (read_crops, ["no_video_stream", "no_face", "no_video_stream"]),
        "audio": (features.read_audio, [None, "no_sound_stream", "silent_sound"]),
    }
    for branch, (reader, wanted) in looks.items():
        features.extract("p", branch, clips, encoders.load("classical", branch), reader)
        table = features.read_status("p", [branch])
        absent = "no_sound_stream" if branch == "audio" else "no_video_stream"
        found = [problem if isinstance(problem, str) else None for problem in table["problem"]]
        assert found == [*wanted, "not_media", "missing_file", absent], branch
        assert table["status"].tolist()[3:] == ["failed", "failed", "missing"]


def test_a_transcript_in_a_wrong_encoding_is_told_from_an_empty_one(home):
    extract(clips_of(2, text=[None, None], problem=["bad_encoding", None]))
    table = features.read_status("p", ["text"])
    assert table["problem"].tolist() == ["bad_encoding", "empty_text"]
    assert table["status"].tolist() == ["missing", "missing"]


def test_the_text_of_a_row_can_be_its_identity(home):
    clips = clips_of(3, text=["a", "b", None])
    extract(features.distinct_texts(clips))
    SEEN.clear()
    extract(features.distinct_texts(clips.assign(content_hash="new video"), ["a", "c", None]))
    assert SEEN == ["c"]


def test_crops_that_were_never_made_stop_the_extraction(home, clip):
    clips = clips_of(2, video=[str(clip)] * 2)
    reader = partial(features.read_face, profile="p")
    with pytest.raises(files.EcmfError, match="run 20_detect_faces first"):
        features.extract("p", "face", clips, encoders.load("classical", "face"), reader)


def test_branches_are_loaded_for_the_clips_asked_for(home):
    extract(clips_of(6))
    extract(clips_of(6), branch="context")
    loaded = features.load("p", ["context", "text"], clip_ids=["c04", "c01"])
    assert list(loaded.x) == ["context", "text"] and loaded.clip_ids == ["c04", "c01"]
    assert np.allclose(loaded.x["text"][1], spell(["word1"])[0].mean(0))
    part = features.take_clips(loaded, np.array([False, True]))
    assert part.clip_ids == ["c01"] and len(part.present["text"]) == len(part) == 1


def test_another_extraction_can_be_chosen_by_name(home):
    extract(clips_of(), pooling="max")
    extract(clips_of(), pooling="mean")
    both = features.load("p", ["text", "text@spell-last-max"])
    assert np.allclose(both.x["text"][0], spell(["word0"])[0].mean(0))
    assert np.allclose(both.x["text@spell-last-max"][0], spell(["word0"])[0].max(0))
    assert list(features.read_status("p", list(both.x))["branch"].unique()) == list(both.x)
    assert features.load_matrix("p", "text@spell-last-max")[1].tobytes() == both.x["text@spell-last-max"].tobytes()


def test_an_encoder_that_is_not_there_or_stands_twice_is_one_clear_line(home):
    extract(clips_of(), pooling="mean")
    with pytest.raises(files.EcmfError, match="no 'bert', there is spell-last-mean: run 24_extract_text for it"):
        features.load("p", ["text@bert"])
    with pytest.raises(files.EcmfError, match="text and text@spell-last-mean are the same vectors: leave one of them"):
        features.load("p", ["text", "text@spell-last-mean"])


def test_a_matrix_is_what_is_stored(home):
    extract(clips_of(3, text=["a", None, "bc"]))
    ids, matrix, present = features.load_matrix("p", "text", ["c02", "c01"])
    stored = pd.read_feather(file_of())["vector"]
    assert ids == ["c02", "c01"] and present.tolist() == [True, False] and matrix.dtype == np.float32
    assert matrix[0].tobytes() == stored[2].tobytes() and not matrix[1].any()


def test_frames_come_clip_by_clip(home):
    extract(clips_of(3, text=["a", None, "bc"]), level="frame")
    found = dict(loading.iterate_frames("p", "text"))
    assert found["c01"] is None and np.array_equal(found["c02"], spell(["bc"])[0])
    with pytest.raises(files.EcmfError, match="features/text: stored at frame level"):
        features.load_matrix("p", "text")


@pytest.mark.parametrize(("pooling", "normalise"), [("mean", True), ("mean+std", False), ("mean+std", True)])
def test_both_levels_load_as_the_same_vectors(home, pooling, normalise):
    made = encoder(normalise=normalise)
    loaded = []
    for level in ("utterance", "frame"):
        features.extract("p", "text", clips_of(), made, read, level=level, pooling=pooling)
        loaded.append(features.load("p", ["text"]).x["text"])
    np.testing.assert_allclose(loaded[0], loaded[1], rtol=1e-6)


def test_frames_become_sequences_of_equal_spans(home):
    extract(clips_of(3, text=["abcd", None, "xy"]), level="frame")
    loaded = features.load("p", ["text"], ["c02", "c01", "c00"], steps=2)
    a, x = ord("a"), ord("x")
    assert loaded.x["text"].shape == (3, 2, 2) and loaded.dims == {"text": 2}
    assert loaded.x["text"][2, :, 0].tolist() == [a + 0.5, a + 2.5]  # ab, cd
    assert loaded.x["text"][0, :, 0].tolist() == [x, x + 1]
    assert loaded.present["text"].tolist() == [True, False, True] and not loaded.x["text"][1].any()
    longer = features.load("p", ["text"], ["c02"], steps=4).x["text"]
    assert longer[0, :, 0].tolist() == [x, x, x + 1, x + 1]  # fewer rows than steps: one serves several


def test_spans_cover_every_row_once_where_they_divide():
    rows = np.arange(12, dtype=np.float32)[:, None]
    assert average_spans(rows, 4)[:, 0].tolist() == [1, 4, 7, 10]
    assert average_spans(rows[:5], 3)[:, 0].tolist() == [0.5, 2, 3.5]  # a row on an edge counts in both


def test_an_utterance_vector_is_a_sequence_of_one_step(home):
    extract(clips_of(2))
    assert features.load("p", ["text"], steps=8).x["text"].shape == (2, 1, 2)


def test_shards_of_different_length_are_one_clear_line(home):
    for shard in range(2):
        extract(clips_of(20), shard=shard, n_shards=2)
    path = file_of(name="001-of-002")
    rewrite(path, range(feature_files.read_header(path)["rows"]), 3)
    with pytest.raises(files.EcmfError, match="001-of-002.arrow: vectors of 3 dimensions, 2 in the first shard"):
        features.load("p", ["text"])


def test_what_was_not_extracted_names_its_notebook(home):
    with pytest.raises(files.EcmfError, match="is missing: run 22_extract_scene first"):
        features.load("p", ["scene"])
    extract(clips_of(3))
    with pytest.raises(files.EcmfError, match="1 clips have no row, the first is 'c09'"):
        features.load("p", ["text"], clip_ids=["c00", "c09"])


@pytest.mark.parametrize("wrong", [{"pooling": "median"}, {"level": "word"}])
def test_an_unknown_pooling_or_level_is_refused(home, wrong):
    with pytest.raises(files.EcmfError, match="expected one of mean, mean\\+std, max"):
        extract(clips_of(), **wrong)


def test_a_full_disk_is_one_clear_line_and_costs_no_part(home, monkeypatch):
    extract(clips_of(4), part=2)
    before = file_of().read_bytes()
    written = []

    def full(sink, schema):
        written.append(sink)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return new_file(sink, schema)

    new_file = pa.ipc.new_file
    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(files.EcmfError, match="No space left on device"):
        extract(clips_of(8), part=2)
    assert file_of().read_bytes() == before
    SEEN.clear()
    extract(clips_of(8), part=2)
    assert SEEN == ["word6", "word7"]


def test_the_real_clips_are_all_accounted_for(home, realdata):
    known = pd.read_csv(realdata / "clips" / "manifest.csv")
    videos = [str(realdata / "clips" / name) for name in known["file"]]
    clips = clips_of(16, video=videos, audio=None, duration_s=list(known["dur"]))
    for branch, reader in (("scene", features.read_scene), ("audio", features.read_audio)):
        features.extract("p", branch, clips, encoders.load("classical", branch), reader)
    table = features.read_status("p", ["scene", "audio"])
    problems = dict(zip(table["clip_id"] + table["branch"], table["problem"], strict=True))
    odd = {key: problem for key, problem in problems.items() if isinstance(problem, str)}
    number = {name: f"c{i:02d}audio" for i, name in enumerate(known["file"])}
    assert odd == {
        number["other/test.mp4"]: "no_sound_stream",
        number["pyfeat/WolfgangLanger_Pexels.mp4"]: "silent_sound",
    }


def test_very_long_clips_are_encoded_few_at_a_time(home):
    from ecmf_utils.encoders.inference import Batches
    from ecmf_utils.encoders.towers import Prepared

    seen = []
    model = replace(
        encoder(lambda given: np.ones((1, 3), np.float32)),
        dim=3,
        portable=False,
        modality="sound",
        prepare=lambda n: Prepared([n], [n]),
        batches=Batches(lambda items: items, 10),
        run=lambda clips: seen.append(len(clips)) or [np.ones((1, 3), np.float32)] * len(clips),
    )
    lengths = {f"c{i:02d}": 300 if i < 3 else 1 for i in range(10)}
    features.extract("p", "audio", clips_of(10), model, lambda row: lengths[row["clip_id"]], part=4)
    assert seen == [1, 1, 1, 4, 3] and features.load("p", ["audio"]).present["audio"].all()
