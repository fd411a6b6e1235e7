"""What a page may show of a clip: frames, sounds and transcripts, as `media_in_reports` allows."""

from __future__ import annotations

from pathlib import Path

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
    """A transcript where the policy is full, else "(withheld)". It is not escaped: a table does that."""
    _check_policy(policy)
    if policy != "full":
        return WITHHELD
    return "" if text is None or text is pd.NA or text != text else str(text)


def show_sound(sound: np.ndarray, policy: str) -> np.ndarray | None:
    """A sound (T,) where the policy is full, else None: the words can be read from a spectrogram."""
    _check_policy(policy)
    return sound if policy == "full" else None


def show_video(path: Path | str, policy: str, width: int = 320) -> str:
    """An HTML element with the clip inside, `width` pixels wide; where the policy is not full, a line instead."""
    _check_policy(policy)
    if policy != "full":
        return f"<p>{WITHHELD}</p>"
    encoded = data_uri(reading.resolve(path).read_bytes(), "video/mp4")
    return f'<video controls preload="metadata" width="{width}" src="{encoded}"></video>'


def _check_policy(policy: str) -> None:
    if policy not in MEDIA_POLICIES:
        raise EcmfError(f"media_in_reports is {policy!r}; expected one of {', '.join(MEDIA_POLICIES)}")
