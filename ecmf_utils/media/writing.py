"""Write clips as mp4 files that are the same, byte for byte, in every process."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from ecmf_utils import files


def write_clip(
    path: Path | str,
    frames: Iterable[np.ndarray],
    fps: float,
    sound: np.ndarray | None = None,
    sample_rate: int = 16000,
    thread_count: int = 1,
    bitexact: bool = True,
    crf: int = 27,
) -> Path:
    """Write an mp4 with H.264 video and AAC sound.

    Parameters
    ----------
    frames : iterable of uint8 (H, W, 3)
        RGB with even sides. Without any frame the file has sound only.
    fps : float
        Frames per second.
    sound : float32 (T,), optional
        One channel in [-1, 1]. Without it the file has no sound stream.
    sample_rate : int
        Of the sound, in Hz.
    thread_count : int
        Threads of the video encoder.
    bitexact : bool
        Write nothing that depends on the platform, the build of the libraries or the time.
    crf : int
        Quality of H.264: lower is better and larger.
    """
    frames = iter(frames)
    first = next(frames, None)
    options = {"fflags": "+bitexact"} if bitexact else {}

    def write(temporary: Path) -> None:
        with av.open(str(temporary), "w", format="mp4", options=options) as out:
            video = None
            if first is not None:
                video = _add_video_stream(out, first, fps, thread_count, bitexact, crf)
            audio = _add_sound_stream(out, sample_rate, bitexact) if sound is not None else None
            if video is not None:
                _encode_frames(out, video, chain([first], frames))
            if audio is not None:
                _encode_sound(out, audio, sound, sample_rate)

    return files.write_atomic(path, write)


def _add_video_stream(out: Any, first: np.ndarray, fps: float, thread_count: int, bitexact: bool, crf: int) -> Any:
    # x264's macroblock tree is off: on a busy machine it gives another file from run to run, even in one thread
    options = {"preset": "veryfast", "crf": str(crf), "x264-params": "mbtree=0"}
    rate = Fraction(fps).limit_denominator(1001)
    stream = out.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = thread_count
    if bitexact:
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _add_sound_stream(out: Any, sample_rate: int, bitexact: bool) -> Any:
    stream = out.add_stream("aac", rate=sample_rate, layout="mono")
    stream.bit_rate = 48000
    if bitexact:
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _encode_frames(out: Any, stream: Any, frames: Iterable[np.ndarray]) -> None:
    for frame in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        out.mux(stream.encode(picture))
    out.mux(stream.encode(None))


def _encode_sound(out: Any, stream: Any, sound: np.ndarray, sample_rate: int) -> None:
    sound = np.clip(np.asarray(sound, np.float32), -1, 1)
    for start in range(0, len(sound), 1024):  # an AAC frame
        block = np.ascontiguousarray(sound[None, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
