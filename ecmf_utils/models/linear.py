"""Softmax regression with soft targets, made for few clips and many dimensions.

scikit-learn's LogisticRegression takes neither soft labels nor a class without clips, and works in
all D dimensions; here a ridge penalty allows the exact same optimum to be found in the space that
the N rows span. A test holds the two against each other.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax
from threadpoolctl import ThreadpoolController

from ecmf_utils.files import EcmfError

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # inverse penalties tried, smooth to sharp
EXTRA = -2  # fold of clips that may join a training set and are never scored (pseudo-labelled)
SEARCH_ROWS = 10_000  # the best strength hardly moves beyond, the search would take many minutes
CLIP = 5.0  # standard deviations; one outlier must not outvote the other dimensions


@dataclass
class Scaler:
    """Per-branch mean and standard deviation of the training rows where the branch is present."""

    mean: dict[str, np.ndarray] = field(default_factory=dict)
    scale: dict[str, np.ndarray] = field(default_factory=dict)
    limit: float = CLIP  # of what `apply` gives, either way

    def fit(self, features, rows: np.ndarray, branches: list[str], scale: bool = True) -> Scaler:
        """Learn from the given rows of the given branches; `scale=False` only fills and checks."""
        self.limit = CLIP if scale else np.inf
        for branch in branches:
            x, there = _branch(features, branch), rows[features.present[branch][rows]]
            found = x[there]
            _require_finite(features, branch, found, there)
            known = found if scale and len(there) else np.zeros((1, x.shape[-1]), np.float32)
            known = known.reshape(-1, x.shape[-1])
            mean = known.mean(0, dtype=np.float64, keepdims=True)
            deviation = known.std(0, dtype=np.float64, mean=mean)
            self.mean[branch] = mean[0].astype(np.float32)
            self.scale[branch] = np.where(deviation > _still(deviation), deviation, 1).astype(np.float32)
        return self

    def apply(self, features) -> dict[str, np.ndarray]:
        """Standardised (N, D) or (N, T, D) per branch; zeros, the mean, where the branch is absent."""
        return {branch: self.apply_branch(features, branch) for branch in self.mean}

    def apply_branch(self, features, branch: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The same of one branch and some rows."""
        whole, mean = _branch(features, branch), self.mean[branch]
        at = np.arange(len(whole))[rows]
        x = whole[at]
        if x.shape[-1] != len(mean):
            raise EcmfError(
                f"branch {branch}: {x.shape[-1]} dimensions, but the model was trained on "
                f"{len(mean)}; extract it with the same recipe or train again"
            )
        there = np.asarray(features.present[branch], bool)[at]
        _require_finite(features, branch, x[there], at[there])
        scaled = x - mean  # a copy, the rest is done in place: a branch may be gigabytes
        scaled /= self.scale[branch]
        np.clip(scaled, -self.limit, self.limit, out=scaled)
        scaled[~there] = 0
        return scaled.astype(np.float32, copy=False)

    def arrays(self) -> dict[str, np.ndarray]:
        """Flat names to arrays, for a checkpoint."""
        return {
            **{f"mean/{b}": v for b, v in self.mean.items()},
            **{f"scale/{b}": v for b, v in self.scale.items()},
            "limit": np.array([self.limit]),
        }

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], branches: list[str]) -> Scaler:
        """The scaler whose `arrays()` were saved."""
        mean, scale = ({b: arrays[f"{part}/{b}"] for b in branches} for part in ("mean", "scale"))
        return cls(mean, scale, float(arrays["limit"][0]))


@dataclass
class Softmax:
    """A fitted softmax regression: coef (D, C), intercept (C,)."""

    coef: np.ndarray
    intercept: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Log-odds (N, C) of standardised rows (N, D)."""
        return x @ self.coef + self.intercept

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of standardised rows (N, D)."""
        return softmax(self.logits(x), axis=1)


def softmax_regression(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float) -> Softmax:
    """Minimise the weighted cross-entropy against soft targets plus |coef|^2 / (2 strength).

    Parameters
    ----------
    x : float array, shape (N, D)
        Standardised rows.
    targets : float array, shape (N, C)
        Distribution of labels per row.
    weights : float array, shape (N,)
    strength : float
        scikit-learn's `C`.
    """
    return regression_path(x, targets, weights, (strength,))[0]


def regression_path(x, targets, weights, strengths=STRENGTHS) -> list[Softmax]:
    """One `softmax_regression` per strength, each started at the one before it."""
    with blas():
        z, back = _row_space(np.asarray(x, np.float64))
        start, models = np.zeros((z.shape[1] + 1) * targets.shape[1]), []
        for strength in strengths:
            start = minimize(
                _objective,
                start,
                (z, targets, weights, strength),
                "L-BFGS-B",
                jac=True,
                options={"maxiter": 500, "gtol": 1e-4 * max(weights.sum(), 1.0) ** 0.5},
            ).x
            table = start.reshape(z.shape[1] + 1, targets.shape[1])
            models.append(Softmax(back @ table[:-1] if back is not None else table[:-1], table[-1]))
    return models


def out_of_fold(
    x: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    n_folds: int = 3,
    seed: int = 0,
    strength: float | None = None,
) -> tuple[np.ndarray, float]:
    """Logits (N, C) of every row from models that saw nothing of its group (clip, if one group), and the strength used.

    Without a given strength the one with the lowest out-of-fold cross-entropy is taken; with more
    than `SEARCH_ROWS` rows that search uses the first whole groups of a shuffle.
    """
    groups = np.asarray(groups, dtype=object).astype(str)
    tried = STRENGTHS if strength is None else (strength,)
    if len(tried) > 1 and len(x) > SEARCH_ROWS:
        some = _some_groups(groups, seed)
        tried = (_held_out(x[some], targets[some], weights[some], groups[some], n_folds, seed, tried)[1],)
    return _held_out(x, targets, weights, groups, n_folds, seed, tried)


def _held_out(x, targets, weights, groups, n_folds: int, seed: int, tried) -> tuple[np.ndarray, float]:
    """Logits of the strength whose held-out cross-entropy is lowest, and that strength."""
    y = targets.argmax(1)
    folds = by_clip_in_one(group_folds(y, groups, n_folds, seed), y, n_folds, seed)
    logits, loss = np.zeros((len(tried), *targets.shape)), np.zeros(len(tried))
    for fold in range(folds.max() + 1):
        out = folds == fold
        fit = ~out if folds.max() > 0 else out  # too few clips: nothing can be held out
        for i, model in enumerate(regression_path(x[fit], targets[fit], weights[fit], tried)):
            logits[i, out] = model.logits(x[out])
            logs = _log_softmax(logits[i, out])
            loss[i] -= (weights[out, None] * targets[out] * logs).sum()
    best = int(loss.argmin()) if folds.max() > 0 else len(tried) // 2
    return logits[best], tried[best]


def group_folds(y: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Stratified folds (N,) that no group crosses; fewer folds where there are fewer groups."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups = np.asarray(groups, dtype=object).astype(str)
    n_groups = len(np.unique(groups))
    # the splitter refuses more folds than the largest class has clips
    most = min(n_groups, int(np.unique(y, return_counts=True)[1].max(initial=0)))
    n_folds, folds = min(n_folds, most), np.zeros(len(y), int)
    if n_folds < 2:
        return folds
    kind = StratifiedGroupKFold if n_groups < len(y) else StratifiedKFold  # the former takes seconds for thousands
    splitter = kind(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than the folds is no mistake here
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(y)), y, groups)):
            folds[held_out] = fold
    return folds


def by_clip_in_one(folds: np.ndarray, y: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The folds of some rows; those of clips where all rows fell into a single one, and no group can be held out."""
    return folds if len(np.unique(folds)) > 1 else group_folds(y, np.arange(len(y)), n_folds, seed)


def training_rows(folds: np.ndarray, groups: np.ndarray, fold: int) -> np.ndarray:
    """Rows that a model may learn from while `fold` is held out: no clip of a held-out group."""
    other = (folds >= 0) & (folds != fold)
    extra = (folds == EXTRA) & ~np.isin(groups, groups[folds == fold])
    return np.flatnonzero(other | extra)


def _some_groups(groups: np.ndarray, seed: int) -> np.ndarray:
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    enough = np.searchsorted(np.cumsum(sizes[order]), SEARCH_ROWS) + 1
    return np.flatnonzero(np.isin(groups, names[order[: max(enough, 2)]]))


def _objective(flat, z, targets, weights, strength) -> tuple[float, np.ndarray]:
    table = flat.reshape(z.shape[1] + 1, targets.shape[1])
    logs = _log_softmax(z @ table[:-1] + table[-1])
    slope = weights[:, None] * (np.exp(logs) * targets.sum(1, keepdims=True) - targets)
    gradient = np.vstack([z.T @ slope + table[:-1] / strength, slope.sum(0)])
    loss = -(weights[:, None] * targets * logs).sum() + (table[:-1] ** 2).sum() / (2 * strength)
    return loss, gradient.ravel()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of finite rows (N, C): as `scipy.special.log_softmax`, to the bit, whose checks take longer than few columns."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _row_space(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates z (N, R) of the rows and the map back (D, R), so that z @ back.T is x."""
    if x.shape[1] <= len(x):
        return x, None
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > max(values[-1], 0) * 1e-10
    if not kept.any():
        return np.zeros((len(x), 1)), np.zeros((x.shape[1], 1))
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, x.T @ (vectors[:, kept] / root)


def _still(deviation: np.ndarray) -> float:
    """What a dimension must vary by: 1e-6, or a thousandth of what is usual in a branch of tiny numbers."""
    moving = deviation[deviation > 0]
    return min(1e-6, 1e-3 * float(np.median(moving))) if len(moving) else 0.0


def _branch(features, branch: str) -> np.ndarray:
    if branch not in features.x:
        raise EcmfError(
            f"branch {branch} is not among the features ({', '.join(features.x)}); extract it, or train without it"
        )
    return features.x[branch]


def _require_finite(features, branch: str, x: np.ndarray, rows: np.ndarray) -> None:
    """Refuse vectors (n, …) that are not finite; rows (n,) are their positions among the clips."""
    finite = np.isfinite(x)
    if finite.all():
        return
    bad = rows[~finite.reshape(len(rows), -1).all(1)]
    raise EcmfError(
        f"branch {branch}: {len(bad)} clips have NaN or infinite features, the first is "
        f"{features.clip_ids[bad[0]]!r}; extract it again"
    )


# ---- how many threads linear algebra uses: few small matrices are solved fastest, and to the same bit, on one


def blas(threads: int = 1) -> AbstractContextManager:
    """Limit NumPy's and SciPy's threads for a while; more than there are cores wait for one another busily."""
    return _controller().limit(limits=threads, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  its library has to be there when the controller looks

    return ThreadpoolController()
