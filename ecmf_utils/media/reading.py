"""Read clips: which streams a file has, its frames by time stamp, and its sound.

A file that cannot be read raises a `MediaError` with a problem code and one line for the user.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from ecmf_utils import files

from .problems import PROBLEMS

SILENCE = 1e-4  # peak amplitude; 16-bit sound of up to three quantisation steps counts as silent
SEEK_GAP_S = 10.0  # decoding through a shorter gap is cheaper than seeking
NOT_MEDIA_FORMATS = {"tty", "bin", "lrc", "data"}  # demuxers that accept any text or bytes
# first bytes of mp4/mov, avi/wav, mkv/webm, mpg, flv and flac
MEDIA_MARKS = (b"ftyp", b"moov", b"mdat", b"RIFF", b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV", b"fLaC")

# A file is truncated when more is missing than this.
LOST_FRAMES = 0.02  # share of the announced frames
LOST_SHARE = 0.02  # share of the announced sound
# Share of the announced duration, for formats whose decoder does not report a missing end. FLAC counts its samples;
# encoders of FLV take the duration from another clock.
LOST_TIME = {"flac": LOST_SHARE, "flv": 0.1}
LAST_PACKET_S = 0.3  # the announced duration includes the last packet, but the packet may not say how long it is
OPEN_END = 0x7FFF0000  # bytes; programs that write to a pipe do not know the size and announce this much or more

av.logging.set_level(av.logging.PANIC)


class MediaError(files.EcmfError):
    """A file that cannot be used: `code` is a key of `PROBLEMS`, `detail` is the line for the user."""

    def __init__(self, code: str, path: Path | str, detail: str = "") -> None:
        self.code, self.path = code, str(path)
        self.detail = f"{files.show(path)}: {PROBLEMS[code]}" + (f" ({detail})" if detail else "")
        self._args = (code, str(path), detail)
        super().__init__(self.detail)

    def __reduce__(self) -> tuple:  # worker processes pickle their errors
        return MediaError, self._args


def resolve(path: Path | str) -> Path:
    """The place of a file that a manifest names: a relative path starts at the project root."""
    inside = files.ROOT / path
    return inside if inside.exists() else Path(path)


def probe(path: Path | str) -> dict[str, Any]:
    """Find out what a file contains, from its packets and its first frame.

    Returns
    -------
    dict
        duration_s, width and height (pixels, after rotation), fps, n_frames, has_video, has_audio,
        sample_rate (Hz), channels; None where the stream is missing.

    Raises
    ------
    MediaError
        missing_file, empty_file, not_media, truncated, unreadable.
    """
    with _open(path) as container:
        video, audio = _find_stream(container, "video"), _find_stream(container, "audio")
        if video is None and audio is None:
            raise MediaError("not_media", path, f"format {container.format.name}")
        info = {"duration_s": None, "width": None, "height": None, "fps": None, "n_frames": None}
        info |= {"has_video": video is not None, "has_audio": audio is not None}
        info |= {"sample_rate": audio and audio.rate, "channels": audio and audio.channels}
        n_frames, end_s = _read_packets(container, path, video, audio)
        info["duration_s"] = round(_check_end(container, path, end_s) or float(end_s), 3)
        if video is not None:
            fps = float(video.average_rate or 0) or (n_frames / max(end_s, 1e-3))
            info |= {"fps": round(fps, 3), "n_frames": n_frames}
    if info["has_video"]:
        info["height"], info["width"] = read_frames(path, [0.0])[0][0].shape[:2]
    return info


def frame_times(duration_s: float, count: int | None = None, rate: float | None = None) -> np.ndarray:
    """Times (F,) in seconds at the middle of equal parts of a clip: `count` of them, or `rate` per second."""
    if count is None:
        count = max(1, round(duration_s * (rate or 1.0)))
    return (np.arange(count) + 0.5) * max(duration_s, 0.0) / count


def read_frames(path: Path | str, times: Iterable[float], max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode a video once and take, for each time, the frame that is on screen then.

    Parameters
    ----------
    path : Path
    times : sequence of float (F,)
        Seconds from the start of the clip, in any order.
    max_side : int, optional
        Larger frames are scaled down to this longer side in pixels; smaller ones stay as they are.

    Returns
    -------
    frames : uint8 (F, H, W, 3)
        RGB, upright. For each time the frame with the last time stamp that is not later; the first frame
        where all are later.
    actual : float64 (F,)
        Time stamps of these frames in seconds.

    Raises
    ------
    MediaError
        no_video_stream, and those of `probe`.
    """
    requested = np.asarray(list(times), float)
    order = np.argsort(requested, kind="stable")
    with _open(path) as container:
        stream = _find_stream(container, "video")
        if stream is None:
            raise MediaError("no_video_stream", path)
        chosen = list(_select_frames(container, stream, requested[order], max_side))
    if not chosen:
        raise MediaError("unreadable", path, "no frame could be decoded")
    shape = chosen[0][0].shape
    chosen = [(frame if frame.shape == shape else _resize(frame, shape), time) for frame, time in chosen]
    back = np.argsort(order, kind="stable")
    frames = np.stack([frame for frame, _ in chosen])[back]
    return frames, np.array([time for _, time in chosen])[back]


def read_audio(path: Path | str, sample_rate: int = 16000) -> np.ndarray:
    """The sound of a clip, mixed to one channel.

    Two channels are averaged. More are mixed by libswresample's standard matrix.

    Parameters
    ----------
    path : path
        A file of sound or video, relative to the project or absolute.
    sample_rate : int
        Hz.

    Returns
    -------
    float32 array, shape (T,)
        Amplitudes from -1 to 1.

    Raises
    ------
    MediaError
        no_sound_stream, and those of `probe`.
    """
    with _open(path) as container:
        stream = _find_stream(container, "audio")
        if stream is None:
            raise MediaError("no_sound_stream", path)
        gain = np.float32(0.5**0.5 if stream.channels == 2 else 1)  # the matrix keeps the power of two channels
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
        blocks = [block for frame in _decode(container, stream) for block in resampler.resample(frame)]
        blocks = [block.to_ndarray()[0] for block in blocks + resampler.resample(None)]
        if _find_stream(container, "video") is None:
            _check_end(container, path, sum(map(len, blocks)) / sample_rate)
    sound = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(sound):
        raise MediaError("unreadable", path, "no sound could be decoded")
    return sound * gain


# ---- opening a file


@contextmanager
def _open(path: Path | str) -> Iterator[av.container.InputContainer]:
    """Open a file, and turn any error of libav into a `MediaError`."""
    place = resolve(path)
    if not place.is_file():
        raise MediaError("missing_file", path)
    if place.stat().st_size == 0:
        raise MediaError("empty_file", path)
    try:
        with av.open(str(place), metadata_errors="replace") as container:
            if container.format.name in NOT_MEDIA_FORMATS:
                raise MediaError("not_media", path, "it contains text or bytes of an unknown kind")
            if container.format.name == "wav":
                _check_wav_size(place, path)
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(_classify(place, error), path, error.strerror or "") from None


def _classify(place: Path, error: Exception) -> str:
    """The problem code of a file that libav cannot read."""
    if isinstance(error, OSError):
        return "unreadable"
    with open(place, "rb") as file:
        head = file.read(64)
    if not any(mark in head for mark in MEDIA_MARKS):
        return "not_media"
    return "truncated" if "moov atom not found" in str(error) else "unreadable"


def _find_stream(container: av.container.InputContainer, kind: str) -> Any:
    """The first stream of a kind that can be decoded, or None; a cover picture is not a video."""
    for stream in container.streams:
        cover = stream.disposition & av.stream.Disposition.attached_pic
        if stream.type == kind and not cover and stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            return stream
    return None


# ---- whether the file is whole


def _read_packets(container: Any, path: Path | str, video: Any, audio: Any) -> tuple[int, float]:
    """The number of frames that are shown and the end in seconds, from the packets alone."""
    n_packets, n_shown, end_s = 0, 0, 0.0
    for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
        if packet.size and packet.pts is not None and packet.time_base:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.size and video is not None and packet.stream.index == video.index:
            n_packets, n_shown = n_packets + 1, n_shown + (not packet.is_discard)
    announced = video.frames if video is not None else 0
    if announced and n_packets < announced * (1 - LOST_FRAMES):
        raise MediaError("truncated", path, f"{n_packets} of {announced} frames are there")
    return n_shown, end_s


def _check_end(container: Any, path: Path | str, end_s: float) -> float | None:
    """The duration in seconds that the header announces; an error where the file ends well before it."""
    announced_s = container.duration / 1e6 if container.duration else None
    lost_share = LOST_TIME.get(container.format.name)
    if lost_share and announced_s and end_s < announced_s * (1 - lost_share) - LAST_PACKET_S:
        raise MediaError("truncated", path, f"{end_s:.1f} of {announced_s:.1f} s are there")
    return announced_s


def _check_wav_size(place: Path, path: Path | str) -> None:
    """Refuse a WAV file whose header announces more sound than there is; libav decodes it without an error."""
    size = place.stat().st_size
    with open(place, "rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, announced = struct.unpack("<4sI", head)
            if name == b"data":
                there = size - file.tell()
                if 0 < announced < OPEN_END and there < announced * (1 - LOST_SHARE):
                    raise MediaError("truncated", path, f"{there:,} of {announced:,} bytes are there")
                return
            file.seek(announced + announced % 2, 1)  # chunks have an even length


# ---- decoding


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream; a damaged packet is left out, as every player does."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _select_frames(
    container: Any, stream: Any, times: np.ndarray, max_side: int | None
) -> Iterator[tuple[np.ndarray, float]]:
    """For each of the ascending times, the frame that is on screen then and its time stamp in seconds."""
    origin = (container.start_time or 0) / 1e6

    def time_of(frame: Any) -> float:
        return (frame.time or 0.0) - origin

    def seek(time: float) -> Iterator[Any]:
        container.seek(int((time + origin) * 1e6), backward=True)
        return _decode(container, stream)

    frames = _decode(container, stream)
    before, following = None, next(frames, None)
    for time in times:
        if following is not None and time - time_of(following) > SEEK_GAP_S:
            frames = seek(time)
            following = next(frames, None)
            if following is None or time_of(following) > time:  # the index of the file is wrong: decode from the start
                frames = seek(0.0)
                following = next(frames, None)
        while following is not None and time_of(following) <= time + 1e-6:
            before, following = following, next(frames, None)
        shown = before if before is not None else following
        if shown is not None:
            yield _convert(shown, max_side), time_of(shown)


def _convert(frame: av.VideoFrame, max_side: int | None) -> np.ndarray:
    """A frame as RGB uint8 (H, W, 3), scaled down and turned upright."""
    scale = min(1.0, (max_side or np.inf) / max(frame.width, frame.height))
    size = [max(1, round(side * scale)) for side in (frame.width, frame.height)]
    pixels = frame.reformat(*size, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round((frame.rotation or 0) / 90)))


def _resize(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A frame in the shape of the first one, for streams that change their size midway."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(shape[1], shape[0], format="rgb24").to_ndarray()
