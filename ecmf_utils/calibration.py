"""Temperature scaling: probabilities as sure as the model is right, without another prediction (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from .metrics import expected_calibration_error

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
