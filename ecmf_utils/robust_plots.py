"""Figures of what is lost when branches are missing or noisy; notebooks call them through `plots`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .theme import ACCENT, INK, MISSING, branch_colours, picture

PANELS = 5  # side by side


def subsets(table: pd.DataFrame) -> Figure:
    """Score of every subset of branches; columns branches (joined by +), weighted_f1, low, high."""
    table = table.sort_values("weighted_f1", ascending=False, kind="stable")
    rows = [name.split("+") for name in table["branches"]]
    names = max(rows, key=len)
    colours = branch_colours(names)
    figure, (grid, scores) = picture(
        1,
        2,
        height=1.1 + 0.19 * len(rows),
        width=7.6,
        sharey=True,
        width_ratios=(0.14 * len(names), 1),
        alt="Weighted F1 with each subset of the branches left",
    )
    for at, there in enumerate(rows):
        found = [i for i, name in enumerate(names) if name in there]
        grid.plot(range(len(names)), [at] * len(names), "o", ms=5, color=MISSING, zorder=1)
        grid.plot([found[0], found[-1]], [at, at], color=INK, lw=0.8, zorder=2)
        for i in found:
            grid.plot(i, at, "o", ms=6, color=colours[names[i]], mec=INK, mew=0.5, zorder=3)
    place = np.arange(len(rows))
    scores.hlines(place, table["low"], table["high"], color=ACCENT, lw=2.2, alpha=0.55)
    scores.plot(table["weighted_f1"], place, "o", ms=5, color=ACCENT)
    whole = float(table.loc[[len(row) == len(names) for row in rows], "weighted_f1"].iloc[0])
    scores.axvline(whole, color=INK, ls=":", lw=1)
    grid.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    grid.set(yticks=[], xlim=(-0.6, len(names) - 0.4), ylim=(len(rows) - 0.4, -0.6))
    grid.grid(False)
    scores.set(xlabel="weighted F1 (bar: 95 % interval; dotted: all branches)")
    scores.grid(axis="y", visible=False)
    return figure


def noise(table: pd.DataFrame, kept: pd.DataFrame) -> Figure:
    """Score against noise on one branch, a panel each.

    Parameters
    ----------
    table : DataFrame
        Columns branch, noise (standard deviations), weighted_f1, low, high.
    kept : DataFrame
        What `subsets` takes; the score with the branch hidden is dashed.
    """
    names = list(table["branch"].unique())
    score = kept.set_index("branches")["weighted_f1"]
    columns = min(len(names), PANELS)
    lines = -(-len(names) // columns)
    figure, axes = picture(
        lines, columns, height=0.6 + 2.0 * lines, sharex=True, sharey=True, alt="Weighted F1 with noise on one branch"
    )
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax, (branch, colour) in zip(axes, branch_colours(names).items(), strict=False):
        rows = table[table["branch"] == branch].sort_values("noise")
        ax.plot(rows["noise"], rows["weighted_f1"], "o-", color=colour)
        ax.fill_between(rows["noise"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
        others = "+".join(name for name in names if name != branch)
        if others in score:
            ax.axhline(score[others], color=INK, ls="--", lw=1)
        ax.set_title(branch)
    for ax in axes[::columns]:
        ax.set_ylabel("weighted F1")
    about = "noise on the branch (standard deviations of each dimension); band: 95 % interval; dashed: hidden"
    figure.supxlabel(about, fontsize=9)
    return figure
