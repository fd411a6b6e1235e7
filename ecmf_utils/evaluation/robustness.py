"""What a trained model does when branches are missing or noisy at test time; nothing is trained again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import metrics, training
from ecmf_utils.features import Features, take_clips
from ecmf_utils.files import data_dir
from ecmf_utils.notebook import Note
from ecmf_utils.training import cross_validation
from ecmf_utils.training.problem import Problem

from . import differences

NOISE = (0.5, 1.0, 2.0)  # standard deviations of a dimension


@dataclass(frozen=True)
class Robustness:
    """What `report_robustness` returns; all tables are empty, or notes, where no test clip has a label.

    Attributes
    ----------
    subsets, noise : DataFrame
        Of `score_subsets` and `score_noise`, for the figures.
    subset_losses, noise_losses : DataFrame or Note
        The same rounded: score, loss against all branches without noise, intervals, p.
    by_number : DataFrame or Note
        Count, least, mean and largest score by the number of branches left.
    """

    subsets: pd.DataFrame
    noise: pd.DataFrame
    subset_losses: pd.DataFrame | Note
    noise_losses: pd.DataFrame | Note
    by_number: pd.DataFrame | Note


def report_robustness(profile: str, problem: Problem, seed: int = 0) -> Robustness:
    """Test notebook 50's ECMF with branches missing and with noise on a branch; nothing is trained again.

    Parameters
    ----------
    profile : str
        Whose run to test.
    problem : Problem
        What the run has learned from, of `training.load_finished`; its labelled test clips are predicted.
    seed : int
        Of the noise.

    Returns
    -------
    Robustness
        Tables to show and to draw.

    Raises
    ------
    EcmfError
        The run is not there, or was trained by other code than there is now.
    """
    labelled = problem.test_y >= 0
    if not labelled.any():
        empty, note = pd.DataFrame(), Note("There are no labelled test clips.")
        return Robustness(empty, empty, note, note, note)
    clips, y = take_clips(problem.test, labelled), problem.test_y[labelled]
    groups, _ = training.cluster_clips(problem.clips, clips.clip_ids)
    models = cross_validation.load_run(data_dir(profile) / "runs" / metrics.OURS)
    subsets, noise = score_subsets(models, clips, y, groups), score_noise(models, clips, y, groups, seed)
    by_number = subsets.groupby("kept")["weighted_f1"].agg(["count", "min", "mean", "max"])
    return Robustness(
        subsets,
        noise,
        subset_losses=_rounded(subsets.set_index("branches")),
        noise_losses=_rounded(noise[noise["noise"] > 0].set_index(["branch", "noise"])),
        by_number=by_number.sort_index(ascending=False).rename_axis("branches left").round(2),
    )


def _rounded(scores: pd.DataFrame) -> pd.DataFrame:
    losses = ["weighted_f1", "low", "high", "loss", "loss low", "loss high", "p (Holm)"]
    return scores[losses].round(3).add(0.0)  # no -0.0


def list_subsets(branches: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the largest first: 31 of five branches."""
    sizes = range(len(branches), 0, -1)
    return [some for size in sizes for some in itertools.combinations(branches, size)]


def add_noise(features: Features, branch: str, amount: float, seed: int = 0) -> Features:
    """A branch with Gaussian noise of so many standard deviations of each dimension."""
    x, there = features.x[branch], features.present[branch]
    spread = x[there].std(0) if there.any() else np.ones(x.shape[1:], x.dtype)
    drawn = np.random.default_rng(seed).standard_normal(x.shape) * amount * spread
    return replace(features, x=features.x | {branch: np.where(there[:, None], x + drawn, x).astype(x.dtype)})


def score_subsets(
    estimators: Sequence[Any], features: Features, y: np.ndarray, clusters: np.ndarray | None = None
) -> pd.DataFrame:
    """Weighted F1 with every subset of the branches left, a row each.

    Parameters
    ----------
    estimators : sequence
        Fitted models; their mean probability counts.
    y, clusters : (N,)
        Labels; groups for the intervals.

    Returns
    -------
    DataFrame
        branches (joined by +), kept (number), weighted_f1, low, high; and `loss` against all branches with `loss low`,
        `loss high` and `p (Holm)`, over all rows but that of all branches, see `differences.differences`.
    """
    branches = list(features.x)
    kept = list_subsets(branches)
    gone = [[branch for branch in branches if branch not in some] for some in kept]
    probas = [training.predict_without(estimators, features, without) for without in gone]
    rows = [{"branches": "+".join(some), "kept": len(some)} for some in kept]
    return _scored(rows, probas, y, probas[0], clusters)


def score_noise(
    estimators: Sequence[Any], features: Features, y: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0
) -> pd.DataFrame:
    """Weighted F1 with noise on one branch: branch, noise (0: none), and what `score_subsets` has of each row."""
    rows = [{"branch": branch, "noise": amount} for branch in features.x for amount in (0.0, *NOISE)]
    whole = cross_validation.predict_mean(estimators, features)[0]
    probas = [
        cross_validation.predict_mean(estimators, add_noise(features, row["branch"], row["noise"], seed))[0]
        if row["noise"]
        else whole
        for row in rows
    ]
    return _scored(rows, probas, y, whole, clusters)


def _scored(
    rows: Sequence[dict[str, Any]],
    probas: Sequence[np.ndarray],
    y: np.ndarray,
    whole: np.ndarray,
    clusters: np.ndarray | None,
) -> pd.DataFrame:
    """The rows with their scores, and with what they lose where they are not `whole` itself."""
    table = pd.DataFrame(rows)
    table["weighted_f1"] = [metrics.weighted_f1(y, proba) for proba in probas]
    undisturbed = metrics.bootstrap_ci(y, whole, clusters).ci  # once: the noise has a row of it for each branch
    intervals = [undisturbed if p is whole else metrics.bootstrap_ci(y, p, clusters).ci for p in probas]
    table = table.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])
    others = {i: proba for i, proba in enumerate(probas) if proba is not whole}
    lost = differences.differences(y, whole, others, clusters)
    lost = lost.rename(columns={"difference": "loss", "low": "loss low", "high": "loss high"})
    return table.join(lost[["loss", "loss low", "loss high", "p (Holm)"]])
