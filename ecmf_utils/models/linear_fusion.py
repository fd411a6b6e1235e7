"""Models without a network: the majority, logistic regression, late fusion and stacking.

Each is an estimator with the methods that `registry.make_model` describes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from .checkpoints import read_model, write_model
from .classifier import check_rows
from .linear import Scaler, SoftmaxRegression, out_of_fold, softmax_regression

SEARCH_FOLDS = 3  # inner group folds that choose the strength of a regression


class Majority:
    """The distribution of the training labels, whatever the clip."""

    def __init__(self, dims: dict[str, int], n_classes: int) -> None:
        self.n_parameters = n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> Majority:
        self.prior_ = _average_targets(*check_rows(features, targets, weights))
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        return np.tile(self.prior_, (len(features.clip_ids), 1)), None

    def save(self, folder: Path) -> None:
        write_model(folder, {"prior": self.prior_}, self.recipe, {})

    def load(self, folder: Path) -> Majority:
        self.prior_ = read_model(folder, self.recipe)[0]["prior"]
        return self


class LogisticRegression:
    """Early fusion: one softmax regression on all branches side by side, with an indicator of each absent branch.

    Parameters
    ----------
    strength : float, optional
        Inverse penalty, scikit-learn's `C`; without it, cross-entropy in inner group folds chooses one.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims) + 1) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> LogisticRegression:
        targets, weights = check_rows(features, targets, weights)
        used, groups = np.flatnonzero(weights > 0), np.asarray(groups)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        x = self._join_branches(features)[used]
        self.model_, self.strength_ = _fit_regression(x, targets[used], weights[used], groups[used], self.strength)
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        return self.model_.predict(self._join_branches(features)), None

    def save(self, folder: Path) -> None:
        arrays = {"coef": self.model_.coef, "intercept": self.model_.intercept}
        write_model(folder, arrays | self.scaler_.to_arrays(), self.recipe, {"strength": self.strength_})

    def load(self, folder: Path) -> LogisticRegression:
        arrays, info = read_model(folder, self.recipe)
        self.model_, self.strength_ = SoftmaxRegression(arrays["coef"], arrays["intercept"]), info["strength"]
        self.scaler_ = Scaler.from_arrays(arrays, list(self.dims))
        return self

    def _join_branches(self, features) -> np.ndarray:
        """Standardised branches and indicators of the absent ones, (N, sum of the dimensions + B)."""
        absent = [~np.asarray(features.present[branch], bool)[:, None] for branch in self.dims]
        return np.hstack([*self.scaler_.apply(features).values(), *absent]).astype(np.float32)


class LateFusion:
    """Late fusion: a softmax regression for each branch; the mean probability of the branches that a clip has.

    A clip without any branch gets the distribution of the training labels.

    Parameters
    ----------
    strength : float, optional
        As of `LogisticRegression`; without it, each branch chooses its own.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims)) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> LateFusion:
        targets, weights = check_rows(features, targets, weights)
        used, groups = np.flatnonzero(weights > 0), np.asarray(groups)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        self.prior_, self.models_ = _average_targets(targets, weights), {}
        for branch, x in self.scaler_.apply(features).items():
            rows = used[features.present[branch][used]]
            if len(rows):
                data = (x[rows], targets[rows], weights[rows], groups[rows])
                self.models_[branch], _ = _fit_regression(*data, self.strength)
        return self

    def predict(self, features) -> tuple[np.ndarray, np.ndarray]:
        x, counted = self.scaler_.apply(features), np.zeros((len(features.clip_ids), len(self.dims)))
        proba = np.zeros((len(counted), len(self.prior_)))
        for i, branch in enumerate(self.dims):
            if branch in self.models_:
                counted[:, i] = features.present[branch]
                proba += counted[:, [i]] * self.models_[branch].predict(x[branch])
        n_counted = counted.sum(1, keepdims=True)
        proba = np.where(n_counted > 0, proba / np.maximum(n_counted, 1), self.prior_)
        return proba, counted / np.maximum(n_counted, 1)

    def save(self, folder: Path) -> None:
        arrays = _to_arrays(self.models_) | self.scaler_.to_arrays() | {"prior": self.prior_}
        write_model(folder, arrays, self.recipe, {})

    def load(self, folder: Path) -> LateFusion:
        arrays, _ = read_model(folder, self.recipe)
        self.scaler_, self.prior_ = Scaler.from_arrays(arrays, list(self.dims)), arrays["prior"]
        self.models_ = _from_arrays(arrays, self.dims)
        return self


class StackedFusion:
    """Stacked late fusion: a softmax regression on what the regression of each branch says (Wolpert 1992).

    The upper regression learns from out-of-fold log-probabilities of the branch regressions, since these are far too
    sure on their own training rows. An absent branch says the distribution of the training labels.

    Parameters
    ----------
    strength : float, optional
        As of `LogisticRegression`, for all regressions; without it, each chooses its own.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims) + len(dims) * n_classes + 1) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> StackedFusion:
        targets, weights = check_rows(features, targets, weights)
        used, groups = np.flatnonzero(weights > 0), np.asarray(groups, dtype=object).astype(str)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        self.prior_, self.models_ = _average_targets(targets, weights), {}
        log_proba = self._repeat_prior(len(used))
        for i, (branch, x) in enumerate(self.scaler_.apply(features).items()):
            present = np.flatnonzero(features.present[branch][used])  # positions in `used`
            if len(present):
                rows = used[present]
                data = (x[rows], targets[rows], weights[rows])
                logits, strength = out_of_fold(*data, groups[rows], SEARCH_FOLDS, seed, self.strength)
                log_proba[present, i] = log_softmax(logits, axis=1)
                self.models_[branch] = softmax_regression(*data, strength)
        data = (log_proba.reshape(len(used), -1), targets[used], weights[used], groups[used])
        self.top_, _ = _fit_regression(*data, self.strength)
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        log_proba = self._repeat_prior(len(features.clip_ids))
        x = self.scaler_.apply(features)
        for i, branch in enumerate(self.dims):
            present = np.flatnonzero(features.present[branch])
            if branch in self.models_ and len(present):
                log_proba[present, i] = log_softmax(self.models_[branch].logits(x[branch][present]), axis=1)
        return self.top_.predict(log_proba.reshape(len(log_proba), -1)), None

    def save(self, folder: Path) -> None:
        arrays = _to_arrays(self.models_ | {"": self.top_}) | self.scaler_.to_arrays() | {"prior": self.prior_}
        write_model(folder, arrays, self.recipe, {})

    def load(self, folder: Path) -> StackedFusion:
        arrays, _ = read_model(folder, self.recipe)
        self.scaler_, self.prior_ = Scaler.from_arrays(arrays, list(self.dims)), arrays["prior"]
        self.models_ = _from_arrays(arrays, ["", *self.dims])
        self.top_ = self.models_.pop("")
        return self

    def _repeat_prior(self, n: int) -> np.ndarray:
        """Log-probabilities (n, B, C) of n clips that have no branch."""
        return np.tile(np.log(np.maximum(self.prior_, 1e-6)), (n, len(self.dims), 1))


def _fit_regression(x, targets, weights, groups, strength: float | None) -> tuple[SoftmaxRegression, float]:
    """A softmax regression, and its strength, which inner group folds choose where none is given."""
    if strength is None:
        strength = out_of_fold(x, targets, weights, groups, SEARCH_FOLDS)[1]
    return softmax_regression(x, targets, weights, strength), strength


def _average_targets(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of label distributions (N, C): (C,)."""
    return (weights @ targets / weights.sum()).astype(np.float64)


def _to_arrays(models: dict[str, SoftmaxRegression]) -> dict[str, np.ndarray]:
    """Arrays under flat names, for a checkpoint."""
    arrays = {f"coef/{name}": model.coef for name, model in models.items()}
    return arrays | {f"intercept/{name}": model.intercept for name, model in models.items()}


def _from_arrays(arrays: dict[str, np.ndarray], names: Iterable[str]) -> dict[str, SoftmaxRegression]:
    """The models that were given to `_to_arrays`; a name without a model is left out."""
    saved = [name for name in names if f"coef/{name}" in arrays]
    return {name: SoftmaxRegression(arrays[f"coef/{name}"], arrays[f"intercept/{name}"]) for name in saved}
