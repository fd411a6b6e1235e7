"""The models that ECMF is compared with, and the one door to all of them: `make_model`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax
from torch import nn

from . import networks, sequences
from .checkpoints import INFO, read_model, write_model
from .fusion import Ecmf
from .learner import TorchClassifier
from .linear import Scaler, Softmax, out_of_fold, softmax_regression
from .paths import EcmfError, read_json, show
from .rows import check_kinds, check_rows, check_settings, declared_settings

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


# rate, batch and epochs of the official toolkit, which has no schedule and picks the epoch on the held-out fold;
# with a patience of 8 instead of 20 TFN loses .05 and attention .015 on made-up vectors of five branches
FIELD: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-5, "batch_size": 32, "epochs": 100, "patience": 20}
# name: network, and the training settings that differ from the learner's defaults
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ecmf": (Ecmf, {"components": 256}),
    "concat": (networks.Concatenation, FIELD),
    "attention": (networks.OfficialAttention, FIELD),
    "lmf": (networks.LowRankFusion, FIELD),
    "tfn": (networks.TensorFusion, FIELD),
    "misa": (networks.Misa, FIELD),
    "mmim": (networks.InfoMax, FIELD),
    "experts": (networks.Experts, FIELD),
    "ef_lstm": (sequences.EarlyLstm, FIELD),
    "mfn": (sequences.MemoryFusion, FIELD),
    "graph_mfn": (sequences.GraphMemoryFusion, FIELD),
    "mult": (sequences.CrossModal, FIELD),
}
SEQUENTIAL = ("ef_lstm", "mfn", "graph_mfn", "mult")  # read frame-level sequences
LINEAR: dict[str, Callable[..., Any]] = {
    "majority": Majority, "logreg": LogisticRegression, "late": LateFusion, "stacked": StackedFusion,
}  # fmt: skip


def make_model(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Any:
    """An untrained model by name.

    Parameters
    ----------
    name : str
        majority, logreg, late, stacked; concat, attention (the official toolkit's), lmf, tfn, misa, mmim,
        experts; for frame-level sequences ef_lstm, mfn, graph_mfn, mult; ecmf.
    dims : dict
        Branch to number of dimensions, in order.
    **settings
        Of the model, and of a network also those of its training (see `TorchClassifier`).

    Returns
    -------
    estimator
        `fit(features, targets (N, C), weights (N,), groups (N,), seed)`, `predict(features)` ->
        (probabilities (N, C), branch weights (N, B) or None), `save(folder)`, `load(folder)`.

    Raises
    ------
    EcmfError
        An unknown model or setting (the known ones are listed), or a value of another kind.
    """
    if name not in NETWORKS and name not in LINEAR:
        known = ", ".join(sorted({**NETWORKS, **LINEAR}))
        raise EcmfError(f"unknown model {name!r}: expected one of {known}")
    if not dims:
        raise EcmfError(f"model {name}: no branch to learn from; name at least one in `branches`")
    if name in LINEAR:
        check_kinds(f"model {name}", settings, declared_settings(LINEAR[name]))
        model = LINEAR[name](dims, n_classes, **settings)
    else:
        model = _network_model(name, dims, n_classes, settings)
    model.recipe = {
        "model": name,
        "branches": list(dims),
        "dims": dict(dims),
        "n_classes": n_classes,
        "settings": settings,
    }
    return model


def bind_model(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Callable[[], Any]:
    """A function that makes untrained models of one kind; mistakes are told now, not in a fold."""
    make_model(name, dims, n_classes, **settings)
    return partial(make_model, name, dims, n_classes, **settings)


def load_model(folder: Path) -> Any:
    """The fitted model that `save` wrote into a folder."""
    if (Path(folder) / "model").exists():  # what a search chose lies inside it
        return load_model(Path(folder) / "model")
    recipe = read_json(Path(folder) / INFO, "50_train_fusion").get("recipe", {})
    try:
        dims = {branch: recipe["dims"][branch] for branch in recipe["branches"]}
        name, n_classes, settings = recipe["model"], recipe["n_classes"], dict(recipe["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise EcmfError(f"{show(Path(folder) / INFO)}: no recipe of a model; train it again") from error
    if str(settings.get("device", "")).startswith("cuda"):  # of the machine that it was trained on
        settings["device"] = "auto"
    model = make_model(name, dims, n_classes, **settings)
    model.recipe = recipe
    return model.load(folder)


def has_epochs(name: str) -> bool:
    """Whether a model is trained in epochs (and takes `epochs`)."""
    return name in NETWORKS


def is_random(name: str) -> bool:
    """Whether a model's predictions depend on the seed."""
    return name in NETWORKS or name == "stacked"  # its folds do


def _network_model(name: str, dims: dict[str, int], n_classes: int, settings: dict[str, Any]) -> Any:
    network, defaults = NETWORKS[name]
    own, training = declared_settings(network), declared_settings(TorchClassifier)
    check_kinds(f"model {name}", settings, own | training)
    parts = {key: value for key, value in settings.items() if key in own}
    sizes = {key: value for key, value in parts.items() if type(value) is int}
    shares = {key: value for key, value in parts.items() if key.endswith("dropout")}
    check_settings(f"model {name}: ", at_least_1=sizes, below_1=shares)
    rest = defaults | {key: value for key, value in settings.items() if key not in own}
    if "auxiliary" in own and not rest.get("components", declared_settings(TorchClassifier)["components"]):
        parts["auxiliary"] = False  # heads are solved on principal axes: without them there are none
    return TorchClassifier(partial(network, n_classes=n_classes, **parts), dims, **rest)


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
