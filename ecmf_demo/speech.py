"""The demo's speech: espeak-ng through ctypes, with the prosody of an emotion.

espeak-ng (GPL-3) is the optional extra `demo`; nothing else in the package needs it.
"""

from __future__ import annotations

import _ctypes
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecmf_utils.files import EcmfError

SAMPLE_RATE = 16000
LEAD_S, TAIL_S = 0.15, 0.25  # silence around the speech
MIN_S, MAX_S = 2.0, 3.2  # length of a clip
# The variants f2 and f3 depend on the clock: the same words sound different in each process.
VARIANTS = {"m": ("m1", "m2", "m3", "m4", "m5", "m6", "m7"), "f": ("f1", "f4")}
ACCENTS = ("en", "en-us", "en-gb-x-rp")
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak-ng's parameter numbers
UTF8 = 1


@dataclass(frozen=True)
class Prosody:
    """How an emotion changes a voice at full intensity."""

    pitch: float = 0.0  # espeak pitch points (0..99) added
    range: float = 0.0  # espeak pitch-range points added
    rate: float = 1.0  # factor on words per minute
    loudness: float = 1.0
    tremor: float = 0.0  # depth of a 6 Hz tremolo
    drive: float = 0.0  # soft clipping: a pressed, harsh voice
    breath: float = 0.0  # share of aspiration noise
    tilt: float = 0.0  # > 0 brighter, as when smiling; < 0 duller


PROSODY = dict(
    neutral=Prosody(),
    angry=Prosody(8, 16, 1.18, 1.8, drive=2.5, tilt=0.3),
    happy=Prosody(20, 26, 1.14, 1.25, tilt=0.9),
    sad=Prosody(-18, -30, 0.80, 0.6, tremor=0.08, breath=0.08, tilt=-0.4),
    worried=Prosody(10, -18, 1.18, 0.8, tremor=0.40, breath=0.05),
    surprise=Prosody(38, 44, 0.86, 1.4, breath=0.08),
)


@dataclass(frozen=True)
class Voice:
    """The voice of one speaker."""

    name: str  # an espeak-ng voice with variant, such as en-us+m3
    pitch: float
    range: float
    rate: float  # words per minute
    loudness: float


def make_voice(rng: np.random.Generator, presents: str) -> Voice:
    """Draw a voice; its pitch is shifted, since only few variants are the same in every process."""
    variant = str(rng.choice(VARIANTS[presents]))
    return Voice(
        f"{rng.choice(ACCENTS)}+{variant}",
        float(rng.uniform(40, 58)),
        float(rng.uniform(38, 54)),
        float(rng.uniform(158, 184)),
        float(rng.lognormal(0, 0.12)),
    )


def synthesise(text: str, voice: str, rate: float, pitch: float, spread: float) -> np.ndarray:
    """Speak a text with espeak-ng.

    The library keeps the state of its oscillators from one utterance to the next, so it is loaded
    afresh each time (6 ms): a clip must not depend on which clips were made before it.

    Returns
    -------
    ndarray, float32, (T,), at SAMPLE_RATE

    Raises
    ------
    EcmfError
        The extra `demo` is not installed, or espeak-ng gave no sound.
    """
    library, rate_of_library = _load()
    chunks: list[np.ndarray] = []

    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback = kind(collect)  # must outlive the calls below
    try:
        library.espeak_SetSynthCallback(callback)
        library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in ((RATE, rate), (VOLUME, 100), (PITCH, pitch), (RANGE, spread)):
            high = 450 if parameter == RATE else 99
            library.espeak_SetParameter(parameter, int(np.clip(value, 0, high)), 0)
        words = text.encode() + b"\0"
        library.espeak_Synth(words, len(words), 0, 1, 0, UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        _unload(library)
    if not chunks:
        raise EcmfError(f"espeak-ng gave no sound for voice {voice}: reinstall the extra `demo`")
    return _resample(np.concatenate(chunks).astype(np.float32) / 32768, rate_of_library)


def _load() -> tuple[ctypes.CDLL, int]:
    try:
        import espeakng_loader
    except ImportError as error:
        raise EcmfError(
            "the generated corpora speak with espeak-ng, which is not installed: "
            "pip install 'ecmf_utils[demo]', or use the profile folder with clips of your own"
        ) from error
    library, data = ctypes.CDLL(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())
    rate = library.espeak_Initialize(2, 0, data.encode(), 0)  # 2: samples come through the callback
    if rate <= 0:
        raise EcmfError(f"espeak-ng finds no voices under {data}: reinstall the extra `demo`")
    return library, rate


def _unload(library: ctypes.CDLL) -> None:
    library.espeak_Terminate()
    close = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary
    close(library._handle)


def _resample(sound: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    divisor = int(np.gcd(SAMPLE_RATE, rate))
    return resample_poly(sound, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)


def speak(voice: Voice, text: str, emotion: str, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """Speech of one clip, short enough for it; float32 (T,) at SAMPLE_RATE, peak about 0.3."""
    prosody, longest = PROSODY[emotion], MAX_S - LEAD_S - TAIL_S
    rate = voice.rate * (1 + (prosody.rate - 1) * intensity) * rng.normal(1, 0.04)
    pitch = voice.pitch + prosody.pitch * intensity + rng.normal(0, 4)
    spread = voice.range + prosody.range * intensity + rng.normal(0, 5)
    sound = synthesise(text, voice.name, rate, pitch, spread)
    if len(sound) > longest * SAMPLE_RATE:
        sound = synthesise(text, voice.name, rate * len(sound) / (longest * SAMPLE_RATE) * 1.06, pitch, spread)
    sound = sound[: int(longest * SAMPLE_RATE)]
    return _colour(sound, prosody, intensity, voice.loudness * rng.lognormal(0, 0.15), rng)


def _colour(sound: np.ndarray, prosody: Prosody, intensity: float, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Tremor, breath, pressed voice and loudness."""
    seconds = np.arange(len(sound)) / SAMPLE_RATE
    wave = 1 + prosody.tremor * intensity * np.sin(2 * np.pi * rng.uniform(5.5, 7) * seconds)
    drive = 1 + prosody.drive * intensity
    sound = sound * wave / (np.abs(sound).max() + 1e-6)
    if drive > 1:
        sound = np.tanh(sound * drive) / np.tanh(drive)
    step = np.diff(sound, prepend=0.0)
    tilt = prosody.tilt * intensity
    sound = sound + 1.5 * tilt * step if tilt > 0 else sound + tilt * (sound - _smooth(sound))
    breath = rng.standard_normal(len(sound)) * loudness_of(sound, 400) * prosody.breath * intensity
    return ((sound + breath) * 0.26 * gain * (1 + (prosody.loudness - 1) * intensity)).astype(np.float32)


def _smooth(sound: np.ndarray) -> np.ndarray:
    return np.convolve(sound, np.hanning(9) / np.hanning(9).sum(), "same")


def loudness_of(sound: np.ndarray, window: int = 1000) -> np.ndarray:
    """(T,) running root mean square, scaled to a peak of 1."""
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(window) / window, "same")
    level = np.sqrt(np.clip(power, 0, None))
    return level / (level.max() + 1e-6)


def record(speech: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Place speech in a clip of MIN_S to MAX_S seconds and add coloured noise of a room."""
    from scipy.signal import lfilter

    length = float(np.clip(len(speech) / SAMPLE_RATE + LEAD_S + TAIL_S, MIN_S, MAX_S))
    sound = np.zeros(int(length * SAMPLE_RATE), np.float32)
    start = int(LEAD_S * SAMPLE_RATE)
    sound[start : start + len(speech)] = speech[: len(sound) - start]
    noise = lfilter([1], [1, -rng.uniform(0.6, 0.97)], rng.standard_normal(len(sound)))
    wanted = np.sqrt((sound**2).mean() + 1e-9) / 10 ** (snr_db / 20)
    return np.clip(sound + noise * wanted / noise.std(), -1, 1).astype(np.float32)
