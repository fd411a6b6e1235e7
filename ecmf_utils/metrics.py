"""Scores of probabilities against labels, and how sure one may be of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, t

from .files import EcmfError

MIN_CLUSTERS = 4  # with fewer groups nothing can be said about new ones: clips are drawn instead
METRICS = ("weighted_f1", "accuracy", "macro_f1")
OURS = "ecmf"  # the model that every other one is compared with
SEARCHED = "-searched"  # ends the name of a model whose settings were searched


class Interval(NamedTuple):
    """A 95 % interval and the unit that was resampled, `groups` or `clips`."""

    ci: list[float]
    unit: str


class Difference(NamedTuple):
    """Score b minus score a, its 95 % interval, two-sided p, and the unit that was resampled."""

    mean: float
    ci: list[float]
    p: float
    unit: str


def score(y: np.ndarray, proba: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """Weighted F1, accuracy, macro F1 and expected calibration error.

    Parameters
    ----------
    y : int array, shape (N,)
        Label indices.
    proba : float array, shape (N, C)
        Class probabilities; the prediction is the largest.
    weights : float array, shape (N,), optional
        How much a clip counts in F1 and accuracy.

    Returns
    -------
    dict
        `weighted_f1` and `macro_f1` as scikit-learn's `f1_score` defines them, `accuracy`, `ece`
        (15 equal bins of confidence, Guo et al. 2017); all between 0 and 1.
    """
    y, proba = _checked(y, proba)
    counts = count_confusions(y, proba, weights)
    named = {name: float(_from_confusion(counts, name)) for name in METRICS}
    return {**named, "ece": expected_calibration_error(y, proba)}


def weighted_f1(y: np.ndarray, proba: np.ndarray, weights: np.ndarray | None = None) -> float:
    """That of `scores` alone, in a hundredth of the time: what an epoch is told by."""
    return float(_from_confusion(count_confusions(y, proba, weights), "weighted_f1"))


def count_confusions(y: np.ndarray, proba: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts (or sums of weights), shape (C, C): row the label, column the prediction."""
    y, proba = _checked(y, proba)
    n_classes = proba.shape[1]
    cells = np.bincount(y * n_classes + proba.argmax(1), weights, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def score_classes(y: np.ndarray, proba: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of clips of every class, one row each."""
    counts = count_confusions(y, proba)
    right, predicted, actual = counts.diagonal(), counts.sum(0), counts.sum(1)
    return pd.DataFrame(
        {
            "label": list(labels),
            "precision": _ratio(right, predicted),
            "recall": _ratio(right, actual),
            "f1": _ratio(2 * right, predicted + actual),
            "n": actual,
        }
    )


def expected_calibration_error(y: np.ndarray, proba: np.ndarray, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy, weighted by the clips in each bin of confidence."""
    curve = bin_calibration(y, proba, bins)
    gap = (curve["confidence"] - curve["accuracy"]).abs()
    return float((gap * curve["n"]).sum() / max(curve["n"].sum(), 1))


def bin_calibration(y: np.ndarray, proba: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Confidence, accuracy and clips in equal bins of confidence; empty bins are left out."""
    y, proba = _checked(y, proba)
    confidence = proba.max(1)
    rows = pd.DataFrame(
        {
            "bin": np.minimum((confidence * bins).astype(int), bins - 1),
            "confidence": confidence,
            "accuracy": (proba.argmax(1) == y).astype(float),
            "n": 1,
        }
    )
    means = rows.groupby("bin")[["confidence", "accuracy"]].mean()
    return means.assign(n=rows.groupby("bin")["n"].sum()).reset_index(drop=True)


def bootstrap_ci(
    y: np.ndarray,
    proba: np.ndarray,
    clusters: np.ndarray | None = None,
    n: int = 1000,
    seed: int = 0,
    metric: str = "weighted_f1",
) -> Interval:
    """95 % interval of a score from a bootstrap over whole groups.

    Percentiles are too narrow where there are few groups (8 of them: 87 to 89 % coverage), so this is the
    observed score plus and minus a t quantile, of one degree of freedom less than there are groups, times the
    bootstrap's standard deviation, corrected for its K - 1 (Cameron, Gelbach and Miller 2008 discuss few groups).

    Parameters
    ----------
    y : int array, shape (N,)
    proba : float array, shape (N, C)
    clusters : array, shape (N,), optional
        Group of each clip: speaker, dialogue, video. Clips of one group are not independent, so groups are
        drawn; with fewer than 4 of them (or none given) clips are drawn instead.
    metric : one of weighted_f1, accuracy, macro_f1

    Returns
    -------
    Interval
        `[low, high]` and the unit that was resampled, `groups` or `clips`.
    """
    (tables,), counts, unit = _tables(y, [proba], clusters)
    drawn = _from_confusion(_resample([tables], counts, n, seed)[0], metric)
    observed, k = float(_from_confusion(np.tensordot(counts, tables, axes=1), metric)), counts.sum()
    low, high = _t_interval(observed, _spread(drawn, k), k)
    return Interval([max(low, 0.0), min(high, 1.0)], unit)


def paired_difference(
    y: np.ndarray,
    proba_a: np.ndarray,
    proba_b: np.ndarray,
    clusters: np.ndarray | None = None,
    n: int = 2000,
    seed: int = 0,
    metric: str = "weighted_f1",
) -> Difference:
    """Score of b minus score of a on the same clips, by a paired bootstrap over groups.

    Returns
    -------
    Difference
        The observed difference, its 95 % interval as that of `bootstrap_ci`, the two-sided p of no difference
        by the same t, and the unit that was resampled.
    """
    pair, counts, unit = _tables(y, [proba_a, proba_b], clusters)
    drawn_a, drawn_b = (_from_confusion(t, metric) for t in _resample(pair, counts, n, seed))
    drawn = drawn_b - drawn_a
    observed = [float(_from_confusion(np.tensordot(counts, tables, axes=1), metric)) for tables in pair]
    difference, k = observed[1] - observed[0], counts.sum()
    spread = _spread(drawn, k)
    p = 2 * t.sf(abs(difference) / spread, k - 1) if spread else float(difference == 0)
    return Difference(difference, _t_interval(difference, spread, k), float(p), unit)


def mcnemar(y: np.ndarray, proba_a: np.ndarray, proba_b: np.ndarray) -> float:
    """Exact two-sided p that a and b are right equally often (McNemar 1947): only clips that one gets right count.

    Clips are taken as independent, which those of one group are not; `paired_difference` draws groups.
    """
    (y, proba_a), (_, proba_b) = _checked(y, proba_a), _checked(y, proba_b)
    right = [proba.argmax(1) == y for proba in (proba_a, proba_b)]
    one, other = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """p values (K,) corrected for K comparisons (Holm 1979): below .05, less than one false find in twenty studies."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(raised, 1.0)
    return out


def _tables(y, probas, clusters) -> tuple[list[np.ndarray], np.ndarray, str]:
    """Confusion tables of every model by resampled unit, (K, C, C) each, and how many units are alike, (K,).

    A unit is a group. Where clips are drawn, those of one label on which the models say the same are one row.
    """
    y, predicted = _checked(y, probas[0])[0], [_checked(y, proba)[1].argmax(1) for proba in probas]
    n_classes = np.asarray(probas[0]).shape[1]
    if clusters is not None:
        names, codes = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
        if len(names) >= MIN_CLUSTERS:
            return [_counted(codes, len(names), y, one, n_classes) for one in predicted], np.ones(len(names)), "groups"
    cells, counts = np.unique(np.stack([y, *predicted]), axis=1, return_counts=True)
    each = np.arange(len(counts))
    return [_counted(each, len(counts), cells[0], one, n_classes) for one in cells[1:]], counts.astype(float), "clips"


def _counted(codes: np.ndarray, k: int, y: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    tables = np.zeros((k, n_classes, n_classes))
    np.add.at(tables, (codes, y, predicted), 1)
    return tables


def _resample(tables: list[np.ndarray], counts: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    """Confusion tables of `n` draws of all units with replacement, the same draws for every entry."""
    k = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(k, counts / k, size=n)
    return [np.tensordot(draws, table, axes=1) for table in tables]


def _from_confusion(counts: np.ndarray, metric: str) -> np.ndarray:
    """The metric of confusion tables, shape (..., C, C) to (...)."""
    right = counts.diagonal(axis1=-2, axis2=-1)
    predicted, actual = counts.sum(-2), counts.sum(-1)
    total = actual.sum(-1)
    total = np.where(total > 0, total, 1)
    if metric == "accuracy":
        return right.sum(-1) / total
    f1 = _ratio(2 * right, predicted + actual)
    if metric == "weighted_f1":
        return (f1 * actual).sum(-1) / total
    if metric == "macro_f1":  # as scikit-learn: over the classes that occur at all
        return f1.sum(-1) / np.maximum((predicted + actual > 0).sum(-1), 1)
    raise EcmfError(f"unknown metric {metric!r}: expected one of {', '.join(METRICS)}")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole > 0, whole, 1)


def _spread(drawn: np.ndarray, k: int) -> float:
    """Standard error from bootstrap draws of `k` units."""
    return float(drawn.std() * np.sqrt(k / max(k - 1, 1)))


def _t_interval(observed: float, spread: float, k: int) -> list[float]:
    half = float(t.ppf(0.975, max(k - 1, 1))) * spread
    return [observed - half, observed + half]


def _checked(y, proba) -> tuple[np.ndarray, np.ndarray]:
    y, proba = np.asarray(y), np.asarray(proba, dtype=float)
    if proba.ndim != 2 or len(y) != len(proba) or not len(y):
        raise EcmfError(f"cannot score {y.shape} labels against probabilities of shape {proba.shape}")
    if not np.isfinite(proba).all():
        raise EcmfError("cannot score: some probabilities are not finite; score only predicted clips")
    if y.min() < 0 or y.max() >= proba.shape[1]:
        raise EcmfError(f"cannot score: labels must be 0 to {proba.shape[1] - 1}, found {y.min()} to {y.max()}")
    return y.astype(int), proba


# ---- temperature scaling: probabilities as sure as the model is right, without another prediction (Guo et al. 2017)


RANGE = (0.05, 20.0)  # of temperatures


def fit_temperature(y: np.ndarray, proba: np.ndarray) -> float:
    """The temperature whose probabilities are likeliest for labels y (N,); above 1: the model is too sure.

    Learn it on clips that neither trained the model nor are scored with it.
    """
    y, logs = np.asarray(y, int), _logs(proba)

    def surprise(log_t: float) -> float:
        return float(-log_softmax(logs / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean())

    return float(np.exp(minimize_scalar(surprise, bounds=np.log(RANGE), method="bounded").x))


def scale_temperature(proba: np.ndarray, at: float) -> np.ndarray:
    """Probabilities (N, C) at another temperature; the largest stays the largest."""
    return softmax(_logs(proba) / at, axis=1)


def tabulate_calibration(
    y: np.ndarray, oof: np.ndarray, folds: np.ndarray, test_y: np.ndarray | None = None, test: np.ndarray | None = None
) -> pd.DataFrame:
    """Expected calibration error before and after, out-of-fold and on test clips.

    Parameters
    ----------
    y, oof, folds : (N,), (N, C), (N,)
        Labels, out-of-fold probabilities and folds: each fold's temperature is learned on the others.
    test_y, test : (M,), (M, C), optional
        Scaled at the temperature of all out-of-fold clips.

    Returns
    -------
    DataFrame
        Index split; n, temperature (mean over folds), ECE before, ECE after.
    """
    rows, calibrated, found = {}, np.array(oof, float), []
    for fold in np.unique(folds):
        held = folds == fold
        if held.all():
            break
        found.append(fit_temperature(y[~held], oof[~held]))
        calibrated[held] = scale_temperature(oof[held], found[-1])
    rows["out-of-fold"] = _row(y, oof, calibrated, float(np.mean(found or [1.0])))
    if test_y is not None and len(test_y):
        at = fit_temperature(y, oof)
        rows["test"] = _row(test_y, test, scale_temperature(test, at), at)
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(y: np.ndarray, before: np.ndarray, after: np.ndarray, at: float) -> dict[str, float]:
    errors = [expected_calibration_error(y, proba) for proba in (before, after)]
    return {"n": len(y), "temperature": at, "ECE before": errors[0], "ECE after": errors[1]}


def _logs(proba: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(proba, float), 1e-12))
