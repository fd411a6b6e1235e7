"""Models without a network: the majority, logistic regression, late fusion and stacking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from .checkpoints import read_model, write_model
from .classifier import check_rows
from .linear import Scaler, Softmax, out_of_fold, softmax_regression

SEARCH_FOLDS = 3  # inner group folds that choose the strength of a logistic regression


class Majority:
    """The distribution of the training labels, whatever the clip."""

    def __init__(self, dims: dict[str, int], n_classes: int) -> None:
        self.n_classes, self.n_parameters = n_classes, n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> Majority:
        self.prior_ = _prior(*check_rows(features, targets, weights))
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        return np.tile(self.prior_, (len(features.clip_ids), 1)), None

    def save(self, folder: Path) -> None:
        write_model(folder, {"prior": self.prior_}, self.recipe, {})

    def load(self, folder: Path) -> Majority:
        self.prior_ = read_model(folder, self.recipe)[0]["prior"]
        return self


class LogisticRegression:
    """One softmax regression on all branches side by side, with an indicator of each absent branch.

    strength : scikit-learn's `C`; chosen by cross-entropy in inner group folds when not given.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims) + 1) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> LogisticRegression:
        targets, weights = check_rows(features, targets, weights)
        used = np.flatnonzero(weights > 0)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        rows = (self._matrix(features)[used], targets[used], weights[used])
        self.model_, self.strength_ = _regression(*rows, np.asarray(groups)[used], self.strength)
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        return self.model_.predict(self._matrix(features)), None

    def save(self, folder: Path) -> None:
        arrays = {"coef": self.model_.coef, "intercept": self.model_.intercept}
        write_model(folder, arrays | self.scaler_.arrays(), self.recipe, {"strength": self.strength_})

    def load(self, folder: Path) -> LogisticRegression:
        arrays, info = read_model(folder, self.recipe)
        self.model_, self.strength_ = Softmax(arrays["coef"], arrays["intercept"]), info["strength"]
        self.scaler_ = Scaler.restore(arrays, list(self.dims))
        return self

    def _matrix(self, features) -> np.ndarray:
        absent = [~np.asarray(features.present[branch], bool)[:, None] for branch in self.dims]
        return np.hstack([*self.scaler_.apply(features).values(), *absent]).astype(np.float32)


class LateFusion:
    """A softmax regression per branch; the mean probability of the branches a clip has."""

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims)) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> LateFusion:
        targets, weights = check_rows(features, targets, weights)
        used, groups = np.flatnonzero(weights > 0), np.asarray(groups)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        self.prior_, self.models_ = _prior(targets, weights), {}
        for branch, x in self.scaler_.apply(features).items():
            rows = used[features.present[branch][used]]
            if len(rows):
                self.models_[branch] = _regression(x[rows], targets[rows], weights[rows], groups[rows], self.strength)[
                    0
                ]
        return self

    def predict(self, features) -> tuple[np.ndarray, np.ndarray]:
        x, known = self.scaler_.apply(features), np.zeros((len(features.clip_ids), len(self.dims)))
        proba = np.zeros((len(known), len(self.prior_)))
        for i, branch in enumerate(self.dims):
            if branch in self.models_:
                known[:, i] = features.present[branch]
                proba += known[:, [i]] * self.models_[branch].predict(x[branch])
        count = known.sum(1, keepdims=True)
        proba = np.where(count > 0, proba / np.maximum(count, 1), self.prior_)
        return proba, known / np.maximum(count, 1)

    def save(self, folder: Path) -> None:
        arrays = _stored(self.models_) | self.scaler_.arrays() | {"prior": self.prior_}
        write_model(folder, arrays, self.recipe, {})

    def load(self, folder: Path) -> LateFusion:
        arrays, _ = read_model(folder, self.recipe)
        self.scaler_, self.prior_ = Scaler.restore(arrays, list(self.dims)), arrays["prior"]
        self.models_ = _restored(arrays, self.dims)
        return self


class StackedFusion:
    """Stacked late fusion: a softmax regression on what one regression a branch says (Wolpert 1992).

    It learns from out-of-fold log-probabilities of the branch models, since on their own training rows
    they look far too sure. An absent branch says the training prior.

    strength : scikit-learn's `C`, of all regressions; chosen in inner group folds when not given.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, strength: float | None = None) -> None:
        self.dims, self.strength = dict(dims), strength
        self.n_parameters = (sum(dims.values()) + len(dims) + len(dims) * n_classes + 1) * n_classes
        self.history_: list[dict[str, float]] = []

    def fit(self, features, targets, weights, groups, seed: int = 0) -> StackedFusion:
        targets, weights = check_rows(features, targets, weights)
        used, groups = np.flatnonzero(weights > 0), np.asarray(groups, dtype=object).astype(str)
        self.scaler_ = Scaler().fit(features, used, list(self.dims))
        self.prior_, self.models_ = _prior(targets, weights), {}
        said = self._nothing(len(used))
        for i, (branch, x) in enumerate(self.scaler_.apply(features).items()):
            there = np.flatnonzero(features.present[branch][used])
            if len(there):
                data = (x[used[there]], targets[used[there]], weights[used[there]])
                logits, strength = out_of_fold(*data, groups[used[there]], SEARCH_FOLDS, seed, self.strength)
                said[there, i] = log_softmax(logits, axis=1)
                self.models_[branch] = softmax_regression(*data, strength)
        data = (said.reshape(len(used), -1), targets[used], weights[used])
        self.top_ = _regression(*data, groups[used], self.strength)[0]
        return self

    def predict(self, features) -> tuple[np.ndarray, None]:
        said = self._nothing(len(features.clip_ids))
        x = self.scaler_.apply(features)
        for i, branch in enumerate(self.dims):
            there = np.flatnonzero(features.present[branch])
            if branch in self.models_ and len(there):
                said[there, i] = log_softmax(self.models_[branch].logits(x[branch][there]), axis=1)
        return self.top_.predict(said.reshape(len(said), -1)), None

    def save(self, folder: Path) -> None:
        arrays = _stored(self.models_ | {"": self.top_}) | self.scaler_.arrays() | {"prior": self.prior_}
        write_model(folder, arrays, self.recipe, {})

    def load(self, folder: Path) -> StackedFusion:
        arrays, _ = read_model(folder, self.recipe)
        self.scaler_, self.prior_ = Scaler.restore(arrays, list(self.dims)), arrays["prior"]
        self.models_ = _restored(arrays, ["", *self.dims])
        self.top_ = self.models_.pop("")
        return self

    def _nothing(self, n: int) -> np.ndarray:
        """What is said where no branch is there, (N, B, C)."""
        return np.tile(np.log(np.maximum(self.prior_, 1e-6)), (n, len(self.dims), 1))


def _regression(x, targets, weights, groups, strength: float | None) -> tuple[Softmax, float]:
    if strength is None:
        strength = out_of_fold(x, targets, weights, groups, SEARCH_FOLDS)[1]
    return softmax_regression(x, targets, weights, strength), strength


def _prior(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (weights @ targets / weights.sum()).astype(np.float64)


def _stored(models: dict[str, Softmax]) -> dict[str, np.ndarray]:
    """Flat names to arrays, for a checkpoint."""
    arrays = {f"coef/{name}": model.coef for name, model in models.items()}
    return arrays | {f"intercept/{name}": model.intercept for name, model in models.items()}


def _restored(arrays: dict[str, np.ndarray], names: Iterable[str]) -> dict[str, Softmax]:
    """Those of the named models that `_stored` was given."""
    found = [name for name in names if f"coef/{name}" in arrays]
    return {name: Softmax(arrays[f"coef/{name}"], arrays[f"intercept/{name}"]) for name in found}
