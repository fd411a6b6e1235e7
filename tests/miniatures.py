"""Miniature corpora in the exact layouts that are published, made of a few generated clips.

Each `make_…(folder, clips)` fills `folder` and gives it back. `clips` are mp4 files with sound, such as
`cheap_clips` or `demo_clips` make; they are used in turn, and each copy differs by a few bytes at its end, so
that no two clips of a miniature are the same file. Every class occurs at least three times among the training
clips, in at least three groups.
"""

from __future__ import annotations

import struct
import wave
from functools import cache
from itertools import count, cycle, product
from pathlib import Path

import av
import numpy as np

from ecmf_utils import media
from ecmf_utils.media import reading, writing

SIX = ("neutral", "angry", "happy", "sad", "worried", "surprise")
SEVEN = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
CHINESE = (
    "你怎么来了？",
    "我不知道该说什么。",
    "他们都走了吗？",
    "没有，我还在这里等你。",
    "别闹了，好好吃饭。",
    "真的很谢谢大家。",
)
ENGLISH = (
    "Why are you here?", "I don't know what to say.", "Have they all gone?", "No, I am still waiting for you.",
    "Stop it, eat your dinner.", "Thank you all so much.",
)  # fmt: skip
RAVDESS_SAYS = "Actor_{actor:02d}/{kind}-{emotion:02d}-{intensity:02d}-{statement:02d}-{take:02d}-{actor:02d}"


# ---- clips


def cheap_clips(folder, n=6, seconds=1.0):
    """Clips with nobody in them, in milliseconds: a square and a tone, different in each."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_cheap_clip(folder / f"clip{i}.mp4", i, seconds) for i in range(n)]


def _cheap_clip(path, i, seconds):
    frames = np.full((int(12 * seconds), 96, 128, 3), 60 + 20 * (i % 8), np.uint8)
    for t, frame in enumerate(frames):
        frame[20:60, 5 * i % 60 + 3 * t : 5 * i % 60 + 3 * t + 30] = (200, 40 + 25 * (i % 8), 60)
    time = np.arange(int(16000 * seconds)) / 16000
    tone = 0.2 * np.sin(2 * np.pi * (180 + 45 * i) * time * (1 + 0.1 * time))
    return writing.write_clip(path, frames, 12, tone.astype(np.float32), 16000)


def demo_clips(folder, n=12, seed=0):
    """Clips with a face, a voice and words, half a second of work each; needs the extra `demo`."""
    from ecmf_demo import corpus

    clips, _ = corpus.generate(folder, n_train=n, n_test=0, n_unlabelled=0, seed=seed)
    return [Path(path) for path in clips["video"]]


class Stock:
    """Deals out copies of the clips, each with bytes of its own, in the format that the ending says."""

    def __init__(self, clips):
        self.clips, self.number = cycle(clips), count()

    def put(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = next(self.clips)
        source = clip if path.suffix == ".mp4" else _converted(clip, path.suffix)
        path.write_bytes(source.read_bytes() + own_bytes(path.suffix, next(self.number)))
        return clip

    def put_sound(self, clip, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes(_sound(clip))


@cache
def _sound(clip):
    return (media.read_audio(clip) * 32767).astype("<i2").tobytes()


FORMATS = {".flv": ("flv", "libmp3lame", 44100), ".avi": ("mpeg4", "pcm_s16le", 16000)}


@cache
def _converted(clip, ending):
    """The bytes of a clip as flv (Sorenson and MP3) or avi (MPEG-4 and PCM)."""
    picture, sound, rate = FORMATS[ending]
    target = clip.with_suffix(f".converted{ending}")
    frames, _ = media.read_frames(clip, np.arange(0, reading.probe(clip)["duration_s"], 1 / 12))
    samples = (media.read_audio(clip, rate) * 32767).astype(np.int16)[None]
    with av.open(str(target), "w") as out:
        video, audio = out.add_stream(picture, rate=12), out.add_stream(sound, rate=rate, layout="mono")
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(video.encode(None))
        made = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        made.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(av.AudioResampler(audio.format, "mono", rate).resample(made)[0])
        for frame in fifo.read_many(1152, partial=True):
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return target


def own_bytes(ending, number):
    """A few bytes at the end of a file that make it another one and that players skip."""
    if ending == ".flv":
        data = b"\x02\x00\x01n\x00" + struct.pack(">d", number)  # a script tag: the name n, a number
        return b"\x12" + len(data).to_bytes(3, "big") + bytes(7) + data + struct.pack(">I", len(data) + 11)
    return struct.pack(*{".mp4": (">I4sQ", 16, b"free", number), ".avi": ("<4sIQ", b"JUNK", 8, number)}[ending])


def write_table(path, header, rows, encoding="utf-8", end="\n"):
    """A CSV file; cells with a comma are quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = [[f'"{cell}"' if "," in str(cell) else str(cell) for cell in row] for row in rows]
    path.write_bytes("".join(",".join(row) + end for row in [header.split(","), *quoted]).encode(encoding))
    return path


# ---- MER


def names_of(n, start=0):
    return [f"sample_{start + i:08d}" for i in range(n)]


def _subtitles(names):
    return [(name, CHINESE[i % 6], ENGLISH[i % 6]) for i, name in enumerate(names)]


def _put_all(folder, names, stock, videos="video", ending=".mp4", sounds="audio"):
    for name in names:
        clip = stock.put(folder / videos / f"{name}{ending}")
        if sounds:
            stock.put_sound(clip, folder / sounds / f"{name}.wav")


def _six(names):
    return [(name, SIX[i % 6], f"{(i % 9) - 4}.5") for i, name in enumerate(names)]


def make_mer2025(
    folder,
    clips,
    n_train=24,
    n_test=6,
    n_other=6,
    train="track1_train_disdim.csv",
    candidates="track_all_candidates.csv",
):
    """The raw folder: 24 training clips, 6 candidates, 6 more."""
    names = names_of(n_train + n_test + n_other)
    _put_all(folder, names, Stock(clips))
    write_table(folder / train, "name,discrete,valence", _six(names[:n_train]))
    write_table(folder / candidates, "name", [(name,) for name in names[n_train : n_train + n_test]])
    write_table(folder / "subtitle_chieng.csv", "name,chinese,english", _subtitles(names))
    return folder


def make_mer2025_processed(folder, clips, n_train=24, n_test=6):
    """What the official toolkit makes of it: labels in an npz, those of the test clips placeholders."""
    names = names_of(n_train + n_test)
    _put_all(folder, names, Stock(clips))
    train = {name: {"emo": emotion} for name, emotion, _ in _six(names[:n_train])}
    test = {name: {"emo": "neutral"} for name in names[n_train:]}
    np.savez_compressed(folder / "track1_label_6way.npz", train_corpus=train, test1_corpus=test)
    write_table(folder / "track1_subtitle_chieng.csv", "name,chinese,english", _subtitles(names))
    return folder


def make_mer2026(folder, clips, n_train=24, n_test=6, n_other=6):
    return make_mer2025(folder, clips, n_train, n_test, n_other, "track1_train.csv", "track1_track2_candidate.csv")


def make_mer2026_processed(folder, clips, n_train=24, n_test=6):
    return make_mer2025_processed(folder, clips, n_train, n_test)


def make_mer2023(folder, clips, n_train=24, n_test=6):
    """The raw folder: train, test1 (avi), test2 with labels; test3 with labels of half of its clips."""
    names = names_of(n_train + 3 * n_test)
    parts = {"train": names[:n_train]}
    for i in range(3):
        parts[f"test{i + 1}"] = names[n_train + i * n_test : n_train + (i + 1) * n_test]
    stock = Stock(clips)
    for part, own in parts.items():
        _put_all(folder, own, stock, part, ".avi" if part == "test1" else ".mp4", None)
        known = own[: n_test // 2] if part == "test3" else own
        table = [row[:2] for row in _six(known)] if part == "test3" else _six(known)
        write_table(folder / f"{part}-label.csv", "name,discrete" + ",valence" * (part != "test3"), table)
    return folder


def make_mer2023_processed(folder, clips, n_train=24, n_test=6):
    """One folder of clips, labels in an npz with valence, transcripts of a speech recogniser."""
    names = names_of(n_train + 2 * n_test)
    _put_all(folder, names, Stock(clips))
    train = {name: {"emo": emotion, "val": float(value)} for name, emotion, value in _six(names[:n_train])}
    test1 = {name: {"emo": emotion, "val": 0.5} for name, emotion, _ in _six(names[n_train : n_train + n_test])}
    rest = {name: {"emo": "neutral", "val": -10} for name in names[n_train + n_test :]}
    np.savez_compressed(
        folder / "label-6way.npz", train_corpus=train, test1_corpus=test1, test2_corpus={}, test3_corpus=rest
    )
    rows = [(name, CHINESE[i % 6]) for i, name in enumerate(names)]
    write_table(folder / "transcription.csv", "name,sentence", rows)
    return folder


def make_mer2024(folder, clips, n_train=24, n_test=6, n_other=6):
    """The raw folder: labelled and unlabelled clips apart, candidates among the latter."""
    names = names_of(n_train + n_test + n_other)
    stock = Stock(clips)
    _put_all(folder, names[:n_train], stock, "video-labeled", sounds=None)
    _put_all(folder, names[n_train:], stock, "video-unlabeled-with-test2noise", sounds=None)
    write_table(folder / "label-disdim.csv", "name,discrete,valence", _six(names[:n_train]))
    write_table(folder / "candidate_20000.csv", "name", [(name,) for name in names[n_train : n_train + n_test]])
    write_table(folder / "label-transcription.csv", "name,chinese,english", _subtitles(names[:n_train]))
    return folder


# ---- acted corpora and MELD


def make_ravdess(folder, clips, n_actors=4, flat=False):
    """Eight emotions of each actor, and takes without sound, without picture, and a song, which do not count."""
    stock = Stock(clips)
    for actor, emotion in product(range(1, n_actors + 1), range(1, 9)):
        facts = {"actor": actor, "emotion": emotion, "intensity": 1, "statement": 1 + (actor + emotion) % 2, "take": 1}
        stock.put(_ravdess_path(folder, facts | {"kind": "01-01"}, ".mp4", flat))
    facts = {"actor": 1, "emotion": 3, "intensity": 2, "statement": 1, "take": 2}
    for kind, ending in (("02-01", ".mp4"), ("03-01", ".wav"), ("01-02", ".mp4")):
        path = _ravdess_path(folder, facts | {"kind": kind}, ending, flat)
        stock.put_sound(clips[0], path) if ending == ".wav" else stock.put(path)
    return folder


def _ravdess_path(folder, facts, ending, flat):
    relative = Path(RAVDESS_SAYS.format(**facts) + ending)
    return folder / (relative.name if flat else relative)


def make_cremad(folder, clips, n_actors=4, videos="VideoFlash"):
    """Six emotions of each actor, as Flash video or mp4, and the sound of each."""
    stock = Stock(clips)
    ending = ".flv" if videos == "VideoFlash" else ".mp4"
    for actor, (i, emotion) in product(range(n_actors), enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"))):
        level = "XX" if emotion == "NEU" else ("LO", "MD", "HI")[i % 3]
        name = f"{1001 + actor}_{('IEO', 'DFA', 'ITS')[(actor + i) % 3]}_{emotion}_{level}"
        clip = stock.put(folder / videos / f"{name}{ending}")
        stock.put_sound(clip, folder / "AudioWAV" / f"{name}.wav")
    return folder


MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
MELD_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
SPEAKERS = ("Ross", "Monica", "Joey")


def make_meld(folder, clips, n_dialogues=3):
    """Dialogues of seven utterances, one of each emotion: three to train, one each in dev and test."""
    stock = Stock(clips)
    for part, place in MELD_FOLDERS.items():
        keys = list(product(range(n_dialogues if part == "train" else 1), range(7)))
        rows = [_meld_row(i, *key) for i, key in enumerate(keys)]
        write_table(folder / f"{part}_sent_emo.csv", MELD_HEADER, rows)
        for dialogue, utterance in keys:
            stock.put(folder / place / f"dia{dialogue}_utt{utterance}.mp4")
    test = folder / MELD_FOLDERS["test"]
    stock.put(test / "final_videos_testdia0_utt3.mp4")  # the repaired clip of a pair
    (test / "._dia0_utt0.mp4").write_bytes(b"\0\5\x16\7" + bytes(80))  # macOS left it in the archive
    return folder


def _meld_row(i, dialogue, utterance):
    words = ENGLISH[i % 6].replace("don't", "don’t")
    sentiment = ("neutral", "positive", "negative", "negative", "positive", "negative", "negative")[utterance]
    time = f"00:0{dialogue}:0{utterance},100", f"00:0{dialogue}:0{utterance},900"
    return (i + 1, words, SPEAKERS[i % 3], SEVEN[utterance], sentiment, dialogue, utterance, 4, 7, *time)


MAKERS = {
    "mer2023": make_mer2023, "mer2024": make_mer2024, "mer2025": make_mer2025, "mer2026": make_mer2026,
    "ravdess": make_ravdess, "cremad": make_cremad, "meld": make_meld,
}  # fmt: skip
PROCESSED = {
    "mer2023": make_mer2023_processed, "mer2025": make_mer2025_processed, "mer2026": make_mer2026_processed,
}  # fmt: skip
