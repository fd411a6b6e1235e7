"""Runs: what a model is trained on, which models are compared, and the score rows they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from . import corpus, features, metrics, training
from .paths import EcmfError, data_dir, read_parquet, write_json

PSEUDO = -2  # fold of clips that may join every training set and are never scored


@dataclass
class Problem:
    """What a model learns from and is tested on.

    `data` holds the labelled training clips, then the pseudo-labelled ones; `fold`, `group` have a row for
    each. `given` (M,) are the annotators' labels of the labelled ones, `test_y` those of `test` (-1: unknown).
    """

    labels: list[str]
    branches: list[str]
    trained_on: str
    data: features.Features
    fold: np.ndarray
    group: np.ndarray
    given: np.ndarray
    targets: dict[int, np.ndarray]
    weights: dict[int, np.ndarray]
    test: features.Features
    test_y: np.ndarray
    clips: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """How many clips have each branch, by role."""
        n = len(self.given)
        rows = {
            b: {
                "dimension": self.data.dims[b],
                "training clips": int(self.data.present[b][:n].sum()),
                "test clips": int(self.test.present[b][self.test_y >= 0].sum()),
            }
            for b in self.branches
        }
        total = {
            "dimension": sum(self.data.dims.values()),
            "training clips": n,
            "test clips": int((self.test_y >= 0).sum()),
        }
        return pd.DataFrame(rows | {"all": total}).T


def load_problem(
    profile: str, branches: Sequence[str], labels: Sequence[str], trained_on: str = "refined"
) -> Problem:
    """Features, labels and folds of a profile, ready for cross-validation.

    Parameters
    ----------
    trained_on : {"refined", "given"}
        Refined labels differ for every held-out fold: those for fold k were made without fold k.

    Returns
    -------
    Problem
        The truth of a generated corpus is not in it.
    """
    clips = corpus.read_clips(profile).set_index("clip_id")
    folds = corpus.read_folds(profile).set_index("clip_id")["fold"]
    code = {label: i for i, label in enumerate(labels)}
    refined = _read_refined(profile) if trained_on == "refined" else None
    extra = _pseudo_ids(refined, clips) if refined is not None else []
    ids = [*folds.index, *extra]
    given = clips["label"].reindex(folds.index).map(code)
    if given.isna().any():
        raise EcmfError(
            f"data/{profile}/clips.parquet: clip {given.index[given.isna()][0]} has label "
            f"{clips['label'][given.index[given.isna()][0]]!r}, which is not one of {', '.join(labels)}"
        )
    given = given.to_numpy(int)
    fold = np.concatenate([folds.to_numpy(int), np.full(len(extra), PSEUDO)])
    targets, weights = {}, {}
    for k in sorted(set(folds)):
        targets[k], weights[k] = _targets(ids, given, refined, k, list(labels))
    held = clips[(clips["split"] != "train") & (clips["status"] == "ok")]
    test_y = held["label"].map(code).where(held["split"] == "test").fillna(-1).to_numpy(int)
    return Problem(
        list(labels),
        list(branches),
        trained_on,
        features.load(profile, branches, clip_ids=ids),
        fold,
        clips["group"].reindex(ids).to_numpy(object),
        given,
        targets,
        weights,
        features.load(profile, branches, clip_ids=list(held.index)),
        test_y,
        clips,
    )


def _read_refined(profile: str) -> pd.DataFrame:
    return read_parquet(
        data_dir(profile) / "labels" / "refined.parquet",
        made_by=f"`ecmf run 40 --profile {profile}`",
    )


def _pseudo_ids(refined: pd.DataFrame, clips: pd.DataFrame) -> list[str]:
    added = refined.loc[(refined["action"] == "added") & (refined["for_fold"] >= 0), "clip_id"]
    return [clip_id for clip_id in clips.index if clip_id in set(added)]


def _targets(
    ids: list[str], given: np.ndarray, refined: pd.DataFrame | None, fold: int, labels: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Soft targets (N, C) and weights (N,) of a training set that fold `fold` is held out of."""
    one_hot = np.eye(len(labels))
    targets = np.full((len(ids), len(labels)), 1 / len(labels))
    targets[: len(given)] = one_hot[given]
    weights = np.zeros(len(ids))
    weights[: len(given)] = 1
    if refined is None:
        return targets, weights
    rows = refined[refined["for_fold"] == fold].set_index("clip_id").reindex(ids)
    known = rows["refined"].notna().to_numpy()
    code = {label: i for i, label in enumerate(labels)}
    targets[known] = one_hot[rows.loc[known, "refined"].map(code).to_numpy(int)]
    weights = np.where(rows["weight"].notna(), rows["weight"].fillna(0), weights)
    return targets, weights


def cross_validate(profile: str, key: str, problem: Problem, make: Any, seeds: Sequence[int]) -> training.Run:
    """Train and predict every fold and seed of a run; fits already on disk are reused.

    Returns
    -------
    training.Run
        `oof` (M, C) for the labelled training clips, `test` for all other clips.
    """
    result = training.cross_validate(
        make,
        problem.data,
        problem.targets.__getitem__,
        problem.weights.__getitem__,
        problem.fold,
        problem.group,
        problem.test,
        seeds=list(seeds),
        keep=data_dir(profile) / "runs" / key,
    )
    n = len(problem.given)
    result.oof = result.oof[:n]
    result.oof_weights = None if result.oof_weights is None else result.oof_weights[:n]
    result.per_seed = [oof[:n] for oof in result.per_seed]
    return result


# ---- scores


def score_rows(profile: str, problem: Problem, result: training.Run, model: str) -> list[dict[str, Any]]:
    """One row per split and kind of truth: what `results.json` lists.

    A generated corpus is also scored on its known truth; a real one on the observed labels only.
    """
    truth = _truth(profile, problem)
    n = len(problem.given)
    train_ids = problem.data.clip_ids[:n]
    wanted = [("oof", "observed", train_ids, problem.given, result.oof)]
    if truth is not None:
        wanted.append(("oof", "truth", train_ids, truth.reindex(train_ids).to_numpy(int), result.oof))
    tested = problem.test_y >= 0
    if tested.any():
        ids = [i for i, known in zip(problem.test.clip_ids, tested, strict=True) if known]
        y = problem.test_y[tested] if truth is None else truth.reindex(ids).to_numpy(int)
        wanted.append(("test", "observed" if truth is None else "truth", ids, y, result.test[tested]))
    return [_score_row(problem, model, len(result.per_seed), *each) for each in wanted]


def _score_row(
    problem: Problem,
    model: str,
    seeds: int,
    split: str,
    scored_on: str,
    ids: list[str],
    y: np.ndarray,
    proba: np.ndarray,
) -> dict[str, Any]:
    speakers = problem.clips["speaker"].reindex(ids).to_numpy(object)
    interval = metrics.bootstrap_ci(y, proba, speakers)
    found = {name: round(value, 4) for name, value in metrics.scores(y, proba).items()}
    return {
        "model": model,
        "branches": problem.branches,
        "labels": problem.trained_on,
        "split": split,
        "n": len(y),
        "seeds": seeds,
        "weighted_f1": found["weighted_f1"],
        "ci95": [round(v, 4) for v in interval.ci],
        "ci_unit": interval.unit,
        "accuracy": found["accuracy"],
        "macro_f1": found["macro_f1"],
        "ece": found["ece"],
        "scored_on": scored_on,
    }


def _truth(profile: str, problem: Problem) -> pd.Series | None:
    table = corpus.read_truth(profile)
    code = {label: i for i, label in enumerate(problem.labels)}
    return None if table is None else table.set_index("clip_id")["truth"].map(code)


def save(profile: str, key: str, problem: Problem, result: training.Run, rows: list[dict[str, Any]]) -> None:
    """Write the predictions and the score rows of a run."""
    n = len(problem.given)
    role = problem.clips["split"].reindex(problem.test.clip_ids).to_numpy(object)
    training.save_predictions(
        profile,
        key,
        problem.labels,
        problem.branches,
        [*problem.data.clip_ids[:n], *problem.test.clip_ids],
        ["oof"] * n + list(role),
        np.concatenate([result.oof, result.test]),
        _stack(result),
        len(result.per_seed),
    )
    write_json(data_dir(profile) / "runs" / key / "scores.json", rows)


def _stack(result: training.Run) -> np.ndarray | None:
    return None if result.oof_weights is None else np.concatenate([result.oof_weights, result.test_weights])
