"""Descriptors without any trained weights, so that every branch has an offline encoder.

They measure what a person would name: light and colour of a scene, edges of a face, loudness, pitch
and timbre of a voice. Each function gives frame-level rows (T, D), float32.
"""

from __future__ import annotations

from functools import lru_cache, partial

import cv2
import numpy as np
from scipy.fft import dct, irfft, rfft
from scipy.ndimage import gaussian_filter, uniform_filter

from ecmf_utils.files import EcmfError

from .encoder import Encoder, Request

VERSION = 1
SAMPLE_RATE = 16000
GRID = 3  # a scene is described in 3 x 3 parts
LIGHT_BINS = 8  # of the histogram of a scene's light
HOG_BINS, HOG_CELL, HOG_SIZE = 8, 8, (48, 56)  # columns, rows of the inner face in pixels
MOTION_BANDS = 8  # horizontal bands of a face whose motion is measured
INNER_FACE = (0.24, 0.92, 0.2, 0.8)  # top, bottom, left, right of a crop: brows to chin
WINDOW_S, HOP_S, N_FFT = 0.04, 0.01, 1024
N_MELS, N_MFCC = 24, 13
PITCH_HZ = (70.0, 450.0)
OCTAVE_COST = 0.05  # of the correlation: a tone also repeats every two and three periods
ACTIVE_DB = 30.0  # parts of the sound quieter than this below the loudest are left out
BLOCK = 6000  # windows (a minute) at a time: a spectrum takes far more memory than what is kept of it


def describe_scene(frames: np.ndarray) -> np.ndarray:
    """Describe colour, light, contrast, layout, edges and motion of whole frames.

    Parameters
    ----------
    frames : uint8 (F, H, W, 3)

    Returns
    -------
    float32 (F, 85)
    """
    small = [cv2.resize(frame, (96, 72), interpolation=cv2.INTER_AREA) for frame in frames]
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]) / 255.0
    lab = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2LAB) for frame in small]) / 255.0
    hsv = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2HSV) for frame in small]) / 255.0
    motion = np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    down, across = np.gradient(grey, axis=(1, 2))
    edge = np.hypot(down, across)
    parts = [
        *(_summarise_grid(lab[..., channel]) for channel in range(3)),
        _summarise_grid(grey, np.std),
        _summarise_grid(edge),
        _summarise_grid(motion),
        np.stack([np.histogram(image, LIGHT_BINS, (0.0, 1.0))[0] / image.size for image in grey]),
        _share_directions(across, down, edge),
        np.percentile(grey, [5, 25, 50, 75, 95], axis=(1, 2)).T,
        np.stack([np.mean(hsv[..., 1], (1, 2)), np.std(hsv[..., 1], (1, 2))], 1),
        np.stack([np.mean(np.square(grey), (1, 2)), np.mean(motion, (1, 2))], 1),
        _locate_edges(edge, across),
        np.log1p(20 * np.mean(edge, (1, 2)))[:, None],
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def describe_face(crops: np.ndarray) -> np.ndarray:
    """Describe gradients and light of the inner face, and its motion from crop to crop.

    Parameters
    ----------
    crops : uint8 (F, S, S, 3)
        Aligned crops of one face in the order of time.

    Returns
    -------
    float32 (F, 386)
    """
    side = crops.shape[1]
    top, bottom, left, right = (int(round(part * side)) for part in INNER_FACE)
    inner = [
        cv2.resize(
            cv2.cvtColor(crop[top:bottom, left:right], cv2.COLOR_RGB2GRAY),
            HOG_SIZE,
            interpolation=cv2.INTER_AREA,
        )
        for crop in crops
    ]
    grey = np.stack(inner).astype(np.float32)
    flat = grey - gaussian_filter(grey, (0, 12, 12))  # light falling from one side is left out
    flat = flat / (flat.std((1, 2), keepdims=True) + 1e-6)
    patch = _sum_cells(flat) / HOG_CELL**2
    change = np.abs(np.diff(flat, axis=0, prepend=flat[:1]))
    bands = np.array_split(change, MOTION_BANDS, axis=1)  # brows, eyes, nose and mouth move in different ones
    motion = np.stack([band.mean((1, 2)) for band in bands], 1)
    return np.concatenate([_compute_hog(flat), patch.reshape(len(flat), -1), motion], axis=1).astype(np.float32)


def describe_audio(sound: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Loudness, pitch, voicing and timbre of the active parts of a sound, every 10 ms.

    Parameters
    ----------
    sound : float32 (T,)
        One channel at `sample_rate` Hz.

    Returns
    -------
    float32 (active frames, 62)
    """
    windows = _windows(sound, sample_rate)
    blocks = [_measure(windows, first, sample_rate) for first in range(0, len(windows), BLOCK)]
    mel, spectrum, crossings, loudness, lag, voicing = (np.concatenate(one) for one in zip(*blocks, strict=True))
    cepstrum = dct(mel, norm="ortho", axis=1)[:, 1 : N_MFCC + 1]
    pitch = _pitch(lag, voicing, sample_rate)
    rows = np.concatenate(
        [
            mel - mel.mean(1, keepdims=True),
            cepstrum,
            _delta(cepstrum),
            spectrum,
            crossings[:, None],
            np.stack([loudness, _delta(loudness), voicing, pitch, _delta(pitch)], 1),
        ],
        axis=1,
    )
    active = loudness > loudness.max() - ACTIVE_DB
    share = np.full((len(rows), 1), active.mean())
    return np.concatenate([rows, share], axis=1)[active].astype(np.float32)


DESCRIPTORS = {"scene": describe_scene, "face": describe_face, "audio": describe_audio}


def load(request: Request) -> Encoder:
    """Load the descriptors of a branch as an encoder.

    Raises
    ------
    EcmfError
        No descriptors exist for the branch, or layers other than `last` were asked for.
    """
    if request.branch not in DESCRIPTORS or request.layers != "last":
        raise EcmfError(
            f"encoder 'classical' with layers={request.layers!r} does not exist for branch {request.branch!r}; "
            f"it describes {', '.join(DESCRIPTORS)} and has layers=last only"
        )
    return Encoder(
        name=request.name,
        branch=request.branch,
        modality=request.modality,
        layers=request.layers,
        revision=f"v{VERSION}",
        run=partial(describe_all, branch=request.branch),
        sample_rate=SAMPLE_RATE if request.branch == "audio" else None,
        portable=True,
    )


def describe_all(inputs: list[np.ndarray], branch: str) -> list[np.ndarray]:
    """Describe each input of a branch: rows float32 (T, D)."""
    return [DESCRIPTORS[branch](value) for value in inputs]


def _summarise_grid(values: np.ndarray, statistic=np.mean) -> np.ndarray:
    """Compute a statistic of each of 3 x 3 parts of images (F, H, W): (F, 9)."""
    parts = [
        statistic(part, axis=(1, 2))
        for row in np.array_split(values, GRID, axis=1)
        for part in np.array_split(row, GRID, axis=2)
    ]
    return np.stack(parts, axis=1)


def _share_directions(across: np.ndarray, down: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Compute which share of the edges runs in each direction: (F, HOG_BINS)."""
    angle = (np.arctan2(down, across) % np.pi) / np.pi * HOG_BINS
    direction = np.minimum(angle.astype(int), HOG_BINS - 1)
    shares = [np.sum(weight * (direction == k), axis=(1, 2)) for k in range(HOG_BINS)]
    return np.stack(shares, 1) / (weight.sum((1, 2))[:, None] + 1e-6)


def _locate_edges(edge: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Measure where edges lie, how they spread and how they lean: place, size and tilt of a figure, (F, 5)."""
    rows, columns = np.mgrid[0 : edge.shape[1], 0 : edge.shape[2]] / edge.shape[1]
    total = edge.sum((1, 2)) + 1e-6
    y, x = (edge * rows).sum((1, 2)) / total, (edge * columns).sum((1, 2)) / total
    spread_y = np.sqrt((edge * (rows - y[:, None, None]) ** 2).sum((1, 2)) / total)
    spread_x = np.sqrt((edge * (columns - x[:, None, None]) ** 2).sum((1, 2)) / total)
    lean = (edge * (rows - y[:, None, None]) * (columns - x[:, None, None])).sum((1, 2)) / total
    return np.stack([y, x, spread_y, spread_x, lean], 1)


def _compute_hog(images: np.ndarray) -> np.ndarray:
    """Compute histograms of oriented gradients (Dalal and Triggs 2005), normalised among neighbours.

    Images (F, H, W) give float32 (F, H / 8 * W / 8 * HOG_BINS).
    """
    down, across = np.gradient(images, axis=(1, 2))
    size = np.hypot(down, across)
    angle = (np.arctan2(down, across) % np.pi) / np.pi * HOG_BINS
    low = np.floor(angle).astype(int)
    share = angle - low  # a gradient between two directions counts for both
    cells = np.zeros((*_sum_cells(size).shape, HOG_BINS), np.float32)
    for k in range(HOG_BINS):
        near = (low % HOG_BINS == k) * (1 - share) + ((low + 1) % HOG_BINS == k) * share
        cells[..., k] = _sum_cells(size * near)
    energy = uniform_filter(np.square(cells).sum(-1), (0, 3, 3))
    return (cells / (np.sqrt(energy)[..., None] + 1e-3)).reshape(len(images), -1)


def _sum_cells(values: np.ndarray) -> np.ndarray:
    """Sum over square cells of 8 pixels: (F, H, W) to (F, H / 8, W / 8)."""
    n_images, height, width = values.shape
    cells = values.reshape(n_images, height // HOG_CELL, HOG_CELL, width // HOG_CELL, HOG_CELL)
    return cells.sum((2, 4))


def _windows(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    length, hop = int(WINDOW_S * sample_rate), int(HOP_S * sample_rate)
    padded = np.pad(np.asarray(sound, np.float32), (0, max(0, length - len(sound))))
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]


def _measure(windows: np.ndarray, first: int, sample_rate: int) -> tuple[np.ndarray, ...]:
    """Of a block of windows: mel spectra, shape of the spectra, crossings, loudness, lags and voicing."""
    before = int(first > 0)  # one more in front, from which the spectrum of the first one changes
    block = windows[first - before : first + BLOCK]
    power = np.abs(rfft(block * np.hanning(block.shape[1]), N_FFT, axis=1)) ** 2
    mel = np.log(power @ _mel_bank(sample_rate).T + 1e-8)
    loudness = 10 * np.log10(np.mean(np.square(block), axis=1) + 1e-9)
    found = mel, _spectrum(power, sample_rate), _crossings(block), loudness, *_lags(block, sample_rate)
    return tuple(one[before:] for one in found)


@lru_cache(maxsize=4)
def _mel_bank(sample_rate: int) -> np.ndarray:
    """Triangles on the mel scale (O'Shaughnessy 1987), (N_MELS, N_FFT // 2 + 1)."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, N_MELS + 2) / 2595) - 1)
    hz = np.linspace(0, sample_rate / 2, N_FFT // 2 + 1)
    up = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(up, down), 0, None)


def _lags(windows: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Period of each window in samples, and voicing in [0, 1]."""
    centred = windows - windows.mean(1, keepdims=True)
    spectrum = np.abs(rfft(centred, 2 * N_FFT, axis=1)) ** 2
    correlation = irfft(spectrum, axis=1)[:, : windows.shape[1]]
    length = windows.shape[1]
    correlation = correlation / (correlation[:, :1] + 1e-9) / (1 - np.arange(length) / length)
    first, last = (int(sample_rate / hz) for hz in PITCH_HZ[::-1])
    octaves_down = np.log2(np.arange(first, last) / first)
    lag = first + (correlation[:, first:last] - OCTAVE_COST * octaves_down).argmax(1)
    return lag, np.clip(correlation[np.arange(len(lag)), lag], 0, 1)


def _pitch(lag: np.ndarray, voicing: np.ndarray, sample_rate: int) -> np.ndarray:
    """Pitch in octaves above 100 Hz, carried over unvoiced parts."""
    octaves = np.log2(sample_rate / lag / 100)
    voiced = np.flatnonzero(voicing > 0.5)
    if len(voiced) == 0:
        return np.zeros(len(lag))
    return np.interp(np.arange(len(lag)), voiced, octaves[voiced])


def _spectrum(power: np.ndarray, sample_rate: int) -> np.ndarray:
    """Centroid, spread, roll-off in kHz, flatness and flux of each spectrum."""
    khz = np.linspace(0, sample_rate / 2000, power.shape[1])
    share = power / (power.sum(1, keepdims=True) + 1e-9)
    centroid = share @ khz
    spread = np.sqrt(np.clip(share @ khz**2 - centroid**2, 0, None))
    rolloff = khz[np.minimum((share.cumsum(1) < 0.85).sum(1), len(khz) - 1)]
    flatness = np.log(power + 1e-9).mean(1) - np.log(power.mean(1) + 1e-9)
    flux = np.sqrt(np.square(np.diff(share, axis=0, prepend=share[:1])).sum(1))
    return np.stack([centroid, spread, rolloff, flatness, flux], 1)


def _crossings(windows: np.ndarray) -> np.ndarray:
    return np.mean(np.diff(np.signbit(windows), axis=1), axis=1)


def _delta(values: np.ndarray) -> np.ndarray:
    """Change per window, over five windows where there are that many."""
    if len(values) < 5:
        return np.zeros_like(values)
    padded = np.pad(values, [(2, 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return (2 * padded[4:] + padded[3:-1] - padded[1:-3] - 2 * padded[:-4]) / 10
