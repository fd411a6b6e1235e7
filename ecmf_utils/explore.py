"""What can be measured on a clip before any model sees it: loudness, noise, light, motion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .media import MediaError, frame_times, read_audio, read_frames
from .workers import parallel_map

RATE = 16000  # Hz
WINDOW = 400  # samples, 25 ms
MEASURES = ("loudness_dbfs", "snr_db", "brightness", "motion")
FLOOR = 1e-5  # full scale; keeps the logarithm of silence finite


def measure(clips: pd.DataFrame, n_workers: int = 0) -> pd.DataFrame:
    """Loudness, noise, light and motion of each clip.

    Parameters
    ----------
    clips : DataFrame
        Rows of the manifest.

    Returns
    -------
    DataFrame
        `clip_id`, `loudness_dbfs` (root mean square, dB full scale), `snr_db` (loud against quiet 25 ms
        windows, a rough estimate), `brightness` (mean grey level, 0–255), `motion` (mean absolute grey
        difference between five evenly spaced frames); NaN where the stream is missing.
    """
    rows = list(parallel_map(_measure_row, clips.to_dict("records"), n_workers, chunk=4))
    return pd.DataFrame(rows, columns=["clip_id", *MEASURES])


def _measure_row(row: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"clip_id": row["clip_id"]} | dict.fromkeys(MEASURES, np.nan)
    try:
        if isinstance(row["audio"], str):
            made |= _sound(read_audio(row["audio"], RATE))
        if row["width"] == row["width"]:  # not NaN
            made |= _pictures(
                read_frames(row["video"], frame_times(row["duration_s"], count=5), max_side=120)[0]
            )
    except MediaError:  # already a row of the problem table
        pass
    return made


def _sound(sound: np.ndarray) -> dict[str, float]:
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    if not len(windows):
        return {}
    level = 20 * np.log10(np.sqrt((windows**2).mean(1)) + FLOOR)
    loud, quiet = np.percentile(level, [90, 10])
    overall = 20 * np.log10(np.sqrt((sound**2).mean()) + FLOOR)
    return {"loudness_dbfs": float(overall), "snr_db": float(loud - quiet)}


def _pictures(frames: np.ndarray) -> dict[str, float]:
    grey = np.stack([frame.mean(axis=2) for frame in frames]).astype(np.float32)
    motion = float(np.abs(np.diff(grey, axis=0)).mean()) if len(grey) > 1 else 0.0
    return {"brightness": float(grey.mean()), "motion": motion}
