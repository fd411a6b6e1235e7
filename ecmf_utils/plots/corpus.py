"""Figures of a corpus: classes, groups, files, words, and measures by label.

Each function takes tables or arrays and returns a matplotlib Figure, or a `Note` where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecmf_utils.corpus import choose_unit
from ecmf_utils.notebook import Note

from .theme import ACCENT, INK, MISSING, NO_LABEL, emotion_colours, picture, plain

FEW_GROUPS = 24  # up to here each has a row of its own
SHOWN_VALUES = 6  # of frame sizes and rates; the rest is one bar
ALL = "all clips"
STRIP_POINTS = 400  # above this, boxes alone
TAIL, LONG_TAIL = 0.99, 2.0  # a histogram ends at this quantile when the largest value is so many times it
SHADES = (ACCENT, "#8FB1D3", "#5C6B7A", "#C4CDD6")  # of scripts: neither an emotion nor a branch


# ---- groups


def groups(clips: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Clips by group and label: a heat map of few groups, distributions of many.

    Parameters
    ----------
    clips : DataFrame
        The manifest: columns `group` and `label`.
    labels : sequence of str
        All labels, in the order of the columns.

    Returns
    -------
    Figure
        Labels and sizes of the groups.
    """
    known = clips["label"].astype(object).where(clips["label"].notna(), NO_LABEL)
    wanted = [*labels, NO_LABEL] if clips["label"].notna().any() else [NO_LABEL]
    table = pd.crosstab(clips["group"], known).reindex(columns=wanted, fill_value=0)
    return _few_groups(table) if len(table) <= FEW_GROUPS else _many_groups(table)


def _few_groups(table: pd.DataFrame) -> Figure:
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    table.index = [plain(name, 26) for name in table.index]
    named = table.drop(columns=NO_LABEL)
    turned = named.shape[1] > 7
    height = (1.8 if turned else 0.9) + 0.24 * len(table)
    if named.empty:
        figure, (total,) = picture(height=height, alt="Clips by group")
    else:
        wide = (max(3, named.shape[1]), 2.4)
        figure, (heat, total) = picture(1, 2, height=height, width_ratios=wide, alt="Clips by group and label")
        sns.heatmap(
            named,
            annot=True,
            fmt=",d",
            annot_kws={"fontsize": 8.5},
            cmap="Blues",
            vmin=0,
            cbar=False,
            linewidths=1,
            ax=heat,
        )
        heat.set(title="clips by group and label", xlabel="", ylabel="")
        heat.tick_params(axis="y", rotation=0)
        heat.tick_params(axis="x", rotation=35 if turned else 0)
    rows, left = np.arange(len(table)) + 0.5, named.sum(axis=1).to_numpy()
    total.barh(rows, left, color=ACCENT, height=0.72)
    rest = ACCENT if named.empty else MISSING
    total.barh(rows, table[NO_LABEL], left=left, color=rest, height=0.72)
    sums = table.sum(axis=1).to_numpy()
    for row, value in zip(rows, sums, strict=True):
        total.text(value, row, f" {value:,}", va="center", fontsize=9)
    total.set(
        xlabel="clips",
        ylim=(len(table), 0),
        xlim=(0, sums.max() * 1.25),
        title="clips by group" if named.empty else "in all",
    )
    total.set_yticks(rows if named.empty else [], table.index if named.empty else [])
    if len(left) and 0 < left.sum() < sums.sum():
        total.set_title(f"grey: {NO_LABEL}")
    total.grid(axis="y", visible=False)
    return figure


def _many_groups(table: pd.DataFrame) -> Figure:
    figure, (sizes, labels) = picture(1, 2, height=3.0, alt="Clips and labels per group")
    count = table.sum(axis=1)
    whole = count.max() <= 60
    bins = np.arange(count.max() + 2) - 0.5 if whole else np.geomspace(1, count.max() + 1, 24)
    sns.histplot(x=count, bins=bins, color=ACCENT, edgecolor="white", alpha=1, ax=sizes)
    sizes.set(
        xlabel="clips per group",
        ylabel="groups",
        xscale="linear" if whole else "log",
        title=f"{len(table):,} groups, median {count.median():.0f}, largest {count.max():,}",
    )
    named = table.drop(columns=NO_LABEL, errors="ignore")
    different = (named > 0).sum(axis=1)
    different = different[different > 0]
    if len(different):
        sns.histplot(x=different, discrete=True, color=ACCENT, edgecolor="white", shrink=0.8, alpha=1, ax=labels)
        single = int((different == 1).sum())
        labels.set(title=f"{single:,} with a single label", xlabel="different labels in a group", ylabel="groups")
        labels.set_xlim(0.4, named.shape[1] + 0.6)
        labels.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _say(labels, "no labels")
    return figure


# ---- files


def files(clips: pd.DataFrame) -> Figure | Note:
    """Durations of all clips whose media were probed; frame sizes and rates and sample rates where they differ.

    Parameters
    ----------
    clips : DataFrame
        The manifest.

    Returns
    -------
    Figure or Note
        A note where no media are known.
    """
    known = clips[clips["duration_s"].notna()]
    if known.empty:
        return Note("No media are known: there are no durations, frame sizes or rates to show.")
    sizes = known[["width", "height"]].dropna()
    heard = known.loc[known["audio"].notna(), "sample_rate"].dropna()
    values = {
        "frame size (pixels)": [f"{width:.0f} × {height:.0f}" for width, height in sizes.to_numpy()],
        "frames per second": [f"{rate:.4g}" for rate in known["fps"].dropna()],
        "sample rate (kHz)": [f"{rate / 1000:g}" for rate in heard],
    }
    values = {name: pd.Series(column, dtype="str") for name, column in values.items()}
    differing = {
        name: column for name, column in values.items() if column.nunique() > 1 or 0 < len(column) < len(known)
    }
    same = [
        f"{name}: {'none' if column.empty else column.iloc[0]}"
        for name, column in values.items()
        if name not in differing
    ]
    wide = 1 if not differing else 2
    alt = ", ".join(["Duration", *differing])
    figure, axes = picture(-(-(1 + len(differing)) // wide), wide, height=2.5 + 2.0 * (len(differing) > 1), alt=alt)
    _durations(axes[0], known["duration_s"], len(clips))
    for ax, (name, column) in zip(axes[1:], differing.items(), strict=False):
        _top(ax, column, name, len(known))
    for ax in axes[1 + len(differing) :]:
        ax.remove()
    if same:
        figure.supxlabel("the same in all clips · " + " · ".join(same), x=0.01, ha="left", fontsize=9)
    return figure


def _durations(ax: Axes, seconds: pd.Series, n: int) -> None:
    shown = seconds[seconds <= _top_of(seconds)]
    sns.histplot(x=shown, bins=30, color=ACCENT, edgecolor="white", alpha=1, ax=ax)
    note = f"{len(seconds):,} of {n:,} clips, median {seconds.median():.3g} s"
    if hidden := len(seconds) - len(shown):
        note += f"\n{hidden:,} above, up to {seconds.max():,.0f} s"
    ax.set(xlabel="duration (s)", ylabel="clips", title=note)


def _top_of(values: pd.Series) -> float:
    """Where a histogram ends: at the largest value, or before a long thin tail."""
    top = values.quantile(TAIL)
    return values.max() if values.max() < LONG_TAIL * top else top


def _top(ax: Axes, values: pd.Series, title: str, n: int) -> None:
    counts = values.value_counts()
    rest = counts.iloc[SHOWN_VALUES:]
    shown = counts.iloc[:SHOWN_VALUES]
    lost = n - len(values)
    extra = {f"{len(rest)} others": int(rest.sum())} | {"none": lost}
    bars = [*shown.items(), *((name, count) for name, count in extra.items() if count)]
    names, heights = [str(name) for name, _ in bars], [count for _, count in bars]
    colours = [ACCENT] * len(shown) + [MISSING] * (len(bars) - len(shown))
    ax.bar_label(ax.barh(names, heights, color=colours, height=0.7), [f"{h:,}" for h in heights], padding=3, fontsize=9)
    ax.set(xlabel="clips", xlim=(0, max(heights) * 1.2), title=title)
    ax.set_ylim(max(len(bars), 3) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


# ---- words and measures


def speech(words: pd.DataFrame, rates: pd.Series, scripts: pd.Series) -> Figure | Note:
    """Length of all transcripts, and the speech rate of measured clips with the script of each.

    Parameters
    ----------
    words : DataFrame
        Of `corpus.count_words`: columns `script` and `length`.
    rates : Series (N,)
        Words or characters per second of speech of the measured clips.
    scripts : Series (N,)
        The script of each measured clip.

    Returns
    -------
    Figure or Note
        A note where no clip has a transcript.
    """
    known = words.dropna(subset=["script"])
    if known.empty:
        return Note("No clip has a transcript.")
    counted = choose_unit(known["script"])
    figure, (length, rate) = picture(1, 2, height=2.9, alt="Transcript length and speech rate")
    order = list(known["script"].value_counts().index[: len(SHADES)])
    colours = dict(zip(order, SHADES, strict=False))
    top = _top_of(known["length"])
    shown = known[(known["length"] <= top) & known["script"].isin(order)]
    step = max(1, int(np.ceil(top / 40)))
    bins = np.arange(shown["length"].min(), top + step + 1, step) - 0.5
    sns.histplot(
        shown,
        x="length",
        hue="script",
        hue_order=order,
        palette=colours,
        multiple="stack",
        bins=bins,
        legend=len(order) > 1,
        alpha=1,
        edgecolor="white",
        ax=length,
    )
    note = f"{len(known):,} transcripts, median {known['length'].median():.0f}"
    length.set(xlabel=f"length ({counted})", ylabel="clips", title=note)
    spoken = pd.DataFrame({"rate": rates.to_numpy(float), "script": scripts.to_numpy(object)}).dropna()
    if spoken.empty:
        _say(rate, "no speech rate: no measured clip\nhas both sound and a transcript")
        return figure
    sns.histplot(
        spoken,
        x="rate",
        hue="script",
        hue_order=order,
        palette=colours,
        multiple="stack",
        bins=20,
        legend=False,
        alpha=1,
        edgecolor="white",
        ax=rate,
    )
    note = f"{len(spoken):,} measured clips, median {spoken['rate'].median():.1f}"
    rate.xaxis.set_major_locator(MaxNLocator(5))
    rate.set(xlabel=f"speech rate ({counted} per second of speech)", ylabel="clips", title=note)
    return figure


def by_label(frame: pd.DataFrame, labels: Sequence[str], columns: Mapping[str, str]) -> Figure | Note:
    """Spread of each column over all clips and by label: a box is the middle half, its whiskers reach from 5 to 95 %.

    Parameters
    ----------
    frame : DataFrame
        One row a clip: `label` and the columns.
    labels : sequence of str
        All labels, in the order of the rows.
    columns : mapping
        Column to its title with unit.

    Returns
    -------
    Figure or Note
        A note where no column has a value.
    """
    drawn = {name: title for name, title in columns.items() if frame[name].notna().any()}
    if not drawn:
        return Note("There are no media to measure.")
    rows = [ALL, *(labels if frame["label"].notna().any() else [])]
    named = frame[frame["label"].notna()]
    both = pd.concat([frame.assign(row=ALL), named.assign(row=named["label"].to_numpy(object))], ignore_index=True)
    wide = min(3, len(drawn))
    deep = -(-len(drawn) // wide)
    alt = "Of all clips and by label: " + ", ".join(drawn.values())
    figure, axes = picture(deep, wide, height=deep * (0.7 + 0.22 * len(rows)), sharey=True, alt=alt)
    style = {"y": "row", "order": rows, "hue": "row", "hue_order": rows, "legend": False}
    colours = {ALL: MISSING} | emotion_colours(labels)
    for ax, (name, title) in zip(axes, drawn.items(), strict=False):
        ax.axvline(frame[name].median(), color=INK, lw=1, ls=":", zorder=0)
        sns.boxplot(
            both,
            x=name,
            palette=[colours[row] for row in rows],
            whis=(5, 95),
            showfliers=False,
            width=0.64,
            linewidth=0.9,
            linecolor=INK,
            ax=ax,
            **style,
        )
        if len(named) <= STRIP_POINTS:
            points = both[both["row"] != ALL]
            sns.stripplot(points, x=name, palette=[INK] * len(rows), size=2, alpha=0.45, jitter=0.2, ax=ax, **style)
        ax.set(xlabel=title, ylabel="")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    for ax in axes[len(drawn) :]:
        ax.remove()
    return figure


def _say(ax: Axes, line: str) -> None:
    ax.text(0.5, 0.5, line, ha="center", va="center", transform=ax.transAxes, color=INK)
    ax.set_axis_off()


# ---- figures of the notebooks: each function takes tables or arrays and returns a matplotlib Figure


SPLITS = ("train", "test", "unlabelled")


def class_balance(clips: pd.DataFrame, labels: Sequence[str]) -> Figure | Note:
    """Clips per label, a panel per split.

    Parameters
    ----------
    clips : DataFrame
        The manifest: columns `label` (null: none) and `split`.
    labels : sequence of str
        All labels, in the order of the rows.

    Returns
    -------
    Figure or Note
        A note where no clip has a label.
    """
    if not clips["label"].notna().any():
        return Note("No clip has a label: the corpus can be predicted, not learned from.")
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


def distributions(frame: pd.DataFrame, columns: Mapping[str, str], bins: int = 24) -> Figure | Note:
    """Histogram of each column.

    Parameters
    ----------
    frame : DataFrame
        One row a clip.
    columns : mapping
        Column to its title with unit; a title with (0–1) spans that range.
    bins : int
        Bars of each histogram.

    Returns
    -------
    Figure or Note
        A note where the table has no row.
    """
    if frame.empty:
        return Note("There is nothing to count.")
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
