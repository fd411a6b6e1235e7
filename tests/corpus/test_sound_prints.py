"""The same recording is recognised in other clothes, and other recordings are not."""

import io

import av
import numpy as np
import pandas as pd
import pytest
from scipy.signal import resample_poly

from ecmf_utils import media
from ecmf_utils.corpus.sound_prints import LEAST, MAX_ERROR, find_near_duplicates, fingerprint

RATE = 16000


def babble(seed, seconds=3.0):
    """Noise whose spectrum wanders as that of speech does; float32 (T,)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    knots = np.arange(0, seconds + 0.2, 0.09)
    sound = np.zeros(len(time))
    for centre in np.geomspace(200, 3500, 24):
        loud = np.interp(time, knots, rng.exponential(1.0, len(knots)))
        sound += loud * np.sin(2 * np.pi * centre * time + 3 * np.cumsum(rng.normal(0, 0.02, len(time))))
    return (0.05 * sound).astype(np.float32)


def encoded(sound, codec, container, rate=RATE, bit_rate=64000):
    """The sound after a lossy codec, at 16 kHz again."""
    file = io.BytesIO()
    sound = resample_poly(sound, rate, RATE) if rate != RATE else sound
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono", options={"b": str(bit_rate)})
        frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, queue = rate, av.AudioFifo()
        kind = av.AudioResampler(stream.format.name, "mono", rate)
        for part in kind.resample(frame) + kind.resample(None):
            queue.write(part)
        while (part := queue.read(stream.codec_context.frame_size, partial=True)) is not None:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as source:
        back = av.AudioResampler("fltp", "mono", RATE)
        parts = [part for frame in source.decode(audio=0) for part in back.resample(frame)] + back.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def cut(sound, start_s, end_s=0.0):
    return sound[int(start_s * RATE) : len(sound) - int(end_s * RATE)]


CHANGED = {
    "softer": lambda sound: sound * 0.25,
    "aac": lambda sound: encoded(sound, "aac", "adts"),
    "mp3": lambda sound: encoded(sound, "libmp3lame", "mp3"),
    "trimmed": lambda sound: cut(sound, 0.1),
    "trimmed aac": lambda sound: encoded(cut(sound, 0.2, 0.1), "aac", "adts"),
    "trimmed mp3": lambda sound: encoded(cut(sound, 0.3), "libmp3lame", "mp3"),
    "telephone": lambda sound: encoded(sound, "libmp3lame", "mp3", 8000, 16000),
    "all at once": lambda sound: encoded(cut(sound, 0.15, 0.1) * 0.25, "libmp3lame", "mp3", 8000, 24000),
}


def pairs(prints, **how):
    found = find_near_duplicates(prints, **how)
    return set(zip(found["a"], found["b"], strict=True))


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_copy_is_found_among_others(change):
    prints = {f"clip{i}": fingerprint(babble(i)) for i in range(12)}
    prints["copy"] = fingerprint(CHANGED[change](babble(7)))
    assert pairs(prints) == {("clip7", "copy")}


def test_a_real_voice_is_told_from_itself_saying_something_else(realdata):
    sounds = {path.stem: media.read_audio(path) for path in sorted((realdata / "clips" / "ravdess").glob("*.mp4"))}
    prints = {name: fingerprint(sound) for name, sound in sounds.items()}
    assert len(sounds) == 4 and pairs(prints) == set()
    for name, sound in sounds.items():
        prints[f"{name} again"] = fingerprint(CHANGED["all at once"](sound))
    assert pairs(prints) == {(name, f"{name} again") for name in sounds}


def test_the_same_words_by_another_voice_or_in_another_mood_are_another_recording():
    pytest.importorskip("espeakng_loader")
    from ecmf_demo import speech

    def said(number, emotion):
        rng = np.random.default_rng(number)
        who = speech.make_voice(rng, "mf"[number % 2])
        return speech.record(speech.speak(who, "They have opened the doors to the hall!", emotion, 1.0, rng), 30, rng)

    prints = {f"{n} {mood}": fingerprint(said(n, mood)) for n in range(6) for mood in ("neutral", "happy", "sad")}
    assert pairs(prints) == set()


def test_clips_that_share_two_seconds_of_a_scene_are_found():
    scene = babble(0, 6.0)
    prints = {"first": fingerprint(cut(scene, 0, 2)), "second": fingerprint(cut(scene, 2.013))}
    assert pairs(prints) == {("first", "second")}


def test_the_gain_does_not_matter():
    assert fingerprint(babble(1)) == fingerprint(babble(1) * np.float32(0.125))


def test_there_are_about_thirty_moments_a_second():
    assert len(fingerprint(babble(0, 10.0))) / 4 / 10 == pytest.approx(30, abs=2)


def test_a_long_sound_has_the_fingerprint_of_its_parts(monkeypatch):
    whole = fingerprint(babble(0, 8.0))
    monkeypatch.setattr("ecmf_utils.corpus.sound_prints.BLOCK", 7)
    assert fingerprint(babble(0, 8.0)) == whole


@pytest.mark.parametrize(
    "sound", [np.zeros(48000, np.float32), np.zeros(0, np.float32), babble(0, 0.8), babble(0) * 1e-6]
)
def test_silence_and_a_moment_of_sound_have_no_fingerprint(sound):
    assert fingerprint(sound.astype(np.float32)) == b""


def test_quiet_moments_are_not_compared():
    sound = np.concatenate([babble(0, 2.0), 1e-5 * babble(1, 2.0)])
    moments = np.frombuffer(fingerprint(sound), "<u4")
    assert (moments[:40] != 0).all() and (moments[-40:] == 0).all()


def test_empty_and_missing_fingerprints_match_nothing():
    prints = pd.Series({"a": b"", "b": b"", "c": None, "d": fingerprint(babble(0))})
    found = find_near_duplicates(prints)
    assert list(found) == ["a", "b", "bit_error"] and len(found) == 0 and len(find_near_duplicates({})) == 0


def test_the_error_of_a_true_copy_is_nothing_and_the_bound_is_kept():
    sound = babble(3)
    prints = {"a": fingerprint(sound), "b": fingerprint(sound), "c": fingerprint(CHANGED["telephone"](sound))}
    found = find_near_duplicates(prints).set_index(["a", "b"])["bit_error"]
    assert found["a", "b"] == 0 and 0 < found["a", "c"] < MAX_ERROR
    assert pairs(prints, max_error=0.0) == {("a", "b")}


def test_a_large_cluster_stays_connected():
    prints = {f"c{i:03d}": fingerprint(babble(0)) for i in range(100)}
    found = pairs(prints)
    assert {(f"c{i:03d}", f"c{i + 1:03d}") for i in range(99)} <= found and len(found) < 2000


def test_little_common_sound_is_not_enough():
    whole = fingerprint(babble(0, 6.0))
    assert pairs({"a": whole[: 4 * 60], "b": whole[4 * (60 - LEAST // 2) :]}) == set()
    assert pairs({"a": whole[: 4 * 60], "b": whole[4 * (60 - LEAST) :]}) == {("a", "b")}
