"""Figures of training, fusion, labels, scores and robustness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ecmf_utils.notebook import Note

from .theme import ACCENT, INK, MISSING, NO_LABEL, branch_colours, emotion_colours, picture, plain

MANY_ROWS = 40  # above this, single rows of a stacked bar chart cannot be named


def curves(history: pd.DataFrame) -> Figure:
    """Loss and score of every epoch; several fits become their mean and standard deviation.

    Of fits that stop early the mean is drawn while most go on. The dotted line is the epoch of the lowest inner loss,
    the median over the fits. Without an inner split only the loss is drawn.

    Parameters
    ----------
    history : DataFrame
        Columns epoch (from 0; the picture counts from 1), loss, and where there is an inner split inner_loss and
        inner_f1; run, where there are several fits.

    Returns
    -------
    Figure
        One or two panels.
    """
    history = history.assign(epoch=history["epoch"] + 1)
    going = history.groupby("epoch").size()
    shown = history[history["epoch"].map(going) * 2 > going.max()]
    if "inner_loss" not in history:
        figure, (loss,) = picture(height=3.0, width=4.6, alt="Loss by epoch")
        sns.lineplot(shown, x="epoch", y="loss", errorbar="sd", color=ACCENT, ax=loss)
        loss.set(xlabel="epoch", ylabel="cross-entropy of training rows (nats)")
        return figure
    figure, (loss, score) = picture(1, 2, height=3.0, alt="Loss and inner weighted F1 by epoch")
    for column, name, colour in (
        ("loss", "training rows", ACCENT),
        ("inner_loss", "inner held-out rows", "#D55E00"),
    ):
        sns.lineplot(shown, x="epoch", y=column, errorbar="sd", color=colour, label=name, ax=loss)
    sns.lineplot(shown, x="epoch", y="inner_f1", errorbar="sd", color="#D55E00", ax=score)
    fits = history.groupby("run") if "run" in history else [(0, history)]
    kept = [fit.loc[fit["inner_loss"].idxmin(), "epoch"] for _, fit in fits if fit["inner_loss"].notna().any()]
    for ax in (loss, score) if kept else ():
        ax.axvline(np.median(kept), color=INK, ls=":", lw=1)
    if kept:
        spread = f"{min(kept)} to {max(kept)}, median {np.median(kept):g}" if len(kept) > 1 else f"{kept[0]}"
        score.set_title(f"epoch kept: {spread}", fontweight="normal", fontsize=9)
    loss.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    score.set(xlabel="epoch", ylabel="weighted F1 (inner held-out)")
    for ax in (loss, score):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.set_ylim(bottom=0)
    score.set_ylim(max(0, score.get_ylim()[0]), min(1, score.get_ylim()[1]))  # a spread may leave 0 to 1
    return figure


def branch_weights(
    weights: np.ndarray | None, branches: Sequence[str], y: Sequence[str | None], labels: Sequence[str]
) -> Figure | Note:
    """Fusion weights of present branches, overall and by label.

    Parameters
    ----------
    weights : float array (N, B), or None
        0 or NaN where the branch is absent; None where the model has no weights.
    branches : sequence of str (B,)
        Names of the branches.
    y : sequence of str or None (N,)
        The label of each clip.
    labels : sequence of str
        All labels, in the order of the rows.

    Returns
    -------
    Figure or Note
        A note where the model has no weights.
    """
    if weights is None:
        return Note("This model has no branch weights.")
    table = pd.DataFrame(np.asarray(weights, float), columns=list(branches)).replace(0.0, np.nan)
    figure, (spread, mean) = picture(
        1,
        2,
        height=1.3 + 0.36 * max(len(labels), len(branches)),
        width_ratios=(1.15, 1),
        alt="Fusion weight of each branch, overall and by label",
    )
    _boxes(spread, table)
    spread.axvline(1 / len(branches), color=INK, ls=":", lw=1)
    spread.set(xlabel="weight (share of one clip; dotted: equal)", ylabel="", xlim=(0, None))
    by_label = table.groupby(pd.Series(list(y), dtype=object).to_numpy()).mean().reindex(labels)
    sns.heatmap(by_label, annot=True, fmt=".2f", cmap="Blues", vmin=0, cbar=False, linewidths=1, ax=mean)
    mean.set(title="mean by label", xlabel="", ylabel="")
    mean.tick_params(axis="y", rotation=0)
    mean.tick_params(axis="x", rotation=0 if len(branches) <= 5 else 40)
    return figure


def _boxes(ax: Axes, table: pd.DataFrame) -> None:
    columns = [table[name].dropna().to_numpy() for name in table]
    drawn = ax.boxplot(
        columns,
        orientation="horizontal",
        widths=0.62,
        patch_artist=True,
        medianprops={"color": INK, "lw": 1.6},
        flierprops={"marker": ".", "ms": 2.5},
    )
    for box, colour in zip(drawn["boxes"], branch_colours(table.columns).values(), strict=True):
        box.set(facecolor=colour, edgecolor=INK, lw=0.8)
    ax.set_yticks(range(1, len(columns) + 1), list(table.columns))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def scores_forest(scores: pd.DataFrame, reference: float | None = None, metric: str = "weighted F1") -> Figure:
    """Scores with 95 % intervals, the best model first.

    Parameters
    ----------
    scores : DataFrame
        Columns model, weighted_f1, low, high, and optionally group, which becomes the colour.
    reference : float, optional
        Where to draw a line, for example at chance.
    metric : str
        Name of the axis.

    Returns
    -------
    Figure
        One line for each model and group.
    """
    table = scores.assign(group=scores["group"].astype(str) if "group" in scores else "")
    order = list(table.groupby("model")["weighted_f1"].max().sort_values(ascending=False).index)
    groups = list(dict.fromkeys(table["group"]))
    palette = dict(zip(groups, sns.color_palette("colorblind", len(groups)).as_hex(), strict=True))
    own = table.groupby("model")["group"].agg(lambda names: [g for g in groups if g in set(names)])
    step = 0.62 / max(1, len(groups))
    height = 0.85 + len(order) * max(0.27, 0.16 * len(groups)) + 0.2 * (len(groups) > 1)
    figure, (ax,) = picture(height=height, alt=f"{metric} with 95 % interval per model")
    for row in table.itertuples():
        beside = own[row.model]  # a model of one group stands on its line
        offset = (beside.index(row.group) - (len(beside) - 1) / 2) * step
        at = order.index(row.model) + offset
        colour = palette[row.group] if len(groups) > 1 else ACCENT
        ax.plot([row.low, row.high], [at, at], color=colour, lw=2.2, alpha=0.55, solid_capstyle="round")
        ax.plot(row.weighted_f1, at, "o", ms=5.5, color=colour)
    if reference is not None:
        ax.axvline(reference, color=INK, ls=":", lw=1)
    ax.set_yticks(range(len(order)), [plain(name, 44) for name in order])
    ax.set(xlabel=f"{metric} (bar: 95 % interval)", ylim=(len(order) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    if len(groups) > 1:
        marks = [Line2D([], [], marker="o", lw=2.2, ms=5.5, color=palette[g], label=plain(g, 40)) for g in groups]
        figure.legend(handles=marks, loc="outside upper left", ncols=min(4, len(groups)))
    return figure


def confusion(matrix: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Confusion counts, true by predicted: colour and % within the row, counts beneath.

    Parameters
    ----------
    matrix : int array (C, C)
        Row the true label, column the predicted one.
    labels : sequence of str (C,)
        Names of the classes.
    title : str
        Of the figure.

    Returns
    -------
    Figure
        A heat map.
    """
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    texts = [[f"{s:.0%}\n{n}" for s, n in zip(*row, strict=True)] for row in zip(share, matrix, strict=True)]
    side = 1.9 + 0.62 * len(labels)
    figure, (ax,) = picture(height=side * 0.88, width=min(8.0, side + 0.9), alt=f"Confusion matrix {title}".strip())
    frame = pd.DataFrame(share, index=list(labels), columns=list(labels))
    bar = {"label": "share of the true label", "aspect": 25, "pad": 0.02}
    style = {"cmap": "Blues", "vmin": 0, "vmax": 1, "linewidths": 1, "annot_kws": {"size": 8}}
    sns.heatmap(frame, annot=np.array(texts), fmt="", cbar_kws=bar, ax=ax, **style)
    ax.set(xlabel="predicted label", ylabel="true label", title=plain(title, 70))
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=30 if max(map(len, labels), default=0) > 8 or len(labels) > 7 else 0)
    return figure


def calibration(bins: pd.DataFrame) -> Figure:
    """Reliability diagram: accuracy against confidence, and how many clips there are.

    Parameters
    ----------
    bins : DataFrame
        Columns confidence, accuracy (both 0-1) and n (clips in the bin).

    Returns
    -------
    Figure
        The curve with its 95 % interval (Wilson), above the counts.
    """
    from scipy.stats import binomtest  # half a second that no other figure needs

    bins = bins[bins["n"] > 0]
    figure, (curve, count) = picture(
        2,
        1,
        height=4.3,
        width=5.0,
        sharex=True,
        height_ratios=(3, 1),
        alt="Accuracy against confidence",
    )
    curve.plot([0, 1], [0, 1], color="#9AA5B1", ls="--", lw=1, label="perfectly calibrated")
    curve.plot(bins["confidence"], bins["accuracy"], "o-", color=ACCENT, label="model")
    right = (bins["accuracy"] * bins["n"]).round().astype(int)
    ranges = [binomtest(k, n).proportion_ci(method="wilson") for k, n in zip(right, bins["n"], strict=True)]
    ends = [one.low for one in ranges], [one.high for one in ranges]
    curve.fill_between(bins["confidence"], *ends, color=ACCENT, alpha=0.15, lw=0, label="95 % interval (Wilson)")
    curve.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    curve.legend(loc="upper left")
    count.bar(bins["confidence"], bins["n"], width=0.05, color=ACCENT)
    count.set(xlabel="confidence (largest probability)", ylabel="clips")
    return figure


def refine_flow(given: Sequence[str | None], refined: Sequence[str | None], labels: Sequence[str]) -> Figure | Note:
    """Clips by given label (row) and refined label (column), kept ones grey.

    Parameters
    ----------
    given, refined : sequence of str or None (N,)
        None: no label was given, or the label was dropped.
    labels : sequence of str
        All labels, in order.

    Returns
    -------
    Figure or Note
        A note where there is no clip.
    """
    if not len(given):
        return Note("There is no clip to draw.")
    before = pd.Series(list(given), dtype=object).fillna(NO_LABEL)
    after = pd.Series(list(refined), dtype=object).fillna("dropped")
    rows = [*labels, *([NO_LABEL] if (before == NO_LABEL).any() else [])]
    columns = [*labels, *(["dropped"] if (after == "dropped").any() else [])]
    table = pd.crosstab(before, after).reindex(index=rows, columns=columns, fill_value=0)
    kept = np.array([[row in (column, NO_LABEL) for column in columns] for row in rows])
    figure, (ax,) = picture(height=1.2 + 0.4 * len(rows), width=7.2, alt="Given against refined labels")
    shown = table.astype(str).where(table > 0, "")
    grid = {"linewidths": 1, "linecolor": "white", "fmt": "", "ax": ax}
    sns.heatmap(table.where(kept), annot=shown, cmap=["#EEF1F4"], cbar=False, **grid)
    changed = table.mask(kept)
    top = max(8, changed.max().max())
    sns.heatmap(changed, annot=shown, cmap="Oranges", vmin=0, vmax=top, cbar=False, **grid)
    added = ", or added to an unlabelled clip" if NO_LABEL in rows else ""
    ax.set(xlabel=f"refined label (grey: kept{added})", ylabel="given label")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=30 if len(columns) > 8 else 0)
    return figure


def label_distributions(frame: pd.DataFrame, xlabel: str = "share of the answer") -> Figure | Note:
    """Distributions over labels as stacked bars.

    Parameters
    ----------
    frame : DataFrame (N, C)
        A row for each clip or sentence, whose name is the index; a column for each label.
    xlabel : str
        What the bars are made of.

    Returns
    -------
    Figure or Note
        A note where there is no row.
    """
    if frame.empty:
        return Note("There is no distribution to draw.")
    colours = emotion_colours(frame.columns)
    many = len(frame) > MANY_ROWS
    if many:
        first = frame.to_numpy(float).argmax(1)
        frame = frame.iloc[np.lexsort((-frame.max(axis=1), first))]
    figure, (ax,) = picture(height=4.2 if many else 1.0 + 0.28 * len(frame), alt="Label distribution of each row")
    left = np.zeros(len(frame))
    for label in frame.columns:
        values = frame[label].fillna(0).to_numpy(float)
        ax.barh(
            range(len(frame)),
            values,
            left=left,
            height=1.0 if many else 0.76,
            color=colours[label],
            label=str(label),
            lw=0,
        )
        left += values
    ax.set_yticks([] if many else range(len(frame)), [] if many else [plain(name, 52) for name in frame.index])
    ax.set(
        xlabel=xlabel,
        xlim=(0, 1),
        ylim=(len(frame) - 0.5, -0.5),
        ylabel=f"{len(frame)} rows, sorted" if many else "",
    )
    ax.grid(False)
    figure.legend(
        loc="outside upper center",
        ncols=min(6, len(frame.columns)),
        handlelength=1.0,
        columnspacing=1.2,
    )
    return figure


def class_f1(table: pd.DataFrame) -> Figure:
    """F1 of each label.

    Parameters
    ----------
    table : DataFrame
        Column f1, label as a column or index; optionally model (colour) and support (clips with this label).

    Returns
    -------
    Figure
        One bar for each label, and model where there are several.
    """
    table = table if "label" in table else table.rename_axis("label").reset_index()
    labels = list(dict.fromkeys(table["label"]))
    models = list(dict.fromkeys(table["model"])) if "model" in table else []
    figure, (ax,) = picture(height=0.95 + len(labels) * max(0.34, 0.15 * len(models)), alt="F1 of each label")
    if len(models) > 1:
        sns.barplot(table, y="label", x="f1", hue="model", palette="colorblind", saturation=1, ax=ax)
        sns.move_legend(ax, "center left", bbox_to_anchor=(1.0, 0.5), title="")
    else:
        sns.barplot(
            table,
            y="label",
            x="f1",
            hue="label",
            palette=emotion_colours(labels),
            legend=False,
            saturation=1,
            ax=ax,
        )
        for bars in ax.containers:
            ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    support = table.groupby("label")["support"].first() if "support" in table else None
    names = [f"{label} ({support[label]:.0f})" if support is not None else label for label in labels]
    ax.set_yticks(range(len(labels)), names)
    ax.set(
        xlabel="F1" + (" (in brackets: clips with this label)" if support is not None else ""),
        ylabel="",
        xlim=(0, 1.06),
    )
    ax.grid(axis="y", visible=False)
    return figure


# ---- figures of what is lost when branches are missing or noisy; notebooks call them through `plots`


PANELS = 5  # side by side
UNTESTED = "There are no labelled test clips."


def subsets(table: pd.DataFrame) -> Figure | Note:
    """Score of every subset of branches.

    Parameters
    ----------
    table : DataFrame
        Columns branches (joined by +), weighted_f1, low, high.

    Returns
    -------
    Figure or Note
        A note where the table is empty: there are no labelled test clips.
    """
    if table.empty:
        return Note(UNTESTED)
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


def noise(table: pd.DataFrame, kept: pd.DataFrame) -> Figure | Note:
    """Score against noise on one branch, a panel each.

    Parameters
    ----------
    table : DataFrame
        Columns branch, noise (standard deviations), weighted_f1, low, high.
    kept : DataFrame
        What `subsets` takes; the score with the branch hidden is dashed.

    Returns
    -------
    Figure or Note
        A note where the table is empty: there are no labelled test clips.
    """
    if table.empty:
        return Note(UNTESTED)
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


def official_curves(curves: pd.DataFrame) -> Figure | Note:
    """Weighted F1 of each held-out fold of the official protocol, epoch by epoch, with its best epoch.

    Parameters
    ----------
    curves : DataFrame
        Columns fold (from 0), epoch (from 1) and weighted_f1.

    Returns
    -------
    Figure or Note
        A note where the table is empty: the protocol was not run.
    """
    if curves.empty:
        return Note("There is no curve: the protocol was not run.")
    figure, (ax,) = picture(height=3.2, alt="Weighted F1 of each held-out fold by epoch")
    folds = list(curves["fold"].unique())
    for fold, colour in zip(folds, sns.color_palette("colorblind", len(folds)).as_hex(), strict=True):
        curve = curves[curves["fold"] == fold]
        best = curve.loc[curve["weighted_f1"].idxmax()]
        ax.plot(curve["epoch"], curve["weighted_f1"], color=colour, lw=1.2, label=f"fold {fold}")
        ax.plot(best["epoch"], best["weighted_f1"], "o", ms=6, color=colour)
    ax.set(xlabel="epoch (dot: the epoch that is reported)", ylabel="weighted F1 (held-out fold)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
