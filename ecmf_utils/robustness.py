"""What a trained model does when branches are missing or noisy at test time; nothing is trained again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from . import metrics, training
from .features import Features

NOISE = (0.5, 1.0, 2.0)  # standard deviations of a dimension


def subsets(branches: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the largest first: 31 of five branches."""
    sizes = range(len(branches), 0, -1)
    return [some for size in sizes for some in itertools.combinations(branches, size)]


def noised(features: Features, branch: str, amount: float, seed: int = 0) -> Features:
    """A branch with Gaussian noise of so many standard deviations of each dimension."""
    x, there = features.x[branch], features.present[branch]
    spread = x[there].std(0) if there.any() else np.ones(x.shape[1:], x.dtype)
    drawn = np.random.default_rng(seed).standard_normal(x.shape) * amount * spread
    return replace(features, x=features.x | {branch: np.where(there[:, None], x + drawn, x).astype(x.dtype)})


def subset_table(
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
        branches (joined by +), kept (number), weighted_f1, low, high.
    """
    branches, rows = list(features.x), []
    for kept in subsets(branches):
        gone = [branch for branch in branches if branch not in kept]
        proba = training.predict_without(estimators, features, gone)
        rows.append({"branches": "+".join(kept), "kept": len(kept)} | _scored(y, proba, clusters))
    return pd.DataFrame(rows)


def noise_table(
    estimators: Sequence[Any], features: Features, y: np.ndarray, clusters: np.ndarray | None = None, seed: int = 0
) -> pd.DataFrame:
    """Weighted F1 with noise on one branch, columns branch, noise (0: none), weighted_f1, low, high."""
    whole = _scored(y, training.predict_mean(estimators, features)[0], clusters)
    rows = []
    for branch in features.x:
        rows.append({"branch": branch, "noise": 0.0} | whole)
        for amount in NOISE:
            proba = training.predict_mean(estimators, noised(features, branch, amount, seed))[0]
            rows.append({"branch": branch, "noise": amount} | _scored(y, proba, clusters))
    return pd.DataFrame(rows)


def _scored(y: np.ndarray, proba: np.ndarray, clusters: np.ndarray | None) -> dict[str, float]:
    interval = metrics.bootstrap_ci(y, proba, clusters, n=500).ci
    return {"weighted_f1": metrics.scores(y, proba)["weighted_f1"], "low": interval[0], "high": interval[1]}
