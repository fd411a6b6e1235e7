"""The models that ECMF is compared with, and the one door to all of them: `make_model`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoints import INFO, read_model, write_model
from .fusion import Ecmf
from .learner import TorchClassifier, check_rows
from .linear import Scaler, Softmax, out_of_fold, softmax_regression
from .paths import EcmfError, read_json, show

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
        write_model(
            folder, arrays | self.scaler_.arrays(), self.recipe, {"strength": self.strength_}
        )

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
                self.models_[branch] = _regression(
                    x[rows], targets[rows], weights[rows], groups[rows], self.strength
                )[0]
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
        arrays = {f"coef/{b}": m.coef for b, m in self.models_.items()}
        arrays |= {f"intercept/{b}": m.intercept for b, m in self.models_.items()}
        write_model(
            folder, arrays | self.scaler_.arrays() | {"prior": self.prior_}, self.recipe, {}
        )

    def load(self, folder: Path) -> LateFusion:
        arrays, _ = read_model(folder, self.recipe)
        self.scaler_, self.prior_ = Scaler.restore(arrays, list(self.dims)), arrays["prior"]
        found = [b for b in self.dims if f"coef/{b}" in arrays]
        self.models_ = {b: Softmax(arrays[f"coef/{b}"], arrays[f"intercept/{b}"]) for b in found}
        return self


class OfficialAttention(nn.Module):
    """The `attention` model of the official MER2025 toolkit (MERTools), re-implemented.

    Per branch an MLP (dropout on the input, three times Linear + ReLU); one such MLP over their
    concatenation and a linear layer give one weight per branch, without softmax; the weighted sum
    goes through one linear layer. The toolkit feeds it unscaled inputs; the training here scales
    them unless told otherwise, since hand-made features have arbitrary units.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, hidden: int = 128, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.branches = list(dims)
        self.encode = nn.ModuleList(_mlp(dim, hidden, dropout) for dim in dims.values())
        self.judge = nn.Sequential(
            _mlp(hidden * len(dims), hidden, dropout), nn.Linear(hidden, len(dims))
        )
        self.classify = nn.Linear(hidden, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.branches, self.encode, strict=True)
        encoded = torch.stack([encode(x[branch]) for branch, encode in pairs], dim=1)
        attention = self.judge(encoded.flatten(1))  # may be negative: no share of a whole
        return {"logits": self.classify((encoded * attention.unsqueeze(-1)).sum(1))}


# name: network, and the training settings that differ from the learner's defaults
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "ecmf": (Ecmf, {}),
    "attention": (
        OfficialAttention,
        {"lr": 1e-3, "weight_decay": 1e-5, "batch_size": 32, "epochs": 100, "patience": 40},
    ),
}
LINEAR: dict[str, Callable[..., Any]] = {
    "majority": Majority, "logreg": LogisticRegression, "late": LateFusion,
}  # fmt: skip


def make_model(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Any:
    """An untrained model by name.

    Parameters
    ----------
    name : str
        majority, logreg, late, attention (the official toolkit's) or ecmf.
    dims : dict
        Branch to number of dimensions, in order.
    **settings
        Of the model, and for `attention` and `ecmf` also of its training (see `TorchClassifier`).

    Returns
    -------
    estimator
        `fit(features, targets (N, C), weights (N,), groups (N,), seed)`, `predict(features)` ->
        (probabilities (N, C), branch weights (N, B) or None), `save(folder)`, `load(folder)`.

    Raises
    ------
    EcmfError
        An unknown model or setting; the known ones are listed.
    """
    if name not in NETWORKS and name not in LINEAR:
        known = ", ".join(sorted({**NETWORKS, **LINEAR}))
        raise EcmfError(f"unknown model {name!r}: expected one of {known}")
    if not dims:
        raise EcmfError(f"model {name}: no branch to learn from; name at least one in `branches`")
    if name in LINEAR:
        _refuse_unknown(name, settings, _parameters(LINEAR[name]))
        model = LINEAR[name](dims, n_classes, **settings)
    else:
        model = _network_model(name, dims, n_classes, settings)
    model.recipe = {
        "model": name, "branches": list(dims), "dims": dict(dims), "n_classes": n_classes,
        "settings": settings,
    }  # fmt: skip
    return model


def maker(name: str, dims: dict[str, int], n_classes: int, **settings: Any) -> Callable[[], Any]:
    """A function that makes untrained models of one kind; mistakes are told now, not in a fold."""
    make_model(name, dims, n_classes, **settings)
    return partial(make_model, name, dims, n_classes, **settings)


def load_model(folder: Path) -> Any:
    """The fitted model that `save` wrote into a folder."""
    recipe = read_json(Path(folder) / INFO, "50_train_fusion")["recipe"]
    dims = {branch: recipe["dims"][branch] for branch in recipe["branches"]}
    return make_model(recipe["model"], dims, recipe["n_classes"], **recipe["settings"]).load(folder)


def load_run(folder: Path) -> list[Any]:
    """All fitted models of a finished `training.cross_validate(keep=folder)`."""
    fits = read_json(Path(folder) / "run.json", "50_train_fusion")["fits"]
    if not fits:
        raise EcmfError(f"{show(folder)}: the run has no fitted model; run 50_train_fusion again")
    return [load_model(Path(folder) / name) for name in fits]


def has_epochs(name: str) -> bool:
    """Whether a model is trained in epochs (and takes `epochs`)."""
    return name in NETWORKS


def is_random(name: str) -> bool:
    """Whether a model's predictions depend on the seed."""
    return name in NETWORKS


def count_parameters(model: Any) -> int:
    """Numbers that a model learns; needs no fit."""
    if hasattr(model, "n_parameters"):
        return model.n_parameters
    return sum(parameter.numel() for parameter in model.network().parameters())


def _network_model(
    name: str, dims: dict[str, int], n_classes: int, settings: dict[str, Any]
) -> Any:
    network, defaults = NETWORKS[name]
    own, training = _parameters(network), _parameters(TorchClassifier)
    _refuse_unknown(name, settings, own | training)
    parts = {key: value for key, value in settings.items() if key in own}
    rest = defaults | {key: value for key, value in settings.items() if key not in own}
    return TorchClassifier(partial(network, dims, n_classes, **parts), dims, **rest)


def _parameters(kind: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(kind).parameters) - {"network", "dims", "n_classes"}


def _refuse_unknown(name: str, settings: dict[str, Any], known: set[str]) -> None:
    for key in settings:
        if key not in known:
            raise EcmfError(
                f"model {name} has no setting {key!r}: "
                f"expected {', '.join(sorted(known)) or 'none'}"
            )


def _regression(x, targets, weights, groups, strength: float | None) -> tuple[Softmax, float]:
    if strength is None:
        strength = out_of_fold(x, targets, weights, groups, SEARCH_FOLDS)[1]
    return softmax_regression(x, targets, weights, strength), strength


def _prior(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (weights @ targets / weights.sum()).astype(np.float64)


def _mlp(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    sizes = [dim, hidden, hidden, hidden]
    layers = [
        layer
        for a, b in zip(sizes, sizes[1:], strict=False)
        for layer in (nn.Linear(a, b), nn.ReLU())
    ]
    return nn.Sequential(nn.Dropout(dropout), *layers)
