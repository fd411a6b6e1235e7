"""Standardised features, group folds, and softmax regression with soft targets.

The softmax regression is our own, since scikit-learn's LogisticRegression takes neither soft labels nor a class
without clips, and works in all D dimensions. With a ridge penalty the optimum lies in the space that the N rows span,
which is much smaller where clips are few and dimensions are many. A test compares the two.
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

MOST_DEVIATIONS = 5.0  # standardised values are cut here; one outlier must not outvote the other dimensions
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # inverse penalties to choose from, from smooth to sharp
SEARCH_ROWS = 10_000  # rows that choose a strength; with more of them the choice hardly changes but takes many minutes
EXTRA = -2  # fold of clips that may join a training set and are never scored, such as pseudo-labelled clips


# ---- standardisation


@dataclass
class Scaler:
    """Mean and standard deviation of every dimension of a branch, over the training rows that have the branch.

    Attributes
    ----------
    mean, scale : dict of float32 array (D,)
        By branch.
    limit : float
        Standardised values are cut at plus and minus this many standard deviations.
    """

    mean: dict[str, np.ndarray] = field(default_factory=dict)
    scale: dict[str, np.ndarray] = field(default_factory=dict)
    limit: float = MOST_DEVIATIONS

    def fit(self, features, rows: np.ndarray, branches: list[str], scale: bool = True) -> Scaler:
        """Learn from some rows of the features.

        Parameters
        ----------
        features : Features
            `x` branch to (N, D) or (N, T, D), `present` branch to (N,) bool.
        rows : int array (n,)
            Positions of the training clips.
        branches : list of str
            Branches to standardise.
        scale : bool
            False: `apply` changes no value; it checks, and fills absent branches with 0.

        Raises
        ------
        EcmfError
            A branch is not among the features, or a training clip has values that are not finite.
        """
        self.limit = MOST_DEVIATIONS if scale else np.inf
        for branch in branches:
            x = _get_branch(features, branch)
            present_rows = rows[features.present[branch][rows]]
            values = x[present_rows]
            _require_finite(features, branch, values, present_rows)
            if not scale or not len(present_rows):
                values = np.zeros((1, x.shape[-1]), np.float32)  # gives mean 0 and scale 1, which change nothing
            values = values.reshape(-1, x.shape[-1])  # every step of a sequence counts as a row
            mean = values.mean(0, dtype=np.float64, keepdims=True)
            deviation = values.std(0, dtype=np.float64, mean=mean)
            self.mean[branch] = mean[0].astype(np.float32)
            varies = deviation > _least_deviation(deviation)
            self.scale[branch] = np.where(varies, deviation, 1).astype(np.float32)
        return self

    def apply(self, features) -> dict[str, np.ndarray]:
        """Standardised values of every branch, float32 (N, D) or (N, T, D); an absent branch gets 0, the mean."""
        return {branch: self.apply_branch(features, branch) for branch in self.mean}

    def apply_branch(self, features, branch: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Standardised values of one branch and some rows.

        Raises
        ------
        EcmfError
            The branch is not among the features, has another size than in training, or has values that are not finite.
        """
        whole, mean = _get_branch(features, branch), self.mean[branch]
        positions = np.arange(len(whole))[rows]
        x = whole[positions]
        if x.shape[-1] != len(mean):
            raise EcmfError(
                f"branch {branch}: {x.shape[-1]} dimensions, but the model was trained on "
                f"{len(mean)}; extract it with the same recipe or train again"
            )
        present = np.asarray(features.present[branch], bool)[positions]
        _require_finite(features, branch, x[present], positions[present])
        scaled = x - mean  # a copy; the rest is done in place, since a branch may have gigabytes
        scaled /= self.scale[branch]
        np.clip(scaled, -self.limit, self.limit, out=scaled)
        scaled[~present] = 0
        return scaled.astype(np.float32, copy=False)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays under flat names, for a checkpoint."""
        return {
            **{f"mean/{branch}": values for branch, values in self.mean.items()},
            **{f"scale/{branch}": values for branch, values in self.scale.items()},
            "limit": np.array([self.limit]),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], branches: list[str]) -> Scaler:
        """The scaler whose `to_arrays()` were saved."""
        mean, scale = ({branch: arrays[f"{part}/{branch}"] for branch in branches} for part in ("mean", "scale"))
        return cls(mean, scale, float(arrays["limit"][0]))


def _get_branch(features, branch: str) -> np.ndarray:
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


def _least_deviation(deviation: np.ndarray) -> float:
    """The standard deviation below which a dimension counts as constant and is not scaled.

    It is 1e-6, or less in a branch of tiny numbers: a thousandth of the median of the dimensions that vary.
    """
    varying = deviation[deviation > 0]
    return min(1e-6, 1e-3 * float(np.median(varying))) if len(varying) else 0.0


# ---- softmax regression


@dataclass
class SoftmaxRegression:
    """A fitted softmax regression: coef (D, C), intercept (C,)."""

    coef: np.ndarray
    intercept: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Logits (N, C) of standardised rows (N, D)."""
        return x @ self.coef + self.intercept

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of standardised rows (N, D)."""
        return softmax(self.logits(x), axis=1)


def softmax_regression(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float) -> SoftmaxRegression:
    """Minimise the weighted cross-entropy against soft targets plus |coef|^2 / (2 strength).

    Parameters
    ----------
    x : float array, shape (N, D)
        Standardised rows.
    targets : float array, shape (N, C)
        Distribution of labels of each row.
    weights : float array, shape (N,)
        How much each row counts.
    strength : float
        Inverse of the ridge penalty, scikit-learn's `C`.
    """
    return _fit_path(x, targets, weights, (strength,))[0]


def _fit_path(x, targets, weights, strengths: tuple[float, ...]) -> list[SoftmaxRegression]:
    """A regression for each strength; each starts at the one before it, which saves most of the steps."""
    with limit_blas_threads():
        z, back = _span_rows(np.asarray(x, np.float64))
        flat, models = np.zeros((z.shape[1] + 1) * targets.shape[1]), []
        for strength in strengths:
            flat = minimize(
                _loss_and_gradient,
                flat,
                (z, targets, weights, strength),
                "L-BFGS-B",
                jac=True,
                options={"maxiter": 500, "gtol": 1e-4 * max(weights.sum(), 1.0) ** 0.5},
            ).x
            table = flat.reshape(z.shape[1] + 1, targets.shape[1])  # coefficients, and the intercept as the last row
            models.append(SoftmaxRegression(back @ table[:-1] if back is not None else table[:-1], table[-1]))
    return models


def _span_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Coordinates z (N, R) of the rows in the space that they span, and the map back (D, R): z @ back.T is x.

    With no more dimensions than rows nothing is gained: the rows themselves and None.
    """
    if x.shape[1] <= len(x):
        return x, None
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > max(values[-1], 0) * 1e-10
    if not kept.any():
        return np.zeros((len(x), 1)), np.zeros((x.shape[1], 1))
    root = np.sqrt(values[kept])
    return vectors[:, kept] * root, x.T @ (vectors[:, kept] / root)


def _loss_and_gradient(flat, z, targets, weights, strength) -> tuple[float, np.ndarray]:
    """What `softmax_regression` minimises, and its gradient, at coefficients and intercept in one flat array."""
    table = flat.reshape(z.shape[1] + 1, targets.shape[1])
    log_proba = _log_softmax(z @ table[:-1] + table[-1])
    slope = weights[:, None] * (np.exp(log_proba) * targets.sum(1, keepdims=True) - targets)
    gradient = np.vstack([z.T @ slope + table[:-1] / strength, slope.sum(0)])
    loss = -(weights[:, None] * targets * log_proba).sum() + (table[:-1] ** 2).sum() / (2 * strength)
    return loss, gradient.ravel()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-softmax of finite rows (N, C): the same bits as SciPy's, whose checks take longer than a few columns do."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


# ---- predictions of rows that a model has not seen


def out_of_fold(
    x: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    n_folds: int = 3,
    seed: int = 0,
    strength: float | None = None,
) -> tuple[np.ndarray, float]:
    """Logits of every row from softmax regressions that saw nothing of its group.

    Where all rows are one group, the regressions saw nothing of the clip.

    Parameters
    ----------
    x, targets, weights : float arrays, shape (N, D), (N, C), (N,)
        What `softmax_regression` takes.
    groups : array, shape (N,)
        Speaker or source of each row.
    n_folds, seed : int
        Number of group folds, and the seed that they are drawn with.
    strength : float, optional
        Inverse penalty. When it is not given, the one with the lowest out-of-fold cross-entropy is taken; with more
        than `SEARCH_ROWS` rows, whole groups drawn at random, about so many rows in all, choose it.

    Returns
    -------
    float array, shape (N, C)
        Out-of-fold logits.
    float
        The strength that was used.
    """
    groups = np.asarray(groups, dtype=object).astype(str)
    strengths = STRENGTHS if strength is None else (strength,)
    if len(strengths) > 1 and len(x) > SEARCH_ROWS:
        some = _draw_groups(groups, seed)
        chosen = _predict_held_out(x[some], targets[some], weights[some], groups[some], n_folds, seed, strengths)[1]
        strengths = (chosen,)
    return _predict_held_out(x, targets, weights, groups, n_folds, seed, strengths)


def _predict_held_out(
    x, targets, weights, groups, n_folds: int, seed: int, strengths: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Out-of-fold logits of the strength whose held-out cross-entropy is lowest, and that strength."""
    y = targets.argmax(1)
    folds = ensure_two_folds(group_folds(y, groups, n_folds, seed), y, n_folds, seed)
    logits, loss = np.zeros((len(strengths), *targets.shape)), np.zeros(len(strengths))
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        training = ~held_out if folds.max() > 0 else held_out  # with too few clips nothing can be held out
        for i, model in enumerate(_fit_path(x[training], targets[training], weights[training], strengths)):
            logits[i, held_out] = model.logits(x[held_out])
            log_proba = _log_softmax(logits[i, held_out])
            loss[i] -= (weights[held_out, None] * targets[held_out] * log_proba).sum()
    best = int(loss.argmin()) if folds.max() > 0 else len(strengths) // 2
    return logits[best], strengths[best]


def _draw_groups(groups: np.ndarray, seed: int) -> np.ndarray:
    """Rows of whole groups, drawn until there are `SEARCH_ROWS` rows and two groups."""
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    n_groups = np.searchsorted(np.cumsum(sizes[order]), SEARCH_ROWS) + 1
    return np.flatnonzero(np.isin(groups, names[order[: max(n_groups, 2)]]))


# ---- folds


def group_folds(y: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Stratified folds that no group crosses.

    Parameters
    ----------
    y : int array, shape (N,)
        Class of each row; every fold gets about the same share of each class.
    groups : array, shape (N,)
        Speaker or source of each row.
    n_folds : int
        Fewer are made where there are fewer groups, or where the largest class has fewer rows.
    seed : int
        Of the shuffle.

    Returns
    -------
    int array, shape (N,)
        0, 1, …; all 0 where two folds cannot be made.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups = np.asarray(groups, dtype=object).astype(str)
    n_groups = len(np.unique(groups))
    # The splitter refuses more folds than the largest class has rows.
    n_folds = min(n_folds, n_groups, int(np.unique(y, return_counts=True)[1].max(initial=0)))
    folds = np.zeros(len(y), int)
    if n_folds < 2:
        return folds
    # Where every row is a group of its own, the plain splitter will do; the one for groups takes seconds for thousands.
    kind = StratifiedGroupKFold if n_groups < len(y) else StratifiedKFold
    splitter = kind(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds is no mistake here
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(y)), y, groups)):
            folds[held_out] = fold
    return folds


def ensure_two_folds(folds: np.ndarray, y: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The folds (N,) as they are, or folds by clip where all rows are in a single one and no group can be held out."""
    return folds if len(np.unique(folds)) > 1 else group_folds(y, np.arange(len(y)), n_folds, seed)


def training_rows(folds: np.ndarray, groups: np.ndarray, fold: int) -> np.ndarray:
    """Positions of the rows that a model may learn from while `fold` is held out.

    These are the rows of the other folds, and the rows of fold `EXTRA` whose group has no row in the held-out fold.
    """
    other = (folds >= 0) & (folds != fold)
    extra = (folds == EXTRA) & ~np.isin(groups, groups[folds == fold])
    return np.flatnonzero(other | extra)


# ---- threads of linear algebra


def limit_blas_threads(threads: int = 1) -> AbstractContextManager:
    """Limit the threads of NumPy's and SciPy's linear algebra inside a `with` block.

    Small matrices are solved fastest on one thread, and always to the same bits. More threads than cores wait for one
    another and keep the cores busy while they do.
    """
    return _thread_controller().limit(limits=threads, user_api="blas")


@functools.cache
def _thread_controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  its library has to be loaded before the controller looks for libraries

    return ThreadpoolController()
