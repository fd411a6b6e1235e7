"""Several uncertain opinions about each clip's label, made into one.

A short EM after Dawid and Skene (1979) finds how far each source can be trusted, and confident
learning (Northcutt et al. 2021) which given labels to doubt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRUST_GIVEN = 0.85  # prior share of right given labels, worth PRIOR_CLIPS clips of every class
PRIOR_CLIPS = 10
TEMPERS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EM_ROUNDS = 30


class Fused(NamedTuple):
    """Posterior (N, C) of the true label, the same without the given one, trust in each source."""

    posterior: np.ndarray
    without_given: np.ndarray
    trust: dict[str, float]


def fuse(found: dict[str, np.ndarray]) -> Fused:
    """Combine sources into a distribution of the true label of every clip.

    A source's vote is drawn from its distribution; with probability `trust` it is about the clip,
    else random (Dawid and Skene's model with one coin a source and soft votes). The given label has
    a full confusion matrix instead. Both are estimated by EM. Sources that read the same words or
    see the same face repeat one another, so their joint evidence is tempered: by the factor under
    which the given labels, which had no part in it, are most probable.

    Parameters
    ----------
    found : dict
        Source to distributions (N, C), NaN rows where it is silent; `given` must be among them and
        one-hot.

    Returns
    -------
    Fused
        `trust` of the given label is the expected share that is right.
    """
    tried = [_expectation_maximisation(found, temper) for temper in TEMPERS]
    return max(tried, key=lambda pair: pair[1])[0]


def confident_learning(proba: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Which given labels to doubt (Northcutt et al. 2021), from probabilities that never used them.

    A class is confident for a clip when its probability reaches the mean it has over the clips
    given that label; a label is doubted when the most probable confident class is another one.
    """
    labelled, n_classes = given >= 0, proba.shape[1]
    means = [proba[given == c, c].mean() if (given == c).any() else 1.0 for c in range(n_classes)]
    confident = np.where(proba >= np.array(means), proba, 0)
    return labelled & (confident.max(1) > 0) & (confident.argmax(1) != given)


def normalised(logs: np.ndarray) -> np.ndarray:
    """Distributions (N, C) from unnormalised log probabilities."""
    p = np.exp(logs - logs.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _expectation_maximisation(found: dict, temper: float) -> tuple[Fused, float]:
    """Fused sources, and the log-likelihood of the given labels under all the others."""
    opinions = {name: p for name, p in found.items() if name != "given"}
    n_classes, trust = found["given"].shape[1], dict.fromkeys(opinions, 0.7)
    labelled = np.isfinite(found["given"][:, 0])
    given, confusion = np.nan_to_num(found["given"]), _prior_confusion(n_classes)
    prior = (given.sum(0) + 1) / (labelled.sum() + n_classes)
    for _ in range(EM_ROUNDS):
        evidence = np.log(prior) + temper * _evidence(opinions, trust, given.shape)
        posterior = normalised(evidence + given @ np.log(confusion).T)
        trust = {name: _trust(p, trust[name], posterior) for name, p in opinions.items()}
        counts = posterior[labelled].T @ given[labelled]
        confusion = counts + PRIOR_CLIPS * _prior_confusion(n_classes)
        confusion /= confusion.sum(1, keepdims=True)
    without = normalised(evidence)
    # the confusion of the prior: that of the EM has seen the evidence it would judge
    said = (without @ _prior_confusion(n_classes) * given).sum(1)[labelled]
    right = float((prior * confusion.diagonal()).sum())
    return Fused(posterior, without, {"given": right, **trust}), float(np.log(said).sum())


def _evidence(opinions: dict, trust: dict[str, float], shape: tuple[int, int]) -> np.ndarray:
    """Sum of the log-likelihoods (N, C) of what every source says; silence says nothing."""
    total = np.zeros(shape)
    for name, p in opinions.items():
        likelihood = trust[name] * p + (1 - trust[name]) / shape[1]
        total += np.where(np.isfinite(p), np.log(likelihood), 0)
    return total


def _trust(p: np.ndarray, trust: float, posterior: np.ndarray) -> float:
    """Expected share of votes that were about the clip, with a weak prior of one half."""
    spoke = np.isfinite(p[:, 0])
    about = trust * p[spoke]
    share = (posterior[spoke] * about / (about + (1 - trust) / p.shape[1])).sum(1)
    return float((share.sum() + 1) / (spoke.sum() + 2))


def _prior_confusion(n_classes: int) -> np.ndarray:
    wrong = (1 - TRUST_GIVEN) / max(n_classes - 1, 1)
    return np.where(np.eye(n_classes) > 0, TRUST_GIVEN, wrong)
