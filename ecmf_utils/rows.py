"""Which rows a model learns from, how much each counts, and whether what it is given makes sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from .linear import group_folds
from .paths import EcmfError

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def declared_settings(model: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the settings of a model; what it is made for is none."""
    found = inspect.signature(model).parameters.items()
    return {key: p.default for key, p in found if key not in ("network", "dims", "n_classes")}


def check_kinds(where: str, settings: dict[str, Any], declared: dict[str, Any]) -> None:
    """One line about the first setting that does not exist, or is not of the kind of its default."""
    for key, value in settings.items():
        if key not in declared:
            raise EcmfError(f"{where} has no setting {key!r}: expected {', '.join(sorted(declared)) or 'none'}")
        default = 1.0 if declared[key] is None else declared[key]  # None: a number that is chosen where none is given
        fits = isinstance(value, (int, float) if type(default) is float else type(default))
        fits &= isinstance(value, bool) == isinstance(default, bool)
        if value is not declared[key] and not (fits and (isinstance(value, str) or isfinite(value))):
            raise EcmfError(f"{where}: {key}={value!r}: expected {WORDS[type(default)]}")


def check_settings(where: str = "", **kinds: dict[str, float]) -> None:
    """One line about the first setting that is out of its range; `where` begins it."""
    ranges = {
        "at_least_0": ("at least 0", lambda v: v >= 0),
        "at_least_1": ("at least 1", lambda v: v >= 1),
        "below_1": ("at least 0 and below 1", lambda v: 0 <= v < 1),
        "above_0": ("above 0", lambda v: v > 0),
        "at_most_half": ("0 to 0.5", lambda v: 0 <= v <= 0.5),
    }
    for kind, values in kinds.items():
        words, allowed = ranges[kind]
        for name, value in values.items():
            if not allowed(value):
                raise EcmfError(f"{where}{name}={value}: expected {words}")


def inner_split(targets, weights, groups, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows of other groups that stop training; weight 0: in neither."""
    used = np.flatnonzero(weights > 0)
    if fraction <= 0:
        return used, used[:0]
    n_folds = max(2, round(1 / fraction))
    folds = group_folds(targets[used].argmax(1), np.asarray(groups)[used], n_folds, seed)
    inner = (folds == 0) & (folds.max() > 0)  # with one group there is nothing to set aside
    return used[~inner], used[inner]


def check_rows(features, targets, weights) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, C) and weights (N,) as float32, or one line about what is wrong with them."""
    targets, weights = np.asarray(targets, np.float32), np.asarray(weights, np.float32)
    n = len(features.clip_ids)
    if targets.ndim != 2 or len(targets) != n or weights.shape != (n,):
        raise EcmfError(f"{n} clips, but targets of shape {targets.shape} and weights of shape {weights.shape}")
    if not (weights > 0).any():
        raise EcmfError("no clip to train on: every weight is 0 or no clip has a label")
    used = targets[weights > 0]
    if not np.isfinite(used).all() or not np.allclose(used.sum(1), 1, atol=1e-3):
        raise EcmfError("targets must be distributions: finite, and 1 in sum for every clip of weight > 0")
    return np.nan_to_num(targets), np.where(weights > 0, weights, 0).astype(np.float32)


def balanced(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights times the inverse share of each clip's class; the sum stays."""
    share = weights @ targets
    inverse = np.where(share > 0, 1 / np.maximum(share, 1e-9), 0)
    scaled = weights * (targets @ inverse)
    return (scaled * weights.sum() / scaled.sum()).astype(np.float32)
