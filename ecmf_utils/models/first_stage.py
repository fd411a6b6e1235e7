"""What each branch says alone, in closed form: principal axes, a ridge regression as its head, and out-of-fold logits.

A branch has a thousand dimensions, but far fewer of them matter. This stage keeps the principal axes of a branch
(Hotelling 1933), as many as let a ridge regression (Hoerl and Kennard 1970) predict best in group folds. The fusion
network then reads these few numbers and what the ridge regression, the head of the branch, says. Everything here is
an eigendecomposition or a small system of linear equations, so it takes no epochs and no learning rate.

On the rows that it was trained on a head is far too sure, and the network could not learn which branch to trust.
So the network learns from out-of-fold logits, those of heads that have not seen the row (stacking, Wolpert 1992).

Shapes: n training rows that have the branch, D dimensions of the branch, K principal axes, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from .linear import Scaler, ensure_two_folds, group_folds, softmax_regression

AXES = (8, 16, 32, 64, 128, 256, 512)  # numbers of principal axes to choose from
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # penalties to choose from, each times the number of rows
CALIBRATION_STRENGTH = 100.0  # inverse penalty of the small regression that turns ridge outputs into logits
HEAD_ARRAYS = ("axes", "coef", "intercept")
CHUNK_ROWS = 4096  # rows that are standardised at a time: bounds the memory and changes nothing else


class Choice(NamedTuple):
    """What was chosen for a branch: the number of principal axes, and the ridge penalty per row."""

    axes: int
    ridge: float


@dataclass
class BranchHead:
    """The principal axes and the head of one branch.

    Attributes
    ----------
    axes : float32 array (D, K)
        Standardised rows (N, D) times `axes` are the numbers (N, K) that the network reads: principal components, in
        units of the standard deviation of the first one.
    coef, intercept : float32 arrays (K, C), (C,)
        From those numbers to logits.
    """

    axes: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray


class FirstStage:
    """Principal axes and a head for every branch.

    Parameters
    ----------
    branches : list of str
        Names, in order.
    components : int
        Most principal axes of a branch.
    n_folds : int
        Group folds that choose axes and penalty, and that give the out-of-fold logits.

    Attributes
    ----------
    heads_ : dict of BranchHead
        By branch.
    chosen_ : dict of Choice
        By branch; empty after `from_arrays`.
    """

    def __init__(self, branches: list[str], components: int = 256, n_folds: int = 3) -> None:
        self.branches, self.components, self.n_folds = list(branches), components, n_folds
        self.heads_: dict[str, BranchHead] = {}
        self.chosen_: dict[str, Choice] = {}

    @property
    def n_parameters(self) -> int:
        """How many numbers the heads have learned from labels."""
        return sum(head.coef.size + head.intercept.size for head in self.heads_.values())

    @property
    def dims(self) -> dict[str, int]:
        """How many numbers K the network gets of each branch."""
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
        """Choose axes and solve a head for every branch.

        Parameters
        ----------
        features : Features
            Of all clips.
        scaler : Scaler
            Fitted on the training clips.
        rows : int array (n,)
            Positions of the training clips.
        targets, weights, groups : arrays (n, C), (n,), (n,)
            Label distribution, weight, and speaker or source of the training clips.
        seed : int
            Of the folds.

        Returns
        -------
        float32 array (n, B, C)
            Out-of-fold logits: of heads that saw nothing of the row's group, or of the row alone where a single group
            has the branch. 0 where the branch is absent.
        """
        folds = group_folds(targets.argmax(1), groups, self.n_folds, seed)
        oof_logits = np.zeros((len(rows), len(self.branches), targets.shape[1]), np.float32)
        for i, branch in enumerate(self.branches):
            present = np.flatnonzero(features.present[branch][rows])  # positions in `rows`
            x = scaler.apply_branch(features, branch, rows[present]).astype(np.float64)
            own_folds = ensure_two_folds(folds[present], targets[present].argmax(1), self.n_folds, seed)
            self.heads_[branch], oof_logits[present, i], self.chosen_[branch] = _fit_head(
                x, targets[present], weights[present], own_folds, self.components
            )
        return oof_logits

    def apply(self, features, scaler: Scaler) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What the network reads of N clips.

        Returns
        -------
        dict of float32 array (N, K)
            The principal components of each branch, 0 where it is absent.
        float32 array (N, B, C)
            Logits of the heads, 0 where the branch is absent.
        """
        n = len(features.clip_ids)
        x = {branch: np.zeros((n, dim), np.float32) for branch, dim in self.dims.items()}
        for branch, head in self.heads_.items():
            for start in range(0, n, CHUNK_ROWS):
                rows = np.arange(start, min(start + CHUNK_ROWS, n))
                x[branch][rows] = scaler.apply_branch(features, branch, rows) @ head.axes
        logits = [
            (x[branch] @ head.coef + head.intercept) * features.present[branch][:, None]
            for branch, head in self.heads_.items()
        ]
        return x, np.stack(logits, axis=1).astype(np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays under flat names, for a checkpoint."""
        return {f"{name}/{branch}": getattr(head, name) for branch, head in self.heads_.items() for name in HEAD_ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], branches: list[str]) -> FirstStage:
        """The stage whose `to_arrays()` were saved."""
        stage = cls(branches)
        stage.heads_ = {b: BranchHead(*(arrays[f"{name}/{b}"] for name in HEAD_ARRAYS)) for b in branches}
        return stage


def _fit_head(
    x: np.ndarray, targets: np.ndarray, weights: np.ndarray, folds: np.ndarray, most_axes: int
) -> tuple[BranchHead, np.ndarray, Choice]:
    """The head of one branch from its standardised rows (n, D), its out-of-fold logits (n, C), and what was chosen."""
    n_classes = targets.shape[1]
    if len(np.unique(folds)) < 2:  # nothing can be held out: the branch gives a single 0, and its head says nothing
        silent = BranchHead(
            np.zeros((x.shape[1], 1), np.float32),
            np.zeros((1, n_classes), np.float32),
            np.zeros(n_classes, np.float32),
        )
        return silent, np.zeros((len(x), n_classes)), Choice(1, 1.0)

    # Principal components, each of variance 1, after a column of ones for the intercept.
    axes, variances = find_principal_axes(x, min(most_axes, max(AXES)))
    z = np.hstack([np.ones((len(x), 1)), x @ axes])  # (n, 1 + K)

    # Normal equations are sums over rows. Those of all folds but one are the whole minus the part of that fold,
    # so that every choice below costs one small solve for each fold and no further pass over the rows.
    whole = _make_normal_equations(z, targets, weights)
    splits = []
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        part = _make_normal_equations(z[held_out], targets[held_out], weights[held_out])
        splits.append((held_out, z[held_out], [a - b for a, b in zip(whole, part, strict=True)]))

    # Choose the number of axes and the penalty by the squared error of the held-out rows. The axes themselves are of
    # all rows, which leaks no label: they are found without labels.
    sizes = sorted({min(size, axes.shape[1]) for size in AXES})
    choices = [Choice(size, ridge) for size in sizes for ridge in RIDGES]
    least, choice, output = np.inf, choices[0], np.tile(targets.mean(0), (len(x), 1))
    for candidate in choices:
        predicted = np.empty_like(targets, dtype=np.float64)
        for held_out, z_held_out, rest in splits:
            predicted[held_out] = z_held_out[:, : candidate.axes + 1] @ _solve_ridge(*rest, variances, candidate)
        loss = float((weights[:, None] * (targets - predicted) ** 2).sum())
        if loss < least:
            least, choice, output = loss, candidate, predicted

    # Ridge outputs are no logits. A softmax regression with C inputs, fitted to the out-of-fold outputs, makes them
    # logits that are as sure as the head is right (as Platt 1999 does for support vector machines).
    calibration = softmax_regression(output, targets, weights, CALIBRATION_STRENGTH)

    # The head that is kept is solved on all rows. The network must not take small axes for as loud as the first, so
    # components get their relative size back, and the coefficients are divided by it.
    table = _solve_ridge(*whole, variances, choice)  # (1 + K, C)
    size = np.sqrt(variances[: choice.axes] / variances[0])
    coef = (table[1:] @ calibration.coef / size[:, None]).astype(np.float32)
    intercept = (table[0] @ calibration.coef + calibration.intercept).astype(np.float32)
    # In another memory order matrix products would end in other bits.
    sized_axes = np.ascontiguousarray(axes[:, : choice.axes] * size, dtype=np.float32)
    return BranchHead(sized_axes, coef, intercept), calibration.logits(output), choice


def find_principal_axes(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The axes along which rows vary most (principal component analysis, Hotelling 1933).

    Parameters
    ----------
    x : float array (N, D)
        Standardised rows; the mean of every column is taken as 0.
    most : int
        Most axes; fewer are found where the rows span fewer.

    Returns
    -------
    float array (D, K)
        Axes, the largest variance first; `x @ axes` has variance 1 in every column.
    float array (K,)
        Variance of the rows along each axis of length one.
    """
    n, dim = x.shape
    if dim <= n:
        values, vectors = eigh(x.T @ x, subset_by_index=[max(0, dim - most), dim - 1])
    else:  # the Gram matrix has the same eigenvalues and is smaller
        values, vectors = eigh(x @ x.T, subset_by_index=[max(0, n - most), n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], 1e-12) * 1e-6  # smaller eigenvalues are rounding errors
    values, vectors = values[kept], vectors[:, kept]
    if not kept.any():
        return np.zeros((dim, 1)), np.ones(1)
    if dim > n:
        vectors = x.T @ (vectors / np.sqrt(values))  # from the space of the rows back to that of the dimensions
    # The solver may give an axis or its opposite, and processors differ in that. Take the one whose large entries
    # are positive.
    vectors = np.where((vectors**3).sum(0) < 0, -vectors, vectors)
    return vectors / np.sqrt(values / n), values / n


def _make_normal_equations(z: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Both sides of the normal equations of weighted least squares, (1 + K, 1 + K) and (1 + K, C)."""
    weighted = z * weights[:, None]
    return [weighted.T @ z, weighted.T @ targets]


def _solve_ridge(left: np.ndarray, right: np.ndarray, variances: np.ndarray, choice: Choice) -> np.ndarray:
    """Intercept and coefficients (1 + axes, C) of a ridge regression on the first axes.

    The penalty is on the coefficients of the standardised dimensions. On an axis of variance v the components were
    divided by the root of v, so there it is the penalty divided by v.
    """
    k = choice.axes + 1
    penalised = left[:k, :k].copy()
    diagonal = np.arange(1, k)  # without the intercept, which is not shrunk
    penalised[diagonal, diagonal] += choice.ridge * max(left[0, 0], 1e-9) / variances[: choice.axes]
    return np.linalg.solve(penalised, right[:k])
