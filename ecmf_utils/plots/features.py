"""Figures of features: which clips have them, and whether they know the emotion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ecmf_utils.notebook import Note

from .theme import INK, MISSING, NO_LABEL, branch_colours, dark, emotion_colours, picture, plain

FEWEST_POINTS = 3  # fewer have no two components to draw


def embedding(
    x: np.ndarray | pd.DataFrame, clip_labels: Sequence[str | None], labels: Sequence[str], title: str = ""
) -> Figure | Note:
    """First two principal components of standardised vectors.

    Parameters
    ----------
    x : float (N, D)
        The vectors.
    clip_labels : sequence of str or None (N,)
        The label of each vector; a point without label is grey.
    labels : sequence of str
        All labels, in the order of the legend.
    title : str
        Of the figure.

    Returns
    -------
    Figure or Note
        A note where there are fewer than three vectors.
    """
    if len(x) < FEWEST_POINTS:
        return Note(f"There are too few vectors to draw: {len(x)}.")
    x = np.asarray(x, float)
    scaled = (x - x.mean(0)) / np.where(x.std(0) > 1e-9, x.std(0), 1)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    spread = np.append(s**2 / max((s**2).sum(), 1e-12), 0.0)
    points = np.column_stack([u * s, np.zeros(len(x))])[:, :2]
    named = pd.Series(list(clip_labels), dtype=object)
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
    """Clips of each branch by state.

    Parameters
    ----------
    table : DataFrame
        Index branch; columns ok, missing, failed (counts). A column or a count that is not there is 0.

    Returns
    -------
    Figure
        One bar for each branch.
    """
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
