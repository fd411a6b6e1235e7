"""The protocol: group folds, several seeds, out-of-fold predictions, and fits that survive a kill.

Nothing here shows a held-out clip to a model before it is scored: standardisation, early stopping
and every other choice is made by `fit`, on the rows handed to it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.code import digest_modules
from ecmf_utils.features import Features, take_clips
from ecmf_utils.files import EcmfError, digest, file_hash, read_json, show, write_json
from ecmf_utils.models import registry
from ecmf_utils.models.checkpoints import libraries
from ecmf_utils.models.linear import training_rows
from ecmf_utils.models.search import Searched
from ecmf_utils.progress import track

FIT, RUN = "fit.json", "run.json"
DECIDING = ("ecmf_utils.models", "ecmf_utils.metrics")  # packages and modules whose code decides a fit
PerFold = Callable[[int], np.ndarray] | np.ndarray


@dataclass
class Run:
    """What `cross_validate` returns.

    Attributes
    ----------
    oof : float array, shape (N, C)
        Out-of-fold probabilities, mean over seeds; NaN for clips that are never scored.
    oof_weights : float array, shape (N, B), or None
        Weight of every branch, for models that have them.
    test, test_weights : arrays, shape (M, C) and (M, B), or None
        Mean over folds and seeds.
    per_seed, test_per_seed : lists of float arrays, shape (N, C) and (M, C)
        Out-of-fold probabilities of each seed; test probabilities, mean over its folds.
    histories : list of list of dict
        Per fit: epoch, loss, inner_loss, inner_f1, fold, seed. Empty for models without epochs.
    estimators : list
        The fitted models, seeds outside, folds inside.
    seconds : float
        Of fitting, those of reused fits included.
    reused : int
        Fits that were read from disk.
    """

    oof: np.ndarray
    oof_weights: np.ndarray | None
    test: np.ndarray | None
    test_weights: np.ndarray | None
    per_seed: list[np.ndarray] = field(default_factory=list)
    test_per_seed: list[np.ndarray] = field(default_factory=list)
    histories: list[list[dict[str, Any]]] = field(default_factory=list)
    estimators: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    reused: int = 0


def cross_validate(
    make: Callable[[], Any],
    features: Features,
    targets: PerFold,
    weights: PerFold,
    folds: np.ndarray,
    groups: np.ndarray,
    test_features: Features | None = None,
    seeds: Sequence[int] = (0,),
    keep: Path | None = None,
) -> Run:
    """Out-of-fold and test predictions of a model.

    Parameters
    ----------
    make : callable
        Returns an untrained estimator (see `models.bind_model`).
    targets, weights : callable or array
        Fold to label distributions (N, C) and sample weights (N,) of the training set which that
        fold is held out of; an array serves every fold.
    folds : int array, shape (N,)
        0, 1, … : scored when held out. -2: joins the training sets whose held-out fold has none
        of its group, never scored. Other values: not used.
    groups : array, shape (N,)
        No group may lie in two folds.
    test_features : Features, optional
        Predicted by every fit; the mean probability counts.
    keep : Path, optional
        Every fit is saved here as it ends and reused while its recipe, code and data are the same.

    Raises
    ------
    EcmfError
        A group lies in two folds, or there are fewer than two folds.
    """
    folds, groups = np.asarray(folds), np.asarray(groups, dtype=object).astype(str)
    held_out = _check_folds(folds, groups)
    shapes = np.asarray(_at(targets, held_out[0])).shape
    oofs, tests, run = [], [], Run(np.empty(0), None, None, None)
    known = _digest_features(features) if keep else ""
    jobs = [(int(seed), fold) for seed in seeds for fold in held_out]
    for seed, fold in track(jobs, len(jobs), "fits"):
        if fold == held_out[0]:
            oofs.append(_Collected(shapes))
        rows = training_rows(folds, groups, fold)
        data = (_at(targets, fold)[rows], _at(weights, fold)[rows], groups[rows])
        folder = Path(keep) / f"seed{seed}-fold{fold}" if keep else None
        model = _fitted(make, features, rows, data, seed, fold, folder, known, run)
        scored = np.flatnonzero(folds == fold)
        oofs[-1].put(scored, *model.predict(take_clips(features, scored)))
        if test_features is not None and len(test_features):
            tests.append(model.predict(test_features))
    if keep:
        fits = [f"seed{s}-fold{f}" for s, f in jobs]
        seen = seen_by(features, targets, weights, folds, groups, test_features)
        write_json(Path(keep) / RUN, {"fits": fits, "seen": seen, "code": code()})
    run.per_seed = [one.proba for one in oofs]
    run.oof, run.oof_weights = _mean([(one.proba, one.weights) for one in oofs])
    if tests:
        run.test, run.test_weights = _mean(tests)
        each = len(held_out)
        run.test_per_seed = [_mean(tests[i : i + each])[0] for i in range(0, len(tests), each)]
    return run


def seen_by(
    features: Features,
    targets: PerFold,
    weights: PerFold,
    folds: np.ndarray,
    groups: np.ndarray,
    test_features: Features | None = None,
) -> str:
    """A digest of all that `cross_validate` is given: what else has one has seen other data."""
    folds = np.asarray(folds)
    labels = [_at(values, fold) for fold in sorted({*folds[folds >= 0]}) for values in (targets, weights)]
    known = [_digest_features(part) for part in (features, test_features) if part is not None]
    return digest(known, _digest_arrays(folds, np.asarray(groups, dtype=object).astype(str), *labels))


def predict_mean(estimators: Sequence[Any], features: Features) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean probabilities (N, C) and mean branch weights (N, B) or None of several fitted models."""
    return _mean([model.predict(features) for model in estimators])


def predict_without(estimators: Sequence[Any], features: Features, branches: Sequence[str]) -> np.ndarray:
    """Mean probabilities (N, C) as if the named branches were missing for every clip."""
    present = {b: known & (b not in branches) for b, known in features.present.items()}
    return predict_mean(estimators, replace(features, present=present))[0]


def predict_heads(estimators: Sequence[Any], features: Features) -> np.ndarray | None:
    """Mean probabilities (N, B, C) of the heads of several fitted models, NaN where a branch is absent."""
    found = [model.predict_heads(features) for model in estimators]
    return None if found[0] is None else np.mean(found, axis=0)


@dataclass
class _Collected:
    """Out-of-fold predictions of one seed, filled fold by fold."""

    shape: tuple[int, int]
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.proba = np.full(self.shape, np.nan)

    def put(self, rows: np.ndarray, proba: np.ndarray, weights: np.ndarray | None) -> None:
        self.proba[rows] = proba
        if weights is not None:
            if self.weights is None:
                self.weights = np.full((self.shape[0], weights.shape[1]), np.nan)
            self.weights[rows] = weights


def _fitted(make, features, rows, data, seed, fold, folder, known, run: Run) -> Any:
    model = make()
    about = (model.recipe, code(), libraries(), known, _digest_arrays(rows, *data))
    key = digest(*about, seed, fold)
    if folder is not None and isinstance(model, Searched):  # the seeds of a fold share its search
        model.journal = folder.parent / f"search-{digest(*about, fold)}.log"
    found = _saved(folder, key)
    if found is not None:
        model.load(folder)
        run.reused += 1
    else:
        if folder is not None:
            (folder.parent / RUN).unlink(missing_ok=True)  # half of its fits would be another run's
        start = time.perf_counter()
        model.fit(take_clips(features, rows), *data, seed=seed)
        found = {"digest": key, "seconds": time.perf_counter() - start}
        if folder is not None:
            (folder / FIT).unlink(missing_ok=True)  # it vouches for what lies beside it
            model.save(folder)
            write_json(folder / FIT, found | {"files": _files(folder)})
    run.seconds += found["seconds"]
    run.estimators.append(model)
    run.histories.append([{**row, "fold": fold, "seed": seed} for row in model.history_])
    return model


def _saved(folder: Path | None, key: str) -> dict[str, Any] | None:
    """The record of a fit on disk, if it is of this recipe and data and its files are as they were left."""
    if folder is None or not (folder / FIT).exists():
        return None
    try:
        found = read_json(folder / FIT)
    except EcmfError:  # a broken record is no record: the fit is made again
        return None
    whole = isinstance(found, dict) and found.get("digest") == key and found.get("files") == _files(folder)
    return found if whole else None


def _files(folder: Path) -> dict[str, str]:
    """Hashes of a saved model's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FIT)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def _check_folds(folds: np.ndarray, groups: np.ndarray) -> list[int]:
    held_out = sorted({int(fold) for fold in folds if fold >= 0})
    if len(held_out) < 2:
        raise EcmfError(
            f"{len(held_out)} folds among {len(set(groups))} groups of training clips; at least 2 are needed, "
            "and so two groups (speakers, dialogues) with labelled clips"
        )
    pairs = pd.DataFrame({"group": groups, "fold": folds})[folds >= 0].drop_duplicates()
    twice = pairs["group"][pairs["group"].duplicated()]
    if len(twice):
        raise EcmfError(f"group {twice.iloc[0]!r} lies in more than one fold; make the folds again")
    return held_out


def _at(values: PerFold, fold: int) -> np.ndarray:
    return np.asarray(values(fold) if callable(values) else values)


def _mean(
    pairs: list[tuple[np.ndarray, np.ndarray | None]],
) -> tuple[np.ndarray, np.ndarray | None]:
    weights = [w for _, w in pairs if w is not None]
    return np.mean([p for p, _ in pairs], axis=0), np.mean(weights, axis=0) if weights else None


def load_run(folder: Path) -> list[Any]:
    """All fitted models of a finished `cross_validate(keep=folder)`.

    Raises
    ------
    EcmfError
        There is no such run, it was not finished, or its code is not what would load it.
    """
    about = read_json(Path(folder) / RUN, "50_train_fusion")
    if not about.get("fits"):
        raise EcmfError(f"{show(folder)}: the run has no fitted model; run 50_train_fusion again")
    if about.get("code") != code():
        raise EcmfError(f"{show(folder)}: trained by other code than there is now; run 50_train_fusion again")
    return [registry.load_model(Path(folder) / name) for name in about["fits"]]


def code() -> str:
    """Changes with the code that decides a fit, so that an edit never reuses an older fit."""
    return digest_modules(*DECIDING)


def _digest_features(features: Features) -> str:
    parts = [v for b in features.x for v in (features.x[b], features.present[b])]
    return digest(list(features.x), _digest_arrays(*parts))


def _digest_arrays(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        array = array.astype("U") if array.dtype == object else array
        whole.update(f"{array.dtype}{array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]
