"""What a page may show of a clip: frames, sounds and transcripts, as `media_in_reports` allows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, data_uri

from . import reading

MEDIA_POLICIES = ("none", "blurred", "full")
WITHHELD = "(withheld)"
BLUR_CELLS = 10  # width of a blurred frame in cells; a pose can be seen, but nobody can be recognised


def show_frame(image: np.ndarray, policy: str) -> np.ndarray | None:
    """A frame as the policy allows it: as it is, blurred beyond recognition, or None.

    Parameters
    ----------
    image : uint8 (H, W, 3)
    policy : "none", "blurred" or "full"
    """
    _check_policy(policy)
    if policy != "blurred":
        return image if policy == "full" else None
    from PIL import Image

    height, width = image.shape[:2]
    cells = (BLUR_CELLS, max(2, round(BLUR_CELLS * height / width)))
    coarse = Image.fromarray(image).resize(cells, Image.Resampling.BOX)
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def show_text(text: str | None, policy: str) -> str:
    """A transcript as `media_in_reports` allows it.

    Parameters
    ----------
    text : str or None
        The transcript.
    policy : "none", "blurred" or "full"
        What may be shown.

    Returns
    -------
    str
        For figures, and for tables, which escape what they show.
    """
    _check_policy(policy)
    if policy != "full":
        return WITHHELD
    return "" if text is None or text is pd.NA or text != text else str(text)


def show_sound(sound: np.ndarray, policy: str) -> np.ndarray | None:
    """A sound as `media_in_reports` allows it: only the policy full does, because a spectrogram gives the words away.

    Parameters
    ----------
    sound : float array, shape (T,)
        The sound.
    policy : "none", "blurred" or "full"
        What may be shown.

    Returns
    -------
    float array, shape (T,), or None
        The sound itself, or None.
    """
    _check_policy(policy)
    return sound if policy == "full" else None


def show_video(path: Path | str, policy: str, width: int = 320) -> str:
    """An HTML element that plays a clip from within the page, or says that it is withheld.

    Parameters
    ----------
    path : path
        An MP4 file, relative to the project or absolute.
    policy : "none", "blurred" or "full"
        What may be shown.
    width : int
        Of the player, in pixels.

    Returns
    -------
    str
        The HTML.
    """
    _check_policy(policy)
    if policy != "full":
        return f"<p>{WITHHELD}</p>"
    encoded = data_uri(reading.resolve(path).read_bytes(), "video/mp4")
    return f'<video controls preload="metadata" width="{width}" src="{encoded}"></video>'


def _check_policy(policy: str) -> None:
    if policy not in MEDIA_POLICIES:
        raise EcmfError(f"media_in_reports is {policy!r}; expected one of {', '.join(MEDIA_POLICIES)}")


def show_middle(clips: pd.DataFrame, policy: str, max_side: int = 240) -> list[np.ndarray | None]:
    """The frame in the middle of each clip, as `media_in_reports` allows it.

    Parameters
    ----------
    clips : DataFrame
        Clips with a picture: columns `video` and `duration_s`.
    policy : "none", "blurred" or "full"
        What may be shown.
    max_side : int
        Larger frames are scaled down to this longer side in pixels.

    Returns
    -------
    list of ndarray, uint8, shape (H, W, 3), or None
        One for each clip; None where nothing may be shown.
    """
    return [
        show_frame(reading.read_frames(video, [duration_s / 2], max_side)[0][0], policy)
        for video, duration_s in zip(clips["video"], clips["duration_s"], strict=True)
    ]


def show_evenly(
    clip: Mapping[str, Any], count: int, policy: str, max_side: int = 240
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames from the middle of equal parts of a clip, as `media_in_reports` allows them.

    Parameters
    ----------
    clip : mapping
        A row of the manifest: `video`, `duration_s`, and `width`, which is NaN where there is no picture.
    count : int
        Number of parts.
    policy : "none", "blurred" or "full"
        What may be shown.
    max_side : int
        Larger frames are scaled down to this longer side in pixels.

    Returns
    -------
    frames : list of ndarray, uint8, shape (H, W, 3)
        Empty where the clip has no picture, or none may be shown.
    times : float array, shape (count,)
        Seconds from the start of the clip.
    """
    times = reading.frame_times(clip["duration_s"], count)
    frames = [] if pd.isna(clip["width"]) else reading.read_frames(clip["video"], times, max_side)[0]
    allowed = [show_frame(frame, policy) for frame in frames]
    return [frame for frame in allowed if frame is not None], times
