"""What a web browser can play of a clip: the file itself, or a small copy of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from .reading import MediaError, frame_times, probe, read_audio, read_frames, resolve
from .writing import write_clip

MAX_BYTES = 8_000_000  # a larger file is sent as a small copy
# of a small copy; for a clip of emotion seconds are enough, and 480 frames fit into memory
LONGEST_S, MAX_FRAMES, MAX_RATE, MAX_SIDE, SOUND_RATE = 60.0, 480, 25.0, 480, 24000
# ending -> type, codecs that Chromium, Firefox and Safari play
PLAYED = {
    ".mp4": ("video/mp4", {"h264", "aac", "mp3"}), ".m4v": ("video/mp4", {"h264", "aac", "mp3"}),
    ".webm": ("video/webm", {"vp8", "vp9", "opus", "vorbis"}),
    ".m4a": ("audio/mp4", {"aac"}), ".mp3": ("audio/mpeg", {"mp3"}), ".flac": ("audio/flac", {"flac"}),
    ".wav": ("audio/wav", {"pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le"}),
    ".ogg": ("audio/ogg", {"opus", "vorbis"}), ".opus": ("audio/ogg", {"opus"}),
}  # fmt: skip
PIXELS = {"yuv420p", "yuvj420p"}


class Playback(NamedTuple):
    """`kind` is video or audio, `content` a file of type `mime`, `remark` says why it is a copy (or is empty)."""

    kind: str
    mime: str
    content: bytes
    remark: str


def playback(clip: Mapping[str, Any]) -> Playback:
    """A clip as a web browser plays it, from its row of the manifest.

    The file itself where its container and codecs are played and it is small enough; otherwise a copy of
    its first 60 s, H.264 and AAC, at most 480 pixels wide or high.

    Raises
    ------
    MediaError
        There is no media file, or it cannot be read.
    """
    video, audio = (value if isinstance(value, str) else None for value in (clip["video"], clip["audio"]))
    if not video and not audio:
        raise MediaError("missing_file", f"clip {clip['clip_id']}", "the manifest names no media")
    path = video or audio
    found = probe(path)
    kind = "video" if found["has_video"] else "audio"
    apart = audio if audio and audio != path and not found["has_audio"] else None  # sound in a file of its own
    mime, why = _playable(resolve(path), kind)
    if apart:
        why = "its sound is in another file"
    if not why:
        return Playback(kind, mime, resolve(path).read_bytes(), "")
    return _copy(path, found, apart or path, kind, why)


def _playable(path: Path, kind: str) -> tuple[str, str]:
    """The type of a file, and why a browser cannot take it as it is (empty: it can)."""
    mime, codecs = PLAYED.get(path.suffix.lower(), ("", set()))
    if not mime.startswith(kind):
        return mime, f"browsers do not play {path.suffix or 'files without an ending'}"
    size = path.stat().st_size
    if size > MAX_BYTES:
        return mime, f"the file has {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB are sent as they are"
    with av.open(str(path)) as container:
        strange = {
            stream.codec_context.codec.canonical_name
            for stream in container.streams
            if stream.type in ("video", "audio")
        } - codecs
        formats = {stream.codec_context.pix_fmt for stream in container.streams.video} - PIXELS
    strange |= formats
    return mime, f"browsers do not play {', '.join(sorted(map(str, strange)))}" if strange else ""


def _copy(path: str, found: Mapping[str, Any], sound_of: str, kind: str, why: str) -> Playback:
    seconds = min(found["duration_s"] or LONGEST_S, LONGEST_S)
    count, fps, frames = 0, 1.0, np.zeros((0, 2, 2, 3), np.uint8)
    if kind == "video":
        count = max(1, round(seconds * min(found["fps"] or MAX_RATE, MAX_RATE, MAX_FRAMES / seconds)))
        frames, _ = read_frames(path, frame_times(seconds, count=count), max_side=MAX_SIDE)
        frames, fps = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2], count / seconds
    try:
        sound = read_audio(sound_of, SOUND_RATE)[: round(seconds * SOUND_RATE)]
    except MediaError:
        sound = None
    with tempfile.TemporaryDirectory() as folder:
        copy = write_clip(Path(folder) / "copy.mp4", frames, fps, sound, SOUND_RATE, thread_count=2)
        content = copy.read_bytes()
    cut = f", its first {seconds:.0f} s" if (found["duration_s"] or 0) > seconds else ""
    return Playback(kind, f"{kind}/mp4", content, f"shown as a small copy{cut}: {why}")
