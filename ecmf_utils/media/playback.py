"""Prepare a clip for a web browser: the file itself where the browser can play it, else a small copy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from .reading import MediaError, frame_times, probe, read_audio, read_frames, resolve
from .writing import write_clip

MAX_BYTES = 8_000_000  # of a larger file a small copy is sent
# limits of a small copy: seconds, frames, frames per second, pixels, Hz; 480 frames of this size fit into memory
LONGEST_S, MAX_FRAMES, MAX_RATE, MAX_SIDE, SOUND_RATE = 60.0, 480, 25.0, 480, 24000
# file ending -> MIME type, and the codecs that Chromium, Firefox and Safari play in it
PLAYED = {
    ".mp4": ("video/mp4", {"h264", "aac", "mp3"}), ".m4v": ("video/mp4", {"h264", "aac", "mp3"}),
    ".webm": ("video/webm", {"vp8", "vp9", "opus", "vorbis"}),
    ".m4a": ("audio/mp4", {"aac"}), ".mp3": ("audio/mpeg", {"mp3"}), ".flac": ("audio/flac", {"flac"}),
    ".wav": ("audio/wav", {"pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le"}),
    ".ogg": ("audio/ogg", {"opus", "vorbis"}), ".opus": ("audio/ogg", {"opus"}),
}  # fmt: skip
PIXELS = {"yuv420p", "yuvj420p"}


class Playback(NamedTuple):
    """A file that a web browser can play.

    Attributes
    ----------
    kind : "video" or "audio"
    mime : str
    content : bytes
        The whole file.
    remark : str
        Why it is a copy; empty where it is the clip's own file.
    """

    kind: str
    mime: str
    content: bytes
    remark: str


def prepare_playback(clip: Mapping[str, Any]) -> Playback:
    """The file that a web browser can play of a clip.

    It is the clip's own file where browsers play its container and codecs and it is small enough. Otherwise it is
    a copy of the first 60 s, H.264 and AAC, at most 480 pixels wide and high.

    Parameters
    ----------
    clip : mapping
        A row of the manifest.

    Raises
    ------
    MediaError
        The clip has no media file, or the file cannot be read.
    """
    video, audio = (value if isinstance(value, str) else None for value in (clip["video"], clip["audio"]))
    if not video and not audio:
        raise MediaError("missing_file", f"clip {clip['clip_id']}", "the manifest names no media")
    path = video or audio
    info = probe(path)
    kind = "video" if info["has_video"] else "audio"
    mime, reason = _find_obstacle(resolve(path), kind)
    sound_path = path
    if audio and audio != path and not info["has_audio"]:
        sound_path, reason = audio, "its sound is in another file"
    if not reason:
        return Playback(kind, mime, resolve(path).read_bytes(), "")
    return _make_copy(path, sound_path, info, kind, reason)


def _find_obstacle(path: Path, kind: str) -> tuple[str, str]:
    """The MIME type of a file, and why a browser cannot play it as it is; "" where it can."""
    mime, codecs = PLAYED.get(path.suffix.lower(), ("", set()))
    if not mime.startswith(kind):
        return mime, f"browsers do not play {path.suffix or 'files without an ending'}"
    size = path.stat().st_size
    if size > MAX_BYTES:
        return mime, f"the file has {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB are sent as they are"
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
        unplayable = {stream.codec_context.codec.canonical_name for stream in streams} - codecs
        unplayable |= {stream.codec_context.pix_fmt for stream in container.streams.video} - PIXELS
    return mime, f"browsers do not play {', '.join(sorted(map(str, unplayable)))}" if unplayable else ""


def _make_copy(path: str, sound_path: str, info: Mapping[str, Any], kind: str, reason: str) -> Playback:
    seconds = min(info["duration_s"] or LONGEST_S, LONGEST_S)
    fps, frames = 1.0, np.zeros((0, 2, 2, 3), np.uint8)
    if kind == "video":
        count = max(1, round(seconds * min(info["fps"] or MAX_RATE, MAX_RATE, MAX_FRAMES / seconds)))
        frames, _ = read_frames(path, frame_times(seconds, count=count), max_side=MAX_SIDE)
        frames, fps = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2], count / seconds
    try:
        sound = read_audio(sound_path, SOUND_RATE)[: round(seconds * SOUND_RATE)]
    except MediaError:
        sound = None
    with tempfile.TemporaryDirectory() as folder:
        copy = write_clip(Path(folder) / "copy.mp4", frames, fps, sound, SOUND_RATE, thread_count=2)
        content = copy.read_bytes()
    cut = f", its first {seconds:.0f} s" if (info["duration_s"] or 0) > seconds else ""
    return Playback(kind, f"{kind}/mp4", content, f"shown as a small copy{cut}: {reason}")
