"""Made-up branches for the model tests: each shows the true class, except where it does not."""

import numpy as np

from ecmf_utils.features import Features

DIMS = {"face": 60, "audio": 40, "text": 50}
MISLEADS = 0.3  # share of clips for which a branch shows a random class
ABSENT = 0.05


def make_branches(n=240, n_classes=4, seed=0, noise=0.0, n_groups=12, dims=DIMS, signal=1.0):
    """Features, true classes, given labels (a share of `noise` of them wrong) and groups."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % n_classes)
    x, present = {}, {}
    for branch, dim in dims.items():
        shown = np.where(rng.random(n) < MISLEADS, rng.integers(0, n_classes, n), truth)
        means = signal * rng.normal(size=(n_classes, dim)) * 0.45
        present[branch] = rng.random(n) >= ABSENT
        x[branch] = (means[shown] + rng.normal(size=(n, dim))) * present[branch][:, None]
        x[branch] = x[branch].astype(np.float32)
    wrong = rng.random(n) < noise
    given = np.where(wrong, (truth + rng.integers(1, n_classes, n)) % n_classes, truth)
    groups = np.array([f"speaker{i % n_groups:02d}" for i in range(n)], dtype=object)
    ids = [f"clip{i:03d}" for i in range(n)]
    return Features(ids, x, present, dict(dims)), truth, given, groups


def one_hot(y, n_classes=4):
    """Label distributions (N, C) of class indices."""
    return np.eye(n_classes)[y]


def group_numbers(groups, n_folds=3):
    """Folds (N,) that no group crosses."""
    names = sorted(set(groups))
    return np.array([names.index(group) % n_folds for group in groups])
