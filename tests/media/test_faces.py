"""Faces: who is found, who is not, what a crop shows, and that done work is kept."""

import os
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest

from ecmf_demo import corpus, recipes
from ecmf_utils import media
from ecmf_utils.files import EcmfError, data_dir, file_hash, shard_of
from ecmf_utils.media import face_tracks, faces, reading, writing
from ecmf_workflow import results
from tests.media.test_reading import rotate


def make(folder, hard=None, seed=3):
    """One generated clip, of an easy kind or with its face made hard."""
    recipe = next(one for one in recipes.plan(60, 12, 0, seed, 40) if one["hard_face"] == hard)
    corpus.make_clip(folder, recipe)
    return corpus.clip_path(folder, recipe["clip_id"])


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    return make(tmp_path_factory.mktemp("face"))


@pytest.fixture(scope="module")
def empty_room(tmp_path_factory):
    return make(tmp_path_factory.mktemp("room"), hard="absent")


def clips_of(*videos):
    rows = [{"clip_id": f"c{i}", "video": None if v is None else str(v)} for i, v in enumerate(videos)]
    for row in rows:
        known = row["video"] and os.path.exists(row["video"])
        row["content_hash"] = file_hash(row["video"]) if known else None
    return pd.DataFrame(rows)


def box(x, score=1.0, width=100.0):
    return {"box": np.array([x, 50.0, width, width]), "score": score, "pose": 0}


def frames_of(video, count=8, max_side=480):
    return media.read_frames(video, media.frame_times(reading.probe(video)["duration_s"], count), max_side)[0]


def write_at(path, frames, milliseconds):
    """A video whose frames are shown from the given times on."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for pixels, pts in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = pts, stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_a_face_is_found_in_every_frame_and_cut_out(portrait):
    rows, crops = faces.detect_in_clip(portrait, size=64)
    assert len(rows) == len(crops) == rows[0]["n_sampled"] >= 5
    assert crops.dtype == np.uint8 and crops.shape[1:] == (64, 64, 3)
    assert {row["status"] for row in rows} == {"ok"} and {row["track"] for row in rows} == {0}
    assert np.all(np.diff([row["time_s"] for row in rows]) > 0)
    assert all(0 < row["quality"] <= 1 for row in rows)


def test_aligned_eyes_lie_at_the_same_height(portrait):
    if face_tracks.find_landmark_file() is None:
        pytest.skip("the landmarks extra is not installed")
    rows, _ = faces.detect_in_clip(portrait)
    points = np.array(rows[0]["landmarks"]).reshape(5, 2)
    left, top, width = rows[0]["x"], rows[0]["y"], rows[0]["w"]
    inside = (points > [left - 0.2 * width, top - 0.2 * width]) & (points < [left + 1.2 * width, top + 1.2 * width])
    assert inside.all() and points[4, 1] > points[:4, 1].max()  # the nose is below the eyes


def test_without_the_landmark_model_the_crop_follows_the_box(portrait, monkeypatch):
    monkeypatch.setattr(faces, "find_landmark_file", lambda: None)
    rows, crops = faces.detect_in_clip(portrait)
    assert media.make_face_recipe()["alignment"] == "box"
    assert rows[0]["landmarks"] is None and crops.shape[1:] == (112, 112, 3)
    assert crops[0].std() > 20


def test_boxes_are_in_pixels_of_the_original(portrait):
    whole = faces.detect_in_clip(portrait)[0][0]
    shrunk = faces.detect_in_clip(portrait, max_side=240)[0][0]
    assert abs(whole["w"] - shrunk["w"]) < 0.3 * whole["w"]
    assert abs(whole["x"] - shrunk["x"]) < 0.3 * whole["w"]


def test_a_room_without_anybody_has_no_face(empty_room):
    rows, crops = faces.detect_in_clip(empty_room)
    assert [row["problem"] for row in rows] == ["no_face"] and len(crops) == 0
    assert "x" not in rows[0] and rows[0]["n_sampled"] >= 5


def test_a_single_weak_detection_is_nobody():
    times = np.arange(4) * 0.35
    assert face_tracks.join_detections([[], [box(10, 3.0)], [], []], times) == []
    assert face_tracks.join_detections([[box(10, 0.1)], [box(10, 0.2)], [box(10, 0.3)], []], times) == []
    assert len(face_tracks.join_detections([[box(10, 0.1)], [box(12, 0.9)], [], []], times)) == 1


def test_the_largest_and_most_persistent_face_is_the_main_one():
    small = [[box(10, 1.0, 60)] for _ in range(4)]
    large = [[box(300, 2.0, 150)] if i < 2 else [] for i in range(4)]
    both = [a + b for a, b in zip(small, large, strict=True)]
    tracks = face_tracks.join_detections(both, np.arange(4) * 0.35)
    assert [track[0]["box"][2] for track in tracks] == [150, 60]
    assert [box["frame"] for box in tracks[1]] == [0, 1, 2, 3]


def test_a_face_that_comes_back_late_is_another_track():
    found = [[box(10)], [box(12)], [], [box(14)], [box(12)]]
    tracks = face_tracks.join_detections(found, np.array([0.0, 0.3, 0.6, 5.0, 5.3]))
    assert len(tracks) == 2


def test_a_face_is_followed_where_frames_are_far_apart():
    times = np.arange(6) * 25.0
    moving = [[box(400 * (i % 2))] for i in range(6)]  # where it sits after 25 s says little
    assert [len(track) for track in face_tracks.join_detections(moving, times)] == [6]
    assert face_tracks.join_detections([[], [box(0, 3.0)], [], [], [], []], times) == []
    assert len(face_tracks.join_detections([[box(0)], [], [box(0)], [box(0)]], times[:4])[0]) == 3


def test_who_comes_back_to_the_same_place_is_counted_once():
    def track(x, *numbers):
        return [box(x) | {"frame": number} for number in numbers]

    assert face_tracks.count_people([track(0, 0, 1), track(10, 8, 9)]) == 1
    assert face_tracks.count_people([track(0, 0, 1), track(300, 8, 9)]) == 2
    assert face_tracks.count_people([track(0, 0, 9), track(10, 8, 10)]) == 2  # both at once
    assert face_tracks.count_people([]) == 0


def test_a_clip_of_one_frame_has_one_crop(portrait, tmp_path):
    rows, crops = faces.detect_in_clip(writing.write_clip(tmp_path / "one.mp4", frames_of(portrait)[:1], 10))
    assert len(rows) == len(crops) == rows[0]["n_sampled"] == 1 and rows[0]["problem"] is None


def test_a_picture_that_stands_still_is_looked_at_once(portrait, tmp_path):
    starts = [0, 40, 80, 120, 160, 200, 4000, 8000]
    rows, crops = faces.detect_in_clip(write_at(tmp_path / "variable.mkv", frames_of(portrait), starts))
    times = [row["time_s"] for row in rows]
    assert len(set(times)) == len(times) == len(crops) == rows[0]["n_sampled"] < 8
    assert set(np.round(np.array(times) * 1000)) <= set(starts)


def test_a_face_in_one_frame_that_stands_still_is_not_believed(portrait, empty_room, tmp_path):
    frames = [*frames_of(empty_room, 4), frames_of(portrait)[0], *frames_of(empty_room, 4)]
    starts = [0, 100, 200, 300, 400, 3000, 3100, 3200, 3300]
    rows, _ = faces.detect_in_clip(write_at(tmp_path / "flash.mkv", frames, starts))
    assert rows[0]["problem"] == "no_face"


def test_boxes_in_a_turned_recording_are_those_of_the_upright_picture(portrait, tmp_path):
    frames = frames_of(portrait)
    upright = writing.write_clip(tmp_path / "upright.mp4", frames, 4, crf=10)
    lying = writing.write_clip(tmp_path / "lying.mp4", np.rot90(frames, axes=(1, 2)), 4, crf=10)
    wanted, found = (faces.detect_in_clip(path)[0][0] for path in (upright, rotate(lying, tmp_path / "turned.mp4")))
    assert [found[side] for side in "xywh"] == pytest.approx([wanted[side] for side in "xywh"], abs=8)


def test_a_clip_of_twenty_minutes_is_thinned_and_says_so(home, portrait, tmp_path):
    frames = frames_of(portrait)
    still = (frames[i % 8] for i in range(240))
    long = writing.write_clip(tmp_path / "long.mp4", still, 0.2)
    tracemalloc.start()
    table = media.detect_faces(clips_of(long, portrait), "p", 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    main = table[table["clip_id"] == "c0"]
    assert len(main) == 48 and set(main["problem"]) == {"frames_thinned"} and set(main["status"]) == {"ok"}
    assert main["detail"].iloc[0] == "48 of 240 frames, one every 25.0 s"
    assert table.loc[table["clip_id"] == "c1", "problem"].isna().all()
    assert peak < 4 * 48 * frames[0].nbytes
    told = results.problems("p").iloc[0]
    assert (told["clip_id"], told["code"]) == ("c0", "frames_thinned") and "farther apart" in told["meaning"]


def test_the_corpus_table_holds_every_clip_and_its_problem(home, portrait, empty_room, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<html></html>" * 50)
    sound = writing.write_clip(tmp_path / "s.mp4", [], 10, np.full(8000, 0.1, np.float32))
    clips = clips_of(portrait, empty_room, broken, tmp_path / "gone.mp4", None, sound)
    table = media.detect_faces(clips, "p", 1)
    first = table.drop_duplicates("clip_id").set_index("clip_id")
    assert list(first.index) == list(clips["clip_id"])
    assert first["status"].tolist() == ["ok", "missing", "failed", "failed", "missing", "missing"]
    assert first["problem"].tolist()[1:] == [
        "no_face",
        "not_media",
        "missing_file",
        "no_video_stream",
        "no_video_stream",
    ]
    assert table.loc[table["status"] != "ok", "x"].isna().all()
    assert first.loc["c2", "detail"].endswith("(Invalid data found when processing input)")


def test_an_unforeseen_error_costs_one_clip(home, portrait, monkeypatch):
    real = faces.detect_in_clip

    def burst(path, **settings):
        if path.endswith("odd.mp4"):
            raise RuntimeError("out of its depth")
        return real(path, **settings)

    monkeypatch.setattr(faces, "detect_in_clip", burst)
    table = media.detect_faces(clips_of("odd.mp4", portrait), "p", 1)
    assert table["status"].tolist()[0] == "failed" and (table["clip_id"] == "c1").sum() > 3
    assert table["detail"][0] == "RuntimeError: out of its depth"


def test_stored_crops_are_those_of_the_main_face(home, portrait, empty_room):
    table = media.detect_faces(clips_of(portrait, empty_room), "p", 1)
    crops, times = media.read_crops("p", "c0")
    main = table[(table["clip_id"] == "c0") & (table["track"] == 0)]
    assert len(crops) == len(main) and np.allclose(times, main["time_s"])
    assert len(media.read_crops("p", "c1")[0]) == 0


def test_faces_are_found_again_only_where_clip_or_recipe_changed(home, portrait, monkeypatch):
    clips = clips_of(portrait, portrait)
    before = media.detect_faces(clips, "p", 1)
    seen = []
    real = faces.detect_in_clip
    monkeypatch.setattr(faces, "detect_in_clip", lambda path, **k: seen.append(path) or real(path, **k))
    assert media.detect_faces(clips, "p", 1).equals(before) and seen == []
    clips.loc[1, "content_hash"] = "changed"
    media.detect_faces(clips, "p", 1)
    assert len(seen) == 1
    media.detect_faces(clips, "p", 1, margin=0.1)
    assert len(seen) == 3


def test_an_unfinished_crop_file_is_made_again(home, portrait):
    clips = clips_of(portrait)
    before = media.detect_faces(clips, "p", 1)
    path = data_dir("p") / "faces" / "crops" / "c0.npz"
    path.write_bytes(path.read_bytes()[:200])
    assert media.detect_faces(clips, "p", 1).equals(before)
    assert len(media.read_crops("p", "c0")[0]) > 0


def test_names_that_differ_in_case_only_keep_crops_of_their_own():
    files = {faces._crops_path("p", name) for name in ("Ann", "ann", "ANN")}
    assert len({str(path).lower() for path in files}) == 3


def test_workers_find_the_same_faces(home, portrait, empty_room):
    clips = clips_of(portrait, empty_room)
    alone = media.detect_faces(clips, "one", 1)
    assert media.detect_faces(clips, "two", 2).equals(alone)


def file_of(name="faces"):
    return data_dir("p") / "faces" / f"{name}.parquet"


@pytest.fixture
def many(portrait, empty_room):
    return clips_of(portrait, empty_room, None, portrait, None, empty_room, portrait)


def test_shards_join_to_the_whole(home, many, monkeypatch):
    whole = media.detect_faces(many, "p", 1)
    file_of().unlink()
    parts = [media.detect_faces(many, "p", 1, shard, 3) for shard in (2, 0, 1)]
    assert sum(part["clip_id"].nunique() for part in parts) == len(many)
    pd.testing.assert_frame_equal(media.read_faces("p"), whole)
    assert media.read_face_recipe("p")["recipe"] == media.make_face_recipe()
    monkeypatch.setattr(faces, "detect_in_clip", None)  # nothing is detected again
    media.detect_faces(many, "p", 1)
    assert sorted(path.stem for path in file_of().parent.glob("*.parquet")) == ["faces"]


def test_a_shard_that_is_missing_is_named(home, many):
    media.detect_faces(many, "p", 1, 0, 3)
    media.detect_faces(many, "p", 1, 2, 3)
    with pytest.raises(EcmfError, match="run 20_detect_faces --set n_shards=3 --set shard=1 first"):
        media.read_faces("p")


def test_shards_of_another_recipe_are_not_joined(home, many):
    for shard in range(2):
        media.detect_faces(many, "p", 1, shard, 2)
    media.detect_faces(many, "p", 1, 0, 2, margin=0.1)
    assert not file_of().exists()  # its crops are no longer all there
    media.detect_faces(many, "p", 1, 1, 2, margin=0.1)
    assert media.read_face_recipe("p")["recipe"]["margin"] == 0.1


def test_a_shard_without_clips_has_an_empty_table(home, portrait):
    clips = clips_of(portrait)
    shard = 1 - shard_of("c0", 2)
    part = media.detect_faces(clips, "p", 1, shard, 2)
    assert len(part) == len(media.summarise_faces(part)) == 0
    media.detect_faces(clips, "p", 1, 1 - shard, 2)
    assert set(media.read_faces("p")["clip_id"]) == {"c0"}


def test_a_table_that_is_missing_names_its_notebook(home):
    with pytest.raises(EcmfError, match="run 20_detect_faces first"):
        media.read_faces("p")
    with pytest.raises(EcmfError, match="c9.npz is missing: run 20_detect_faces"):
        media.read_crops("p", "c9")


def test_one_row_a_clip_tells_how_it_went(home, portrait, empty_room):
    clips = clips_of(portrait, empty_room, None)
    state = media.summarise_faces(media.detect_faces(clips, "p", 1))
    assert state["state"].tolist() == ["face", "none", "none"]
    assert state.loc["c0", "share"] == 1 and state.loc["c1", "share"] == 0


@pytest.fixture(scope="module")
def real_faces(realdata):
    """Manifest of the real clips, and their detections by file name."""
    known = pd.read_csv(realdata / "clips" / "manifest.csv").set_index("file")
    return known, {name: faces.detect_in_clip(realdata / "clips" / name, max_frames=18) for name in known.index}


def test_the_real_clips_have_the_faces_that_people_see(real_faces):
    known, detected = real_faces
    for name, (rows, crops) in detected.items():
        seen, of = map(int, known.loc[name, "face_frames"].split("/"))
        if seen == 0:
            assert rows[0]["problem"] == "no_face", name
        else:
            assert len(crops) >= 2, name
        if name.split("/")[0] in ("ravdess", "grid", "pyfeat"):
            assert abs(len(crops) / rows[0]["n_sampled"] - seen / of) <= 0.25, name


def test_a_face_is_not_invented_where_it_has_left(real_faces):
    leaves, _ = real_faces[1]["pyfeat/face_noface.mov"]
    comes, _ = real_faces[1]["pyfeat/noface_face.mov"]
    assert max(row["time_s"] for row in leaves) < 2.5
    assert min(row["time_s"] for row in comes) > 3.9
