"""The loudness of a sound over time, and the parts of it that are probably speech."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_closing, binary_opening

SAMPLE_RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms
FLOOR = 1e-5  # full scale; keeps the logarithm of silence finite
# A window counts as speech when its level is at most BELOW_LOUD_DB under that of the loud windows, at least
# ABOVE_QUIET_DB over that of the quiet ones, and over AUDIBLE_DBFS. This is rough: music and laughter count too.
BELOW_LOUD_DB, ABOVE_QUIET_DB, AUDIBLE_DBFS = 25.0, 6.0, -60.0
PAUSE, CLICK = 5, 3  # windows; a shorter gap belongs to a word, a shorter sound is not speech


def measure_levels(sound: np.ndarray) -> np.ndarray:
    """The level of each 25 ms window of a sound.

    Parameters
    ----------
    sound : float32 (T,)
        One channel at 16 kHz, in [-1, 1].

    Returns
    -------
    float32 (T // 400,)
        Root mean square of each window in dB full scale, at least -100.
    """
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return 20 * np.log10(np.sqrt((windows**2).mean(1)) + FLOOR)


def find_speech(sound: np.ndarray) -> np.ndarray:
    """Which 25 ms windows of a sound are probably speech, judged by their level alone.

    Parameters
    ----------
    sound : float32 (T,)
        One channel at 16 kHz, in [-1, 1].

    Returns
    -------
    bool (T // 400,)
        True where the level is above all three of: the loud windows (95th percentile) minus 25 dB, the quiet
        windows (10th percentile) plus 6 dB, and -60 dBFS. Gaps shorter than 125 ms are then filled, and
        sounds shorter than 75 ms removed.
    """
    levels = measure_levels(sound)
    if not len(levels):
        return np.zeros(0, bool)
    loud, quiet = np.percentile(levels, [95, 10])
    spoken = levels > max(loud - BELOW_LOUD_DB, quiet + ABOVE_QUIET_DB, AUDIBLE_DBFS)
    without_gaps = binary_closing(np.pad(spoken, PAUSE), np.ones(PAUSE))[PAUSE:-PAUSE]
    return binary_opening(without_gaps, np.ones(CLICK))
