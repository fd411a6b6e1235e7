"""From a row of the manifest to what an encoder reads; what is not there is a problem code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import faces, media


class Timed(NamedTuple):
    """Frames and their times in seconds, so that frame-level files can say when."""

    frames: np.ndarray
    times: np.ndarray


def read_scene(row: dict[str, Any], n_frames: int = 8, max_side: int = 320) -> Timed:
    """Whole frames uint8 (F, H, W, 3) in the middle of `n_frames` equal parts of the clip."""
    video = _path(row, "video", "no_video_stream")
    duration = row.get("duration_s")
    if duration is None or pd.isna(duration):
        duration = media.probe(video)["duration_s"]
    return Timed(*media.read_frames(video, media.frame_times(float(duration), n_frames), max_side))


def read_face(row: dict[str, Any], profile: str) -> Timed:
    """Stored crops uint8 (F, S, S, 3) of the main face; never a frame in their place."""
    video = _path(row, "video", "no_video_stream")
    crops, times = faces.read_crops(profile, row["clip_id"])
    if len(crops):
        return Timed(crops, times)
    media.probe(video)  # a file that cannot be read is not a clip without a face
    raise media.MediaError("no_face", video)


def read_audio(row: dict[str, Any], sample_rate: int = 16000) -> np.ndarray:
    """The sound float32 (samples,) of the audio file, or of the video where there is none."""
    column = "audio" if _given(row.get("audio")) else "video"
    return media.read_audio(_path(row, column, "no_sound_stream"), sample_rate)


def read_text(row: dict[str, Any], column: str = "text") -> str:
    """The transcript, stripped; an empty one is a missing branch."""
    text = row.get(column)
    if _given(text) and str(text).strip():
        return str(text).strip()
    broken = "bad_encoding" in str(row.get("problem") or "")
    raise media.MediaError("bad_encoding" if broken else "empty_text", str(row["clip_id"]))


def _given(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _path(row: dict[str, Any], column: str, code: str) -> str:
    if not _given(row.get(column)):
        raise media.MediaError(code, str(row["clip_id"]))
    return row[column]
