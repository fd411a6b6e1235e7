"""Bad and odd input to extraction: tables of cases with what the row of each clip says, for every kind of encoder.

Models are tiny with random weights, readers and files are real. No case may raise, and none may change the
vectors of the clips beside it.
"""

import threading
from dataclasses import replace
from functools import cache, partial

import av
import numpy as np
import pandas as pd
import psutil
import pytest

from ecmf_bench import untrained
from ecmf_utils import encoders, features, media
from ecmf_utils.media import writing
from tests.media import test_reading

RATE = 16000
LONG_S = 1200  # twenty minutes
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.1, 2 * RATE).astype(np.float32)
PICTURES = [RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(12)]
MEMORY_MB = 700  # that twenty minutes may take at most

# ---- files


def film(path, count=12, fps=10, pictures=PICTURES):
    return writing.write_clip(path, [pictures[i % len(pictures)] for i in range(count)], fps)


def turned(path):
    return test_reading.rotate(film(path.with_suffix(".plain.mp4")), path)


def uneven(path):
    """Frames at 0, 20 ms, 1.5 s, 1.52 s and 4 s."""
    with av.open(str(path), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=50)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = test_reading.Fraction(1, 1000)
        for pixels, pts in zip(PICTURES, [0, 20, 1500, 1520, 4000], strict=False):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, stream.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def sound(path, samples=NOISE, rate=RATE, layout="mono", codec="pcm_s16le"):
    """A wav file with the same samples in every channel."""
    count = {"mono": 1, "5.1": 6}[layout]
    kind, scale, dtype = ("flt", 1, np.float32) if codec == "pcm_f32le" else ("s16", 32767, np.int16)
    values = np.repeat((samples * scale).astype(dtype), count)
    with av.open(str(path), "w", format="wav") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, len(values), count * 65536):
            block = np.ascontiguousarray(values[None, start : start + count * 65536])
            frame = av.AudioFrame.from_ndarray(block, format=kind, layout=layout)
            frame.sample_rate = rate
            out.mux(stream.encode(frame))
        if not len(values):
            out.start_encoding()
        out.mux(stream.encode(None))
    return path


def spoiled(value):
    samples = NOISE.copy()
    samples[5000] = value
    return samples


def page(path):
    path.write_text("<html></html>")
    return path


def nothing(path):
    path.write_bytes(b"")
    return path


# ---- the cases: what makes the clip, and status and problem of its row

SCENES = {
    "a whole clip": (film, "ok", None),
    "one frame": (partial(film, count=1), "ok", "few_frames"),
    "frames at uneven times": (uneven, "ok", "few_frames"),
    "turned recording": (turned, "ok", None),
    "a single colour": (partial(film, pictures=[np.zeros((48, 64, 3), np.uint8)]), "ok", None),
    "a narrow strip": (partial(film, pictures=[np.zeros((16, 640, 3), np.uint8)]), "ok", None),
    "twenty minutes": (partial(film, count=LONG_S, fps=1), "ok", None),
    "sound only": (sound, "missing", "no_video_stream"),
    "no path": (None, "missing", "no_video_stream"),
    "no file": (lambda path: path, "failed", "missing_file"),
    "no bytes": (nothing, "failed", "empty_file"),
    "a page": (page, "failed", "not_media"),
}
SOUNDS = {
    "a whole sound": (sound, "ok", None),
    "5.1 channels": (partial(sound, layout="5.1"), "ok", None),
    "8 kHz": (partial(sound, rate=8000), "ok", None),
    "a millisecond": (partial(sound, samples=NOISE[:16]), "ok", None),
    "one level": (partial(sound, samples=np.full(RATE, 0.5, np.float32)), "ok", None),
    "twenty minutes": (partial(sound, samples=np.resize(NOISE, 8000 * LONG_S), rate=8000), "ok", "sound_windows"),
    "no samples": (partial(sound, samples=NOISE[:0]), "failed", "unreadable"),
    "silence": (partial(sound, samples=0 * NOISE), "missing", "silent_sound"),
    "pictures only": (film, "missing", "no_sound_stream"),
    "not a number": (partial(sound, samples=spoiled(np.nan), codec="pcm_f32le"), "failed", "not_finite"),
    "infinite": (partial(sound, samples=spoiled(np.inf), codec="pcm_f32le"), "failed", "not_finite"),
    "no path": (None, "missing", "no_sound_stream"),
    "no file": (lambda path: path, "failed", "missing_file"),
}
TEXTS = {
    "a sentence": ("I am still here.", "ok", None),
    "10,000 letters": ("a long day " * 910, "ok", "text_cut"),
    "emoji": ("\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467", "ok", None),
    "control characters": ("no\x00w\x07 or \u202enever\x1b[31m", "ok", None),
    "half a pair": ("what\ud83d?", "ok", None),
    "Chinese": ("你怎么来了？", "ok", None),
    "nothing": (None, "missing", "empty_text"),
    "empty": ("", "missing", "empty_text"),
    "blanks": (" \t\r\n\u3000\xa0 ", "missing", "empty_text"),
    "nothing to be seen": ("\x00\u200b\u202e\ufeff", "missing", "empty_text"),
}
OTHERWISE = {("classical", "twenty minutes"): ("ok", None)}  # it has no window
CASES = {"scene": SCENES, "audio": SOUNDS, "text": TEXTS}
FAMILIES = {
    "scene": ("classical", "vit", "videomae", "timm"), "audio": ("classical", "hubert", "hubert-large", "whisper"),
    "text": ("minilm", "bert", "qwen"),
}  # fmt: skip
READERS = {"scene": features.read_scene, "audio": features.read_audio, "text": features.read_text}
SLOW = [(family, "twenty minutes") for family in ("classical", "hubert", "whisper")]
TABLE = [
    pytest.param(branch, family, case, id=f"{branch}-{family}-{case}",
                 marks=[pytest.mark.slow] * (branch == "audio" and (family, case) in SLOW))
    for branch in CASES for family in FAMILIES[branch] for case in CASES[branch]
]  # fmt: skip


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that loads a family's encoder once."""

    @cache
    def loaded(branch, family):
        folder = tmp_path_factory.mktemp(family)
        name = family if family in ("classical", "minilm") else untrained.save(family, folder)
        return encoders.load(name, branch, device="cpu")

    return loaded


@pytest.fixture(scope="module")
def put(tmp_path_factory):
    """A function that makes a case's file once and gives the columns of its clip."""
    folder = tmp_path_factory.mktemp("clips")

    @cache
    def made(branch, case):
        given = CASES[branch][case][0]
        if branch == "text":
            return {"text": given}
        path = folder / f"{branch} {case}.{'mp4' if branch == 'scene' else 'wav'}"
        video = given and str(given(path))
        seconds = {"twenty minutes": LONG_S, "one frame": 0.1, "frames at uneven times": 4.02}
        return {"video": video, "duration_s": seconds.get(case, 1.2)}

    return made


def neighbours(branch, put):
    """Three clips with nothing odd about them, of different lengths."""
    if branch == "text":
        return [{"text": text} for text in ("What a day!", "no", "I do not know what to say to you.")]
    names = {"scene": ("a whole clip", "turned recording"), "audio": ("a whole sound", "8 kHz")}[branch]
    return [put(branch, name) for name in (names[0], *names)]


def table_of(rows):
    found = pd.DataFrame(rows, dtype=object).assign(clip_id=[f"c{i}" for i in range(len(rows))], content_hash="same")
    return features.distinct_texts(found) if "text" in found else found


def extract(profile, branch, encoder, rows, level="utterance", **how):
    """What a corpus of these clips gives: its table of statuses, vectors, and which are there."""
    clips = table_of(rows)
    features.extract(profile, branch, clips, encoder, partial(READERS[branch], **how), level=level)
    status, found = features.read_status(profile, [branch]).astype(object), features.load(profile, [branch])
    return status.where(status.notna(), None), found.x[branch], found.present[branch]


def assert_same(found, wanted, encoder):
    """To the last bit where clips are described one by one, else up to the order of sums."""
    assert np.abs(found - wanted).max() <= (0 if encoder.portable else 1e-5) * np.abs(wanted).max()


@pytest.mark.parametrize(("branch", "family", "case"), TABLE)
def test_every_clip_has_its_row_and_changes_no_other(branch, family, case, load, put, home):
    encoder, good = load(branch, family), neighbours(branch, put)
    _, alone, _ = extract("alone", branch, encoder, good)
    status, vectors, present = extract("beside", branch, encoder, [*good[:1], put(branch, case), *good[1:]])
    found = status.iloc[1]
    assert (found["status"], found["problem"]) == OTHERWISE.get((family, case), CASES[branch][case][1:])
    assert found["problem"] is None or found["problem"] in media.PROBLEMS
    assert (found["detail"] is None) == (found["problem"] is None)
    assert present.tolist() == [True, found["status"] == "ok", True, True]
    assert_same(np.delete(vectors, 1, 0), alone, encoder)


MODELS = [(branch, family) for branch in CASES for family in FAMILIES[branch] if family not in ("classical", "minilm")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("branch", "family"), MODELS)
def test_a_number_of_a_model_that_is_not_finite_costs_that_clip_only(branch, family, value, load, put, home):
    encoder, good = load(branch, family), neighbours(branch, put)

    def spoil(clips):
        rows = encoder.run(clips)
        rows[1] = rows[1].copy()
        rows[1][-1, 3] = value
        return rows

    _, whole, _ = extract("whole", branch, encoder, good)
    status, vectors, present = extract("spoiled", branch, replace(encoder, run=spoil), good)
    assert status["problem"].tolist() == [None, "not_finite", None] and present.tolist() == [True, False, True]
    assert_same(vectors[::2], whole[::2], encoder)


def test_weights_that_are_not_finite_cost_the_clips_that_meet_them(home, tmp_path):
    import torch
    import transformers

    name = untrained.save("bert", tmp_path)
    letter = transformers.AutoTokenizer.from_pretrained(tmp_path)("z")["input_ids"][1]
    model = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[letter] = torch.nan
    model.save_pretrained(tmp_path)
    rows = [{"text": text} for text in ("no", "z", "what a day", "zero")]
    status, _, _ = extract("p", "text", encoders.load(name, "text", device="cpu"), rows)
    assert status["problem"].tolist() == [None, "not_finite", None, "not_finite"]


def test_a_model_that_stops_costs_that_clip_and_says_one_line(load, put, home):
    encoder = load("text", "bert")

    def stop(clips):
        if any(len(clip.items[0]) > 20 for clip in clips):
            raise RuntimeError("CUDA error: \ud83d\nand a page of more")
        return encoder.run(clips)

    good = neighbours("text", put)
    _, whole, _ = extract("whole", "text", encoder, good)
    status, vectors, _ = extract("p", "text", replace(encoder, run=stop), good)
    assert status["problem"].tolist() == [None, None, "encoder_failed"]
    assert status["detail"][2] == "RuntimeError: CUDA error: ?"
    assert_same(vectors[:2], whole[:2], encoder)


# ---- what was left out is told


@pytest.mark.parametrize(
    ("family", "told"),
    [("minilm", "2,732 tokens, 256 were read"), ("bert", "64 were read"), ("qwen", "10,009 tokens, 512 were read")],
)
def test_a_transcript_that_is_cut_says_how_many_tokens_were_read(family, told, load, put, home):
    status, _, _ = extract("p", "text", load("text", family), [put("text", "10,000 letters")])
    assert status["detail"][0].endswith(told)


@pytest.mark.parametrize("family", ["hubert", "hubert-large", "whisper"])
def test_a_long_sound_says_how_it_was_cut(family, load, put, home, tmp_path):
    minute = sound(tmp_path / "minute.wav", np.resize(NOISE, 60 * RATE))
    rows = [put("audio", "a whole sound"), {"video": str(minute)}]
    status, _, _ = extract("p", "audio", load("audio", family), rows)
    assert status["detail"].tolist() == [None, "3 windows of 30 s that overlap by 2 s or more"]


def test_frames_that_are_left_out_for_their_number_are_told(load, put, home):
    rows = [put("scene", case) for case in ("a whole clip", "twenty minutes")]
    status, _, _ = extract("p", "scene", load("scene", "classical"), rows, frame_rate=1.0, n_frames=16)
    assert (status["problem"][1], status["detail"][1]) == ("frames_thinned", "16 of 1,200 frames")
    assert status["status"].tolist() == ["ok", "ok"] and "frames_thinned" in media.PROBLEMS


# ---- how much is held


@pytest.mark.parametrize(
    ("branch", "family"),
    [
        ("audio", "classical"),
        ("scene", "vit"),
        *(pytest.param("audio", one, marks=pytest.mark.slow) for one in ("hubert-large", "whisper")),
    ],
)
def test_twenty_minutes_fit_into_memory(branch, family, load, put, home):
    encoder, rows = load(branch, family), [put(branch, "twenty minutes")]
    assert peak_mb(lambda: extract("p", branch, encoder, rows, level="frame")) < MEMORY_MB


def peak_mb(work):
    """How far the memory of this process grows meanwhile."""
    process, done, seen = psutil.Process(), threading.Event(), []

    def watch():
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    before, thread = process.memory_info().rss, threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return (max(seen) - before) / 2**20


# ---- how a file is made does not matter


@pytest.mark.parametrize("how", [{"rate": 8000}, {"rate": 48000}, {"layout": "5.1"}, {"codec": "pcm_f32le"}])
def test_a_sound_keeps_its_vector_in_another_format(how, load, home, tmp_path):
    def hum(name, hz=220, rate=RATE, **how):
        time = np.arange(2 * rate) / rate
        wave = 0.3 * np.sin(2 * np.pi * hz * time) * (1 + np.sin(7 * time)) / 2
        return {"video": str(sound(tmp_path / name, wave.astype(np.float32), rate, **how))}

    rows = [hum("plain.wav"), hum("other.wav", **how), hum("octave.wav", 440)]
    _, (plain, other, octave), _ = extract("p", "audio", load("audio", "hubert"), rows)
    assert np.linalg.norm(plain - other) < 0.1 * np.linalg.norm(plain - octave)
