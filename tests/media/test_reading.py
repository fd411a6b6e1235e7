"""Reading and writing clips, and what is said about files that are not whole."""

import hashlib
import pickle
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest

from ecmf_utils import media
from ecmf_utils.media import reading, writing
from tests.conftest import ROOT

FPS = 10
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)


def numbered(count, height=48, width=64):
    """Frames whose brightness tells their number."""
    return [np.full((height, width, 3), 20 + 10 * i, np.uint8) for i in range(count)]


def number_of(frame):
    return round((float(frame.mean()) - 20) / 10)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return writing.write_clip(tmp_path_factory.mktemp("m") / "c.mp4", numbered(20), FPS, TONE, crf=10)


def rotate(path, out):
    """Mark an mp4 as recorded with the camera turned, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus = 0x10000, -0x10000
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, minus, 0, 0, 0, 0, 0x40000000)
    out.write_bytes(data)
    return out


def test_probe_tells_what_a_clip_holds(clip):
    info = reading.probe(clip)
    assert info == {
        "duration_s": 2.0,
        "width": 64,
        "height": 48,
        "fps": 10.0,
        "n_frames": 20,
        "has_video": True,
        "has_audio": True,
        "sample_rate": 16000,
        "channels": 1,
    }


def test_sound_only_and_picture_only_files_are_told_apart(tmp_path):
    sound = reading.probe(writing.write_clip(tmp_path / "s.mp4", [], FPS, TONE))
    picture = reading.probe(writing.write_clip(tmp_path / "p.mp4", numbered(5), FPS))
    assert (sound["has_video"], sound["has_audio"], sound["width"]) == (False, True, None)
    assert (picture["has_video"], picture["has_audio"], picture["sample_rate"]) == (
        True,
        False,
        None,
    )


def test_a_single_frame_is_read(tmp_path):
    path = writing.write_clip(tmp_path / "one.mp4", numbered(1), FPS)
    assert reading.probe(path)["n_frames"] == 1
    assert media.read_frames(path, [0.0, 5.0])[0].shape == (2, 48, 64, 3)


def test_frame_times_lie_in_the_middle_of_equal_parts():
    assert media.frame_times(2.0, count=4).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert len(media.frame_times(2.0, rate=5)) == 10
    assert media.frame_times(0.0, count=2).tolist() == [0.0, 0.0]


def test_the_frame_on_screen_at_a_time_is_read(clip):
    frames, times = media.read_frames(clip, [1.55, 0.0, 0.39, 99.0])
    assert [number_of(frame) for frame in frames] == [15, 0, 3, 19]
    assert np.allclose(times, [1.5, 0.0, 0.3, 1.9])


def test_frames_are_chosen_by_time_stamp_not_by_index(tmp_path):
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for pixels, pts in zip(numbered(4), [0, 100, 1500, 1600], strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    frames, times = media.read_frames(path, [1.4, 1.55])
    assert [number_of(frame) for frame in frames] == [1, 2]
    assert np.allclose(times, [0.1, 1.5], atol=0.01)


def test_far_apart_times_are_found_by_seeking(tmp_path, monkeypatch):
    path = writing.write_clip(tmp_path / "long.mp4", numbered(20), FPS, crf=10)
    monkeypatch.setattr(reading, "SEEK_GAP_S", 0.3)
    frames, _ = media.read_frames(path, [0.05, 0.85, 1.75])
    assert [number_of(frame) for frame in frames] == [0, 8, 17]


def test_large_frames_are_scaled_down_and_small_ones_left(clip):
    assert media.read_frames(clip, [0.0], max_side=32)[0].shape == (1, 24, 32, 3)
    assert media.read_frames(clip, [0.0], max_side=999)[0].shape == (1, 48, 64, 3)


def test_a_turned_recording_is_shown_upright(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255  # top left, which a turn clockwise brings to the top right
    stored = writing.write_clip(tmp_path / "plain.mp4", [picture] * 3, FPS, crf=5)
    turned = rotate(stored, tmp_path / "turned.mp4")
    frame = media.read_frames(turned, [0.0])[0][0]
    assert frame.shape == (64, 48, 3)
    assert frame[:12, -12:].mean() > 200 and frame[:12, :12].mean() < 50
    assert (reading.probe(turned)["width"], reading.probe(turned)["height"]) == (48, 64)


def test_sound_is_read_at_the_wanted_rate(clip):
    sound = media.read_audio(clip, 8000)
    assert sound.dtype == np.float32 and abs(len(sound) - 8000) < 400
    peak_hz = np.fft.rfft(sound[:8000]).__abs__().argmax()
    assert abs(peak_hz - 440) < 5 and 0.28 < np.abs(sound[2000:6000]).max() < 0.32


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6)])
def test_channels_are_mixed_to_one(tmp_path, layout, channels):
    path = tmp_path / "many.wav"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=48000, layout=layout)
        samples = np.tile((np.repeat(TONE, 3) * 32767).astype(np.int16)[:, None], channels)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert reading.probe(path)["channels"] == channels
    sound = media.read_audio(path)
    assert sound.ndim == 1 and abs(len(sound) - 16000) < 100
    if channels == 2:
        assert abs(np.abs(sound).max() - 0.3) < 0.01


def test_silent_sound_is_read_as_it_is(tmp_path):
    path = writing.write_clip(tmp_path / "z.mp4", numbered(3), FPS, np.zeros(8000, np.float32))
    assert np.abs(media.read_audio(path)).max() < reading.SILENCE


def test_a_missing_stream_is_named(tmp_path):
    silent = writing.write_clip(tmp_path / "p.mp4", numbered(3), FPS)
    blind = writing.write_clip(tmp_path / "s.mp4", [], FPS, TONE)
    with pytest.raises(reading.MediaError, match="no sound stream") as sound:
        media.read_audio(silent)
    with pytest.raises(reading.MediaError, match="no picture") as picture:
        media.read_frames(blind, [0.0])
    assert (sound.value.code, picture.value.code) == ("no_sound_stream", "no_video_stream")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("absent.mp4", None, "missing_file"),
        ("empty.mp4", b"", "empty_file"),
        ("page.mp4", b"<html><body>sign in first</body></html>" * 40, "not_media"),
        ("notes.txt", b"one line\nanother line\n" * 40, "not_media"),
        (
            "bytes.mp4",
            bytes(np.random.default_rng(0).integers(0, 256, 9000, np.uint8)),
            "not_media",
        ),
        ("half.mp4", "half", "truncated"),
        ("hole.mp4", "hole", "unreadable"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_a_code(tmp_path, clip, name, content, code):
    path = tmp_path / name
    whole = clip.read_bytes()
    if content == "half":
        content = whole[: len(whole) // 2]
    if content == "hole":
        start = whole.index(b"mdat") + 4
        content = whole[:start] + bytes(whole.index(b"moov") - 4 - start) + whole[whole.index(b"moov") - 4 :]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(reading.MediaError) as error:
        reading.probe(path)
    assert error.value.code == code
    assert name in str(error.value) and "\n" not in str(error.value)
    assert media.PROBLEMS[code] in str(error.value)


def test_a_file_with_its_index_in_front_that_was_cut_is_truncated(tmp_path, clip):
    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(clip)) as source,
        av.open(str(fast), "w", options={"movflags": "+faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    fast.write_bytes(fast.read_bytes()[:-600])
    with pytest.raises(reading.MediaError, match="of 20 frames are there"):
        reading.probe(fast)


def test_an_error_survives_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(reading.MediaError("unreadable", "a.mp4", "why")))
    assert (error.code, str(error)) == ("unreadable", error.detail) and "a.mp4" in error.detail


def test_libav_does_not_chatter(tmp_path, clip):
    broken = tmp_path / "half.mp4"
    broken.write_bytes(clip.read_bytes()[:3000])
    code = "from ecmf_utils.media import reading\ntry:\n    reading.probe(r'%s')\nexcept reading.MediaError:\n    pass"
    done = subprocess.run([sys.executable, "-c", code % broken], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_written_clip_is_the_same_in_every_process(tmp_path, clip):
    code = (
        "import sys; sys.path.insert(0, r'%s')\nfrom tests.media.test_reading import *\n"
        "writing.write_clip(r'%s', numbered(20), FPS, TONE, crf=10)"
    )
    other = tmp_path / "other.mp4"
    subprocess.run([sys.executable, "-c", code % (ROOT, other)], check=True)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (clip, other)}
    assert len(digests) == 1


def test_the_real_clips_hold_what_their_manifest_says(realdata):
    known = pd.read_csv(realdata / "clips" / "manifest.csv")
    assert len(known) == 16
    for row in known.itertuples():
        info = reading.probe(realdata / "clips" / row.file)
        size = (info["width"], info["height"], info["n_frames"], info["has_audio"])
        assert size == (row.w, row.h, row.frames, bool(row.audio)), row.file
        assert abs(info["duration_s"] - row.dur) < 0.02 and abs(info["fps"] - row.fps) < 0.05
        if row.audio:
            sound = media.read_audio(realdata / "clips" / row.file)
            assert (np.abs(sound).max() < reading.SILENCE) == (row.peak == 0), row.file
