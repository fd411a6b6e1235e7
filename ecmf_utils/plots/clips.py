"""Figures of single clips: contact sheets, sound, and one clip along its time."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ecmf_utils.media import SAMPLE_RATE
from ecmf_utils.media.sound import WINDOW, find_speech
from ecmf_utils.notebook import Note

from .theme import ACCENT, Picture, emotion_colours, picture, plain

TILE = 1.25  # inches, width of a picture on a contact sheet
SHADE = "#DCE7F2"  # behind what is taken for speech
ENVELOPE = 160  # samples, 10 ms: a drawn wave is no finer


class Photos(Picture):
    """Many photographs: stored no sharper than they are shown, which halves a notebook."""

    photo = True

    def image_bytes(self) -> bytes:
        """The figure as JPEG."""
        out = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Glyph.*")  # a script no font here can draw
            self.savefig(out, format="jpeg", dpi=100, pil_kwargs={"quality": 78, "optimize": True})
        return out.getvalue()


def contact_sheets(rows: Mapping[str, Sequence[tuple[np.ndarray, str]]], labels: Sequence[str]) -> Figure | Note:
    """A row of pictures for each name.

    Parameters
    ----------
    rows : mapping
        Name to pairs of a uint8 (H, W, 3) image, which has passed `media.show_frame`, and a caption.
    labels : sequence of str
        A name that is one of them has that label's colour.

    Returns
    -------
    Figure or Note
        A note where there is no picture.
    """
    rows = {name: tiles for name, tiles in rows.items() if tiles}
    if not rows:
        return Note("There are no pictures, or none that media_in_reports allows.")
    wide = max(map(len, rows.values()))
    tallest = [min(1.3, max(image.shape[0] / image.shape[1] for image, _ in tiles)) for tiles in rows.values()]
    side = min(TILE, 7.0 / wide)
    lines = [side * ratio + 0.2 for ratio in tallest]
    figure = Photos(figsize=(1 + wide * side, sum(lines) + 0.1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
    figure.alt = "Clips of " + ", ".join(map(str, rows))
    axes = figure.subplots(len(rows), wide, squeeze=False, height_ratios=lines)
    colours = emotion_colours(labels)
    for (name, tiles), line in zip(rows.items(), axes, strict=True):
        for ax, (image, caption) in zip(line, tiles, strict=False):
            ax.imshow(image)
            ax.set_title(_tail(caption, 20), fontsize=7, fontweight="normal", loc="left", pad=2)
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(plain(name, 16), rotation=0, ha="right", va="center", fontsize=9.5)
        mark = line[0].spines["left"]
        mark.set_position(("outward", 4))
        mark.set(visible=name in colours, color=colours.get(name), linewidth=5, capstyle="butt")
    return figure


def _tail(name: str, width: int) -> str:
    """The end of a long name, which is what tells clips apart."""
    return plain(name if len(name) <= width else "…" + name[1 - width :], width)


def clip_timeline(
    sound: np.ndarray | None, frames: Sequence[np.ndarray], duration_s: float, title: str = ""
) -> Figure | Note:
    """One clip along its time: frames, wave with the windows taken for speech, spectrogram.

    Parameters
    ----------
    sound : float (T,) at 16 kHz, or None
        The sound.
    frames : sequence of uint8 (H, W, 3)
        Evenly spaced, each from the middle of its part of the clip; none at all leaves the strip out.
    duration_s : float
        Seconds.
    title : str
        Of the figure.

    Returns
    -------
    Figure or Note
        A note where there is neither sound nor frame.
    """
    parts = ["frames"] * bool(len(frames)) + ["wave", "spectrum"] * (sound is not None)
    if not parts:
        return Note("This clip has neither picture nor sound that media_in_reports allows.")
    strip = 5.4 / max(1, len(frames)) * max([f.shape[0] / f.shape[1] for f in frames], default=0) + 0.1
    heights = {"frames": strip, "wave": 0.8, "spectrum": 1.6}
    figure = Photos(figsize=(6.4, 1.1 + sum(heights[part] for part in parts)), layout="constrained")
    figure.alt = f"One clip closely: {title}"
    ratios = [heights[part] for part in parts]
    axes = figure.subplot_mosaic([[part] for part in parts], sharex=True, height_ratios=ratios)
    if "frames" in axes:
        _strip(axes["frames"], frames, duration_s)
    if sound is not None:
        _wave(axes["wave"], np.asarray(sound, np.float32))
        mesh = _spectrum(axes["spectrum"], np.asarray(sound, np.float32))
        figure.colorbar(mesh, ax=list(axes.values()), label="power (dB)", pad=0.01, aspect=40)
    axes[parts[-1]].set(xlabel="time (s)", xlim=(0, duration_s))
    figure.suptitle(plain(title, 84), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _strip(ax: Axes, frames: Sequence[np.ndarray], duration_s: float) -> None:
    part = duration_s / len(frames)
    for number, frame in enumerate(frames):
        height = part * 0.97 * frame.shape[0] / frame.shape[1]
        ax.imshow(frame, extent=(number * part, (number + 0.97) * part, 0, height), interpolation="antialiased")
    tallest = max(frame.shape[0] / frame.shape[1] for frame in frames)
    ax.set(xlim=(0, duration_s), ylim=(0, part * 0.97 * tallest), yticks=[], aspect="equal")
    ax.tick_params(labelbottom=len(ax.figure.axes) == 1)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _wave(ax: Axes, sound: np.ndarray) -> None:
    spoken = find_speech(sound)
    marks = {"step": "post", "color": SHADE, "lw": 0, "transform": ax.get_xaxis_transform()}
    ax.fill_between(np.arange(len(spoken)) * WINDOW / SAMPLE_RATE, 0, 1, where=spoken, **marks)
    parts = np.pad(sound, (0, -len(sound) % ENVELOPE)).reshape(-1, ENVELOPE)
    times = (np.arange(len(parts)) + 0.5) * ENVELOPE / SAMPLE_RATE
    ax.fill_between(times, parts.min(1), parts.max(1), color=ACCENT, lw=0.3)
    ax.set(ylabel="amplitude")
    note = f"shaded: {spoken.sum() * WINDOW / SAMPLE_RATE:.1f} s taken for speech"
    ax.set_title(note, fontsize=9, fontweight="normal", pad=3)


def _spectrum(ax: Axes, sound: np.ndarray) -> AxesImage:
    """Mean power of 2 hops by 4 bands: what the eye can follow, in half the bytes."""
    power, times, bands = spectrogram(sound, SAMPLE_RATE)
    deep, wide = len(bands) // 4, max(1, len(times) // 2)
    blocks = (10 ** (power[: deep * 4, : wide * 2] / 10)).reshape(deep, 4, wide, -1).mean((1, 3))
    level = 10 * np.log10(blocks / max(blocks.max(), 1e-10) + 1e-10)
    ends = (0, len(sound) / SAMPLE_RATE, 0, bands[-1] / 1000)
    how = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": -60, "vmax": 0, "interpolation": "bilinear"}
    image = ax.imshow(level, extent=ends, **how)
    ax.set(ylabel="frequency (kHz)")
    ax.grid(False)
    return image


# ---- figures of the notebooks: each function takes tables or arrays and returns a matplotlib Figure

WINDOW_S, HOP_S = 0.025, 0.010  # the usual speech analysis window
DB_STEP = 5  # of a spectrogram's colours: finer steps show noise and triple the size of the picture


def contact_sheet(
    images: Sequence[np.ndarray | None],
    captions: Sequence[str],
    columns: int = 6,
    title: str | None = None,
    empty: str = "There are no pictures.",
) -> Figure | Note:
    """Tiles of pictures with captions.

    Parameters
    ----------
    images : sequence of uint8 (H, W, 3) or None
        None stands for a withheld picture.
    captions : sequence of str
        One for each picture.
    columns : int
        Tiles in a line.
    title : str, optional
        Of the figure.
    empty : str
        What to say where there are no pictures.

    Returns
    -------
    Figure or Note
        A note where there are no pictures.
    """
    if not len(images):
        return Note(empty)
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    tile = 8.0 / max(columns, 3)
    ratios = [image.shape[0] / image.shape[1] for image in images if image is not None] or [1.0]
    per_line = max(8, int(tile * 13.5))
    wrapped = [_wrap(caption, per_line) for caption in captions]
    deepest = max((text.count("\n") + 1 for text in wrapped), default=1)
    height = rows * (tile * min(1.4, max(ratios)) + 0.16 * deepest + 0.06) + (0.35 if title else 0)
    figure, axes = picture(
        rows,
        columns,
        height=height,
        width=tile * columns,
        alt=title or f"{len(images)} pictures",
        photo=True,
    )
    for ax, image, caption in zip(axes, images, wrapped, strict=False):
        if image is None:
            ax.imshow(np.full((10, round(10 / max(ratios)), 3), 236, np.uint8))
            ax.text(0.5, 0.5, "withheld", ha="center", va="center", transform=ax.transAxes, fontsize=8)
        else:
            ax.imshow(image)
        ax.set_xlabel(caption, fontsize=8, labelpad=3)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    if title:
        figure.suptitle(plain(title, 110), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _wrap(caption: str, width: int, most: int = 3) -> str:
    lines = [line for part in str(caption).split("\n") for line in textwrap.wrap(part, width) or [""]]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: width - 1] + "…"]
    return "\n".join(lines).replace("$", r"\$")


def waveform_spectrogram(sound: np.ndarray | None, sample_rate: int, title: str = "") -> Figure | Note:
    """Wave and spectrogram (25 ms window, 10 ms hop) of a mono sound.

    Parameters
    ----------
    sound : float (T,), or None
        Amplitudes from -1 to 1; None where there is no sound, or it is withheld.
    sample_rate : int
        Hz.
    title : str
        Of the figure.

    Returns
    -------
    Figure or Note
        A note where there is no sound.
    """
    if sound is None:
        return Note("There is no sound, or media_in_reports withholds it.")
    figure, (wave, spectrum) = picture(
        2,
        1,
        height=3.9,
        sharex=True,
        height_ratios=(1, 2),
        alt=f"Wave and spectrogram {title}".strip(),
    )
    sound = np.asarray(sound, np.float32)
    times = np.arange(len(sound)) / sample_rate
    wave.plot(times, sound, color=ACCENT, lw=0.5)
    wave.set(ylabel="amplitude", title=plain(title, 100))
    power, frame_times, bands = spectrogram(sound, sample_rate)
    power = DB_STEP * np.round(power / DB_STEP)
    mesh = spectrum.pcolormesh(frame_times, bands / 1000, power, cmap="magma", vmin=-80, vmax=0, rasterized=True)
    spectrum.set(xlabel="time (s)", ylabel="frequency (kHz)")
    spectrum.grid(False)
    figure.colorbar(mesh, ax=spectrum, label="power (dB)", pad=0.01, aspect=15)
    return figure


def spectrogram(sound: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.signal import stft

    window = int(WINDOW_S * rate)
    padded = np.pad(sound, (0, max(0, window - len(sound))))
    bands, times, values = stft(padded, rate, nperseg=window, noverlap=window - int(HOP_S * rate), nfft=1024)
    power = np.abs(values) ** 2
    return 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-10)), times, bands
