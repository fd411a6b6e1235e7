"""What each branch says alone, in closed form: principal axes, a ridge head, and honest logits to fuse.

A branch of a thousand dimensions holds far fewer that matter. Its principal axes (Hotelling 1933) are
cut where a ridge regression on them predicts best in group folds; the network fuses those few
numbers and what the head says, not the thousand. On their own training rows heads look far too sure for a
fusion to learn whom to trust, so it learns from out-of-fold logits (stacking, Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from .linear import Scaler, by_clip_in_one, group_folds, softmax_regression

AXES = (8, 16, 32, 64, 128, 256, 512)  # numbers of principal axes tried
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # penalties tried, as a share of the number of rows
CALIBRATION = 100.0  # strength of the small regression that turns ridge outputs into logits
PARTS = ("axes", "coef", "intercept")
ROWS = 4096  # standardised at a time: bounds the memory, changes nothing else


class Choice(NamedTuple):
    """What was chosen for a branch: number of axes, ridge penalty."""

    axes: int
    ridge: float


@dataclass
class BranchHead:
    """A branch after the first stage.

    Attributes
    ----------
    axes : (D, K)
        Standardised rows times this are K principal components, in units of the first one's deviation.
    coef, intercept : (K, C), (C,)
        Those numbers to logits.
    """

    axes: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray


class FirstStage:
    """Axes and a head for every branch.

    Parameters
    ----------
    branches : list of str
    components : int
        Most axes of a branch.
    n_folds : int
        Group folds of the choice and of the honest logits.
    """

    def __init__(self, branches: list[str], components: int = 256, n_folds: int = 3) -> None:
        self.branches, self.components, self.n_folds = list(branches), components, n_folds
        self.heads_: dict[str, BranchHead] = {}
        self.chosen_: dict[str, Choice] = {}

    @property
    def n_parameters(self) -> int:
        """Numbers that the heads have learned from labels."""
        return sum(head.coef.size + head.intercept.size for head in self.heads_.values())

    @property
    def dims(self) -> dict[str, int]:
        """Numbers that each branch gives to the network."""
        return {branch: head.axes.shape[1] for branch, head in self.heads_.items()}

    def fit(
        self,
        features,
        scaler: Scaler,
        rows: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        groups: np.ndarray,
        seed: int,
    ) -> np.ndarray:
        """Learn from the given rows.

        Parameters
        ----------
        rows : int array (n,)
            Positions of the training clips; `targets` (n, C), `weights` (n,) and `groups` (n,) are theirs.

        Returns
        -------
        float32 array (n, B, C)
            Logits of every row from heads that saw nothing of its group (of its clip, where a single group has
            the branch); 0 where the branch is absent.
        """
        folds = group_folds(targets.argmax(1), groups, self.n_folds, seed)
        honest = np.zeros((len(rows), len(self.branches), targets.shape[1]), np.float32)
        for i, branch in enumerate(self.branches):
            there = np.flatnonzero(features.present[branch][rows])
            x = scaler.apply_branch(features, branch, rows[there]).astype(np.float64)
            own = by_clip_in_one(folds[there], targets[there].argmax(1), self.n_folds, seed)
            data = (x, targets[there], weights[there], own)
            found, logits, self.chosen_[branch] = _head(*data, self.components)
            self.heads_[branch] = found
            honest[there, i] = logits
        return honest

    def apply(self, features, scaler: Scaler) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Numbers (N, K) of every branch, 0 where it is absent, and logits (N, B, C)."""
        n = len(features.clip_ids)
        x = {branch: np.zeros((n, dim), np.float32) for branch, dim in self.dims.items()}
        for branch, head in self.heads_.items():
            for start in range(0, n, ROWS):
                rows = np.arange(start, min(start + ROWS, n))
                x[branch][rows] = scaler.apply_branch(features, branch, rows) @ head.axes
        logits = [(x[b] @ h.coef + h.intercept) * features.present[b][:, None] for b, h in self.heads_.items()]
        return x, np.stack(logits, axis=1).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Flat names to arrays, for a checkpoint."""
        return {f"{part}/{b}": getattr(head, part) for b, head in self.heads_.items() for part in PARTS}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> FirstStage:
        """The stage whose `arrays()` were saved."""
        self.heads_ = {b: BranchHead(*(arrays[f"{part}/{b}"] for part in PARTS)) for b in self.branches}
        return self


def _head(
    x: np.ndarray, targets: np.ndarray, weights: np.ndarray, folds: np.ndarray, most: int
) -> tuple[BranchHead, np.ndarray, Choice]:
    n_classes = targets.shape[1]
    if len(np.unique(folds)) < 2:  # nothing can be held out: the branch says nothing
        return (
            BranchHead(
                np.zeros((x.shape[1], 1), np.float32),
                np.zeros((1, n_classes), np.float32),
                np.zeros(n_classes, np.float32),
            ),
            np.zeros((len(x), n_classes)),
            Choice(1, 1.0),
        )
    axes, values = principal_axes(x, min(most, max(AXES)))
    z = np.hstack([np.ones((len(x), 1)), x @ axes])
    whole = _normal(z, targets, weights)
    parts = []
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        own = _normal(z[held], targets[held], weights[held])
        parts.append((held, z[held], [a - b for a, b in zip(whole, own, strict=True)]))
    sizes = sorted({min(k, axes.shape[1]) for k in AXES})
    tried = [Choice(k, ridge) for k in sizes for ridge in RIDGES]
    best = (np.inf, tried[0], np.tile(targets.mean(0), (len(x), 1)))
    for choice in tried:
        out = np.empty_like(targets, dtype=np.float64)
        for held, rows, rest in parts:
            out[held] = rows[:, : choice.axes + 1] @ _ridge(*rest, values, choice)
        loss = float((weights[:, None] * (targets - out) ** 2).sum())
        if loss < best[0]:
            best = (loss, choice, out)
    choice, out = best[1:]
    calibrated = softmax_regression(out, targets, weights, CALIBRATION)
    table = _ridge(*whole, values, choice)
    size = np.sqrt(values[: choice.axes] / values[0])  # a network must not take small axes for as loud as the first
    coef = (table[1:] @ calibrated.coef / size[:, None]).astype(np.float32)
    intercept = (table[0] @ calibrated.coef + calibrated.intercept).astype(np.float32)
    # contiguous: in another order sums end in other bits
    used_axes = np.ascontiguousarray(axes[:, : choice.axes] * size, dtype=np.float32)
    return BranchHead(used_axes, coef, intercept), calibrated.logits(out), choice


def principal_axes(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Axes (D, K) of the most variance of rows (N, D), and the variances (K,); x @ axes has unit variance.

    An axis points where its few large entries do: left to the solver, signs would differ between processors.
    """
    n, dim = x.shape
    if dim <= n:
        values, vectors = eigh(x.T @ x, subset_by_index=[max(0, dim - most), dim - 1])
    else:  # in the space that the rows span
        values, vectors = eigh(x @ x.T, subset_by_index=[max(0, n - most), n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], 1e-12) * 1e-6
    values, vectors = values[kept], vectors[:, kept]
    if not kept.any():
        return np.zeros((dim, 1)), np.ones(1)
    if dim > n:
        vectors = x.T @ (vectors / np.sqrt(values))
    vectors = np.where((vectors**3).sum(0) < 0, -vectors, vectors)
    return vectors / np.sqrt(values / n), values / n


def _normal(z: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Both sides of the normal equations."""
    weighted = z * weights[:, None]
    return [weighted.T @ z, weighted.T @ targets]


def _ridge(left: np.ndarray, right: np.ndarray, values: np.ndarray, choice: Choice) -> np.ndarray:
    """Intercept and coefficients; the penalty is on those of the standardised dimensions."""
    k = choice.axes + 1
    a = left[:k, :k].copy()
    inner = np.arange(1, k)  # the intercept is not shrunk
    a[inner, inner] += choice.ridge * max(left[0, 0], 1e-9) / values[: choice.axes]
    return np.linalg.solve(a, right[:k])
