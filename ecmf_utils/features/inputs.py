"""From a row of the manifest to what an encoder reads; what is not there is a problem code."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecmf_utils import files, media
from ecmf_utils.media import reading

UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of characters that leave nothing on a page


class Timed(NamedTuple):
    """Frames and their times in seconds, so that frame-level files can say when; a problem that is no failure."""

    frames: np.ndarray
    times: np.ndarray
    problem: str = ""
    detail: str = ""


def read_scene(row: dict[str, Any], n_frames: int = 8, max_side: int = 320, frame_rate: float = 0.0) -> Timed:
    """Whole frames in the middle of equal parts of the clip, chosen by time stamp.

    Parameters
    ----------
    row : dict
        A row of the manifest.
    n_frames : int
        So many parts; with `frame_rate` the most there may be.
    max_side : int
        Larger frames are scaled down to this longer side in pixels.
    frame_rate : float
        Frames a second instead of a number.

    Returns
    -------
    Timed
        uint8 (F, H, W, 3) frames and their times (F,) in seconds; a problem where there are fewer than were asked for.

    Raises
    ------
    EcmfError
        A number that cannot be, or the clip has no picture.
    """
    if n_frames < 1 or frame_rate < 0 or max_side < 1:
        raise files.EcmfError(
            f"n_frames={n_frames}, frame_rate={frame_rate:g}, max_side={max_side}: expected at least 1, 0 and 1"
        )
    video = _path(row, "video", "no_video_stream")
    duration = row.get("duration_s")
    if duration is None or pd.isna(duration):
        duration = reading.probe(video)["duration_s"]
    wanted = max(1, round(duration * frame_rate)) if frame_rate else n_frames
    times = media.frame_times(float(duration), min(wanted, n_frames))
    found = Timed(*media.read_frames(video, times, max_side))
    if wanted > n_frames:
        return found._replace(problem="frames_thinned", detail=f"{n_frames} of {wanted:,} frames")
    if (distinct := len(np.unique(found.times))) < len(times):
        return found._replace(problem="few_frames", detail=f"{distinct} of {len(times)} frames")
    return found


def read_face(row: dict[str, Any], profile: str) -> Timed:
    """Stored crops of the main face; never a frame in their place.

    Parameters
    ----------
    row : dict
        A row of the manifest.
    profile : str
        Whose crops to read.

    Returns
    -------
    Timed
        uint8 (F, S, S, 3) crops and their times (F,) in seconds.

    Raises
    ------
    EcmfError
        The clip has no face, or notebook 20 has not run.
    """
    video = _path(row, "video", "no_video_stream")
    crops, times = media.read_crops(profile, row["clip_id"])
    if len(crops):
        return Timed(crops, times)
    pictures = reading.probe(video)["has_video"]  # raises for a file that cannot be read at all
    raise reading.MediaError("no_face" if pictures else "no_video_stream", video)


def read_audio(row: dict[str, Any], sample_rate: int = 16000) -> np.ndarray:
    """The sound of the audio file, or of the video where there is none.

    Parameters
    ----------
    row : dict
        A row of the manifest.
    sample_rate : int
        Hz.

    Returns
    -------
    float32 array, shape (samples,)
        One channel.

    Raises
    ------
    EcmfError
        There is no sound, or it is silent from beginning to end: a missing branch.
    """
    column = "audio" if _given(row.get("audio")) else "video"
    sound = media.read_audio(_path(row, column, "no_sound_stream"), sample_rate)
    peak = np.abs(sound).max()
    if not np.isfinite(peak):  # files of floating-point samples may hold anything
        raise reading.MediaError("not_finite", row[column])
    if peak < reading.SILENCE:
        raise reading.MediaError("silent_sound", row[column])
    return sound


def read_text(row: dict[str, Any], column: str = "text") -> str:
    """The transcript or what a model made of it, stripped.

    Parameters
    ----------
    row : dict
        A row of the manifest.
    column : str
        Where the text is.

    Returns
    -------
    str
        The text.

    Raises
    ------
    EcmfError
        The text is empty: a missing branch.
    """
    if text := _words(row.get(column)):
        return text
    code = "bad_encoding" if "bad_encoding" in str(row.get("problem") or "") else "empty_text"
    refused = _words(row.get("transcript"))  # there were words, but no valid answer about them
    raise reading.MediaError("no_answer" if refused else code, str(row["clip_id"]))


def distinct_texts(clips: pd.DataFrame, texts: Iterable[str | None] | None = None) -> pd.DataFrame:
    """Clips whose identity is their text, so that a changed word, not a changed video, re-encodes.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    texts : iterable of str or None, optional
        Takes the place of the transcript, one for each clip.

    Returns
    -------
    DataFrame
        The manifest with the texts, and their hashes as `content_hash`.
    """
    said = [_whole(text) for text in (clips["text"] if texts is None else texts)]
    hashes = [files.digest(text) for text in said]
    return clips.assign(transcript=clips["text"], text=said, content_hash=hashes)


def _words(value: Any) -> str:
    """A text without blanks around it; empty where there is nothing to be seen."""
    text = _whole(value).strip() if _given(value) else ""
    return text if any(unicodedata.category(letter) not in UNSEEN for letter in text) else ""


def _whole(text: Any) -> Any:
    """Half of a surrogate pair, which no file can hold, becomes a replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _given(text) else text


def _given(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _path(row: dict[str, Any], column: str, code: str) -> str:
    if not _given(row.get(column)):
        raise reading.MediaError(code, str(row["clip_id"]))
    return row[column]
