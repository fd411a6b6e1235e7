"""Loudness over time, and which moments of a sound are taken for speech."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_closing, binary_opening

SAMPLE_RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms
FLOOR = 1e-5  # full scale; keeps the logarithm of silence finite
# A window is taken for speech when it is this much below the loud ones at most, this much above the
# quiet ones at least, and no whisper of a noise floor. Rough: music and laughter count as well.
BELOW_LOUD_DB, ABOVE_QUIET_DB, AUDIBLE_DBFS = 25.0, 6.0, -60.0
PAUSE, CLICK = 5, 3  # windows: a shorter gap is part of a word, a shorter sound is none


def measure_levels(sound: np.ndarray) -> np.ndarray:
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return 20 * np.log10(np.sqrt((windows**2).mean(1)) + FLOOR)


def find_speech(sound: np.ndarray) -> np.ndarray:
    """Which 25 ms windows of a sound (T,) at 16 kHz are taken for speech, by their level alone.

    Returns
    -------
    bool (T // 400,)
        Louder than 25 dB below the loud windows (95th percentile), 6 dB above the quiet ones (10th) and
        -60 dBFS; gaps under 125 ms are closed, sounds under 75 ms left out.
    """
    level = measure_levels(sound)
    if not len(level):
        return np.zeros(0, bool)
    loud, quiet = np.percentile(level, [95, 10])
    spoken = level > max(loud - BELOW_LOUD_DB, quiet + ABOVE_QUIET_DB, AUDIBLE_DBFS)
    closed = binary_closing(np.pad(spoken, PAUSE), np.ones(PAUSE))[PAUSE:-PAUSE]
    return binary_opening(closed, np.ones(CLICK))
