"""What a clip holds, its frames by time stamp and its sound; errors as codes and one line."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

from ecmf_utils import files

# every code that may stand in a `problem` column, with the sentence that a report shows
PROBLEMS = {
    "missing_file": "the file is not there",
    "empty_file": "the file has no bytes",
    "not_media": "the file is not a video or sound file",
    "truncated": "the file ends before its announced end",
    "unreadable": "the file is damaged: nothing could be decoded",
    "no_video_stream": "there is no picture in the file",
    "no_sound_stream": "there is no sound stream",
    "silent_sound": "the sound stream is silent from beginning to end",
    "one_frame": "the video has a single frame",
    "no_face": "no face was found in any sampled frame",
    "empty_text": "there is no transcript",
    "bad_encoding": "the transcript is not valid UTF-8",
    "no_answer": "there is no valid answer of the language model",
    "encoder_failed": "the encoder stopped with an error on this clip",
    "not_finite": "there are numbers that are not finite",
    "text_cut": "the transcript is longer than the encoder reads; its end was left out",
    "sound_windows": "the sound is longer than the encoder's window; it was encoded piece by piece",
    "frames_thinned": "the clip is long: frames were taken farther apart than asked for",
    "few_frames": "there are fewer frames than were asked for; some were taken more than once",
}
SILENCE = 1e-4  # peak amplitude; 16-bit sound of up to three quantisation steps counts as silent
SEEK_GAP_S = 10.0  # decoding through a shorter gap is cheaper than seeking
LOST_FRAMES = 0.02  # share of the announced frames that may be missing in a whole file
NOT_MEDIA_FORMATS = {"tty", "bin", "lrc", "data"}  # demuxers that take any text or bytes
# first bytes of mp4/mov, avi/wav, mkv/webm, mpg, flv and flac
MEDIA_MARKS = (b"ftyp", b"moov", b"mdat", b"RIFF", b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV", b"fLaC")

av.logging.set_level(av.logging.PANIC)


class MediaError(files.EcmfError):
    """A file that cannot be used; `code` is one of `PROBLEMS`, `detail` the line for a reader."""

    def __init__(self, code: str, path: Path | str, detail: str = "") -> None:
        self.code, self.path = code, str(path)
        self.detail = f"{files.show(path)}: {PROBLEMS[code]}" + (f" ({detail})" if detail else "")
        self._args = (code, str(path), detail)
        super().__init__(self.detail)

    def __reduce__(self) -> tuple:
        return MediaError, self._args


def resolve(path: Path | str) -> Path:
    """The place of a file named in a manifest: relative paths count from the project root."""
    inside = files.ROOT / path
    return inside if inside.exists() else Path(path)


def probe(path: Path | str) -> dict[str, Any]:
    """Find out what a clip holds, from its packets and its first frame.

    Returns
    -------
    dict
        duration_s, width, height (as shown, after rotation), fps, n_frames, has_video, has_audio,
        sample_rate (Hz), channels; None where the stream is missing.

    Raises
    ------
    MediaError
        missing_file, empty_file, not_media, truncated, unreadable.
    """
    with _open(path) as container:
        video, audio = _stream(container, "video"), _stream(container, "audio")
        if video is None and audio is None:
            raise MediaError("not_media", path, f"format {container.format.name}")
        found = {"duration_s": None, "width": None, "height": None, "fps": None, "n_frames": None}
        found |= {"has_video": video is not None, "has_audio": audio is not None}
        found |= {"sample_rate": audio and audio.rate, "channels": audio and audio.channels}
        n_frames, end = _count(container, path, video, audio)
        found["duration_s"] = round(_whole(container, path, end) or float(end), 3)
        if video is not None:
            fps = float(video.average_rate or 0) or (n_frames / max(end, 1e-3))
            found |= {"fps": round(fps, 3), "n_frames": n_frames}
    if found["has_video"]:
        found["height"], found["width"] = read_frames(path, [0.0])[0][0].shape[:2]
    return found


def frame_times(duration_s: float, count: int | None = None, rate: float | None = None) -> np.ndarray:
    """Times (F,) in seconds at the middle of equal parts: `count` of them, or `rate` per second."""
    if count is None:
        count = max(1, round(duration_s * (rate or 1.0)))
    return (np.arange(count) + 0.5) * max(duration_s, 0.0) / count


def read_frames(path: Path | str, times: Iterable[float], max_side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode once and take, for each time, the frame that is on screen then.

    Parameters
    ----------
    path : Path
    times : sequence of float
        Seconds from the start of the clip, in any order.
    max_side : int, optional
        Larger frames are scaled down to this longer side in pixels; never up.

    Returns
    -------
    frames : uint8 (F, H, W, 3)
        RGB, upright. Chosen by time stamp: the last one at or before the time, the first one if
        there is none before.
    actual : float64 (F,)
        Time stamps of the chosen frames in seconds.

    Raises
    ------
    MediaError
        no_video_stream, and those of `probe`.
    """
    asked = np.asarray(list(times), float)
    order = np.argsort(asked, kind="stable")
    wanted = asked[order]
    with _open(path) as container:
        stream = _stream(container, "video")
        if stream is None:
            raise MediaError("no_video_stream", path)
        chosen = list(_frames_at(container, stream, wanted, max_side))
    if not chosen:
        raise MediaError("unreadable", path, "no frame could be decoded")
    size = chosen[0][0].shape
    chosen = [(frame if frame.shape == size else _fit(frame, size), t) for frame, t in chosen]
    back = np.argsort(order, kind="stable")
    frames = np.stack([frame for frame, _ in chosen])[back]
    return frames, np.array([t for _, t in chosen])[back]


def read_audio(path: Path | str, sample_rate: int = 16000) -> np.ndarray:
    """The sound of a clip, mixed to one channel.

    Two channels are averaged; more are mixed by libswresample's standard matrix.

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
        stream = _stream(container, "audio")
        if stream is None:
            raise MediaError("no_sound_stream", path)
        gain = np.float32(0.5**0.5 if stream.channels == 2 else 1)  # the matrix keeps power
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
        parts = [out for frame in _decode(container, stream) for out in resampler.resample(frame)]
        parts = [part.to_ndarray()[0] for part in parts + resampler.resample(None)]
        if _stream(container, "video") is None:
            _whole(container, path, sum(map(len, parts)) / sample_rate)
    sound = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not len(sound):
        raise MediaError("unreadable", path, "no sound could be decoded")
    return sound * gain


@contextmanager
def _open(path: Path | str) -> Iterator[av.container.InputContainer]:
    """Open a file and turn whatever libav says into one line with a code."""
    place = resolve(path)
    if not place.is_file():
        raise MediaError("missing_file", path)
    if place.stat().st_size == 0:
        raise MediaError("empty_file", path)
    try:
        with av.open(str(place), metadata_errors="replace") as container:
            if container.format.name in NOT_MEDIA_FORMATS:
                raise MediaError("not_media", path, "it holds text or bytes of no known kind")
            if container.format.name == "wav" and (lost := lost_bytes(place)):
                raise MediaError("truncated", path, f"{lost[0]:,} of {lost[1]:,} bytes are there")
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(_code(place, error), path, error.strerror or "") from None


def _code(place: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return "unreadable"
    with open(place, "rb") as file:
        head = file.read(64)
    if not any(mark in head for mark in MEDIA_MARKS):
        return "not_media"
    return "truncated" if "moov atom not found" in str(error) else "unreadable"


def _stream(container: av.container.InputContainer, kind: str) -> Any:
    """The first stream of a kind that can be decoded; a cover picture is not a video."""
    for stream in container.streams:
        cover = stream.disposition & av.stream.Disposition.attached_pic
        if stream.type == kind and not cover and stream.codec_context is not None:
            stream.codec_context.thread_count = 1
            return stream
    return None


def _count(container: Any, path: Path | str, video: Any, audio: Any) -> tuple[int, float]:
    """Shown frames and the end in seconds, from the packets alone."""
    seen, shown, end = 0, 0, 0.0
    for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
        if packet.size and packet.pts is not None and packet.time_base:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.size and video is not None and packet.stream.index == video.index:
            seen, shown = seen + 1, shown + (not packet.is_discard)
    announced = video.frames if video is not None else 0
    if announced and seen < announced * (1 - LOST_FRAMES):
        raise MediaError("truncated", path, f"{seen} of {announced} frames are there")
    return shown, end


def _whole(container: Any, path: Path | str, end_s: float) -> float | None:
    """The duration (s) that the header announces, once it is known that the file is not cut well before it."""
    announced_s = container.duration / 1e6 if container.duration else None
    if lost_time(container.format.name, end_s, announced_s):
        raise MediaError("truncated", path, f"{end_s:.1f} of {announced_s:.1f} s are there")
    return announced_s


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a stream; a damaged packet is left out, as every player does."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def _frames_at(
    container: Any, stream: Any, wanted: np.ndarray, max_side: int | None
) -> Iterator[tuple[np.ndarray, float]]:
    """For each of the ascending times the frame then on screen, decoding forward only."""
    origin = (container.start_time or 0) / 1e6

    def when(frame: Any) -> float:
        return (frame.time or 0.0) - origin

    def jump(t: float) -> Iterator[Any]:
        container.seek(int((t + origin) * 1e6), backward=True)
        return _decode(container, stream)

    frames = _decode(container, stream)
    before, following = None, next(frames, None)
    for t in wanted:
        if following is not None and t - when(following) > SEEK_GAP_S:
            frames = jump(t)
            following = next(frames, None)
            if following is None or when(following) > t:  # a file whose index cannot be trusted
                frames = jump(0.0)
                following = next(frames, None)
        while following is not None and when(following) <= t + 1e-6:
            before, following = following, next(frames, None)
        shown = before if before is not None else following
        if shown is not None:
            yield _picture(shown, max_side), when(shown)


def _picture(frame: av.VideoFrame, max_side: int | None) -> np.ndarray:
    """RGB uint8 (H, W, 3), scaled down and turned upright."""
    scale = min(1.0, (max_side or np.inf) / max(frame.width, frame.height))
    size = [max(1, round(side * scale)) for side in (frame.width, frame.height)]
    pixels = frame.reformat(*size, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round((frame.rotation or 0) / 90)))


def _fit(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring a frame to the size of the first one, for streams that change size midway."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(size[1], size[0], format="rgb24").to_ndarray()


# ---- whether a file ends where it says it does; for formats whose decoder does not tell


LOST_SHARE = 0.02  # of the announced sound that may be missing in a whole file
# share of the announced duration, by format: FLAC counts its samples, encoders of FLV write it from another clock
LOST_TIME = {"flac": LOST_SHARE, "flv": 0.1}
LAST_PACKET_S = 0.3  # the announced duration holds the last packet, whose own length a file need not tell
OPEN_END = 0x7FFF0000  # announced by programs that write to a pipe and do not know the size


def lost_bytes(path: Path | str) -> tuple[int, int] | None:
    """What a WAV file lacks, from its header.

    Returns
    -------
    tuple of int or None
        Bytes of sound that are there and that are announced; None where nothing much is missing, the
        size is left open, or the file is no plain RIFF file.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, announced = struct.unpack("<4sI", head)
            if name == b"data":
                there = size - file.tell()
                lost = 0 < announced < OPEN_END and there < announced * (1 - LOST_SHARE)
                return (there, announced) if lost else None
            file.seek(announced + announced % 2, 1)
    return None


def lost_time(kind: str, end_s: float, announced_s: float | None) -> bool:
    """Whether a file of a format that announces its duration (s) ends well before it."""
    return kind in LOST_TIME and bool(announced_s) and end_s < announced_s * (1 - LOST_TIME[kind]) - LAST_PACKET_S
