"""Figures of the notebooks: each function takes tables or arrays and returns a matplotlib Figure.

A figure shows once, where a cell ends with it. Colours are fixed per emotion and per branch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .theme import ACCENT, INK, MISSING, NO_LABEL, branch_colours, dark, emotion_colours, picture, plain

SPLITS = ("train", "test", "unlabelled")
WINDOW_S, HOP_S = 0.025, 0.010  # the usual speech analysis window
DB_STEP = 5  # of a spectrogram's colours: finer steps show noise and triple the size of the picture


def class_balance(clips: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Clips per label, a panel per split; `clips` has the columns label (null: none) and split."""
    splits = [name for name in SPLITS if (clips["split"] == name).any()]
    known = clips["label"].astype(object).where(clips["label"].notna(), NO_LABEL)
    rows = [*labels, *([NO_LABEL] if (known == NO_LABEL).any() else [])]
    colours = emotion_colours(labels) | {NO_LABEL: MISSING}
    figure, axes = picture(
        1,
        max(1, len(splits)),
        height=0.9 + 0.32 * len(rows),
        sharey=True,
        alt="Clips per label and split",
    )
    for ax, split in zip(axes, splits, strict=False):
        counts = known[clips["split"] == split].value_counts().reindex(rows, fill_value=0)
        bars = ax.barh(rows, counts, color=[colours[row] for row in rows], height=0.72)
        named = counts[list(labels)].sum() > 0
        shown = [f"{n:,}" if n or (named and row != NO_LABEL) else "" for row, n in counts.items()]
        ax.bar_label(bars, shown, padding=3, fontsize=9)
        ax.set(
            title=f"{split} ({int(counts.sum()):,})",
            xlabel="clips",
            xlim=(0, counts.max() * 1.18 + 0.5),
        )
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    return figure


def distributions(frame: pd.DataFrame, columns: Mapping[str, str], bins: int = 24) -> Figure:
    """Histogram of each column; `columns` maps column name to axis title with unit: (0–1) spans that range."""
    wide = 2 if len(columns) in (2, 4) else min(3, len(columns))
    deep = -(-len(columns) // wide)
    figure, axes = picture(deep, wide, height=2.3 * deep, alt="Distribution of " + ", ".join(columns.values()))
    for ax, (column, title) in zip(axes, columns.items(), strict=False):
        values = pd.to_numeric(frame[column], errors="coerce")
        known, lost = values.dropna(), int(values.isna().sum())
        note = "none known"
        if len(known):
            share = "(0–1)" in title
            whole = not share and known.nunique() <= bins and (known % 1 == 0).all()
            span = (0, 1) if share else None
            sns.histplot(known, bins=bins, binrange=span, discrete=whole, color=ACCENT, edgecolor="white", ax=ax)
            ax.axvline(known.median(), color=INK, lw=1.2, ls="--")
            note = f"median {known.median():.3g}" if known.nunique() > 1 else f"all {known.iloc[0]:.4g}"
            ax.margins(x=0.05 if share or known.nunique() > 1 else 2)
        note += f", {lost} missing" if lost else ""
        ax.set_title(note, fontweight="normal", fontsize=9)
        ax.set(xlabel=title, ylabel="count")
    for ax in axes[len(columns) :]:
        ax.remove()
    return figure


def contact_sheet(
    images: Sequence[np.ndarray | None],
    captions: Sequence[str],
    columns: int = 6,
    title: str | None = None,
) -> Figure:
    """Tiles of uint8 (H, W, 3) images with captions; None stands for a withheld picture."""
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


def waveform_spectrogram(sound: np.ndarray, sample_rate: int, title: str = "") -> Figure:
    """Wave and spectrogram (25 ms window, 10 ms hop) of a mono sound, float (T,) in -1 to 1."""
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


def embedding(x: np.ndarray, labels_of_points: Sequence[str | None], labels: Sequence[str], title: str = "") -> Figure:
    """First two principal components of x (N, D), standardised; a point without label is grey."""
    x = np.asarray(x, float)
    scaled = (x - x.mean(0)) / np.where(x.std(0) > 1e-9, x.std(0), 1)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    spread = np.append(s**2 / max((s**2).sum(), 1e-12), 0.0)
    points = np.column_stack([u * s, np.zeros(len(x))])[:, :2]
    named = pd.Series(list(labels_of_points), dtype=object)
    figure, (ax,) = picture(height=4.4, width=6.8, alt=f"Principal components {title}".strip())
    for label, colour in ({NO_LABEL: MISSING} | emotion_colours(labels)).items():
        chosen = (named.isna() if label == NO_LABEL else named == label).to_numpy(bool)
        if chosen.any():
            name = f"{label} ({chosen.sum()})"
            ax.scatter(
                *points[chosen].T,
                s=22,
                color=colour,
                alpha=0.8,
                lw=0.3,
                edgecolor="white",
                label=name,
            )
    ax.set(
        xlabel=f"component 1 ({spread[0]:.0%} of the variance)",
        ylabel=f"component 2 ({spread[1]:.0%})",
        title=plain(title, 80),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1)
    return figure


def availability(table: pd.DataFrame) -> Figure:
    """Clips per branch by state; index branch, columns ok, missing, failed (counts)."""
    table = table.reindex(columns=["ok", "missing", "failed"], fill_value=0).fillna(0)
    colours = branch_colours(table.index)
    figure, (ax,) = picture(height=0.95 + 0.42 * len(table), alt="Clips with, without and failed, per branch")
    left = np.zeros(len(table))
    for state, style in (
        ("ok", {}),
        ("missing", {"color": MISSING}),
        ("failed", {"color": "#B2182B", "hatch": "///"}),
    ):
        own = {"color": [colours[b] for b in table.index]} if state == "ok" else style
        values = table[state].to_numpy(float)
        ax.barh(list(table.index), values, left=left, height=0.66, edgecolor="white", label=state, **own)
        for row, (value, start) in enumerate(zip(values, left, strict=True)):
            if state == "ok" and value > 0.06 * table.sum(axis=1).max():
                ink = "white" if dark(colours[table.index[row]]) else INK
                ax.text(start + value / 2, row, f"{value:.0f} ok", ha="center", va="center", color=ink)
        left += values
    ends = [
        f" {m:.0f} missing, {f:.0f} failed" if m + f else ""
        for m, f in zip(table["missing"], table["failed"], strict=True)
    ]
    for row, note in enumerate(ends):
        ax.text(left[row], row, note, va="center", fontsize=8.5)
    ax.set(xlabel="clips", xlim=(0, max(1.0, left.max()) * (1.24 if any(ends) else 1.02)))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return figure
