"""Measures of a clip before any model: right on clips whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from ecmf_utils import explore, media, probing


def measured(path):
    clips = probing.probe_all(pd.DataFrame([{"clip_id": "a", "video": str(path), "text": None}]), n_workers=1)
    return explore.measure(clips, 1).iloc[0]


def write(path, sound, grey=128, step=0):
    frames = [np.full((64, 64, 3), grey + step * i, np.uint8) for i in range(12)]
    media.write_clip(path, frames, 12, sound.astype(np.float32), 16000)
    return path


def tone(amplitude, seconds=1.0):
    return amplitude * np.sin(2 * np.pi * 220 * np.arange(int(16000 * seconds)) / 16000)


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
    media.write_clip(tmp_path / "mute.mp4", frames, 12, None, 16000)
    found = measured(tmp_path / "mute.mp4")
    assert np.isnan(found["loudness_dbfs"]) and found["brightness"] > 90
