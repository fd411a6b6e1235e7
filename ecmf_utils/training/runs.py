"""Runs: a model cross-validated on a learning problem, its predictions and the score rows it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import corpus, files, metrics
from ecmf_utils.corpus.label_map import index_labels
from ecmf_utils.files import EcmfError, data_dir, read_json, write_json
from ecmf_utils.models import search
from ecmf_utils.models.checkpoints import INFO

from . import cross_validation
from .problem import Problem, load_problem

ROLES = ("oof", "test", "unlabelled")


def cross_validate(profile: str, key: str, problem: Problem, make: Any, seeds: Sequence[int]) -> cross_validation.Run:
    """Train and predict every fold and seed of a run; fits already on disk are reused.

    Parameters
    ----------
    profile : str
        Where to keep the fits.
    key : str
        Name of the run, a folder of `data/<profile>/runs`.
    problem : Problem
        Of `load_problem`.
    make : callable
        Returns an untrained estimator, see `models.bind_model`.
    seeds : sequence of int
        Runs that are averaged.

    Returns
    -------
    Run
        `oof` (M, C) for the labelled training clips, `test` for all other clips.

    Raises
    ------
    EcmfError
        A group lies in two folds, or there are fewer than two folds.
    """
    result = cross_validation.cross_validate(
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
    if result.test is None:  # the corpus has nothing but training clips
        result.test = np.empty((0, result.oof.shape[1]))
        result.test_weights = None if result.oof_weights is None else result.oof_weights[:0]
    return result


def load_finished(
    profile: str, key: str, branches: Sequence[str], labels: Sequence[str]
) -> tuple[list[dict[str, Any]], Problem]:
    """The score rows that a run left, and what it has learned from.

    Parameters
    ----------
    profile : str
        Whose run to read.
    key : str
        Name of the run, such as `ecmf`.
    branches, labels : sequence of str
        Those that the run is expected to have.

    Returns
    -------
    rows : list of dict
        Score rows.
    problem : Problem
        Features, labels and folds.

    Raises
    ------
    EcmfError
        There is no such run, its predictions cannot be read, or branches, features, labels or folds are others
        by now: 50 has to run again.
    """
    folder, again = data_dir(profile) / "runs" / key, f"`ecmf run 50 --profile {profile}`"
    rows = read_json(folder / "scores.json", again)
    used = rows[0]["branches"]
    if list(used) != list(branches):
        raise EcmfError(
            f"{files.show(folder)}: trained on the branches {', '.join(used)}, expected {', '.join(branches)}: "
            f"run {again} with the same branches"
        )
    problem = load_problem(profile, branches, labels, rows[0]["labels"])
    about = read_json(folder / cross_validation.RUN, again)
    if about.get("seen") != _seen(problem):
        raise EcmfError(
            f"{files.show(folder)}: made from other features, labels or folds than there are now: run {again} again"
        )
    if about.get("code") != cross_validation.code() or not about.get("saved"):
        why = "not finished" if about.get("code") == cross_validation.code() else "made by other code than there is now"
        raise EcmfError(f"{files.show(folder)}: {why}: run {again} again")
    read_predictions(profile, key)  # needed at the end of a comparison that may take hours
    return rows, problem


def settings(profile: str, key: str) -> dict[str, Any]:
    """The settings that a run's model was made with; none where there is no such run."""
    folder = data_dir(profile) / "runs" / key
    if not (folder / cross_validation.RUN).exists():
        return {}
    first = read_json(folder / cross_validation.RUN)["fits"][0]
    return read_json(folder / first / INFO)["recipe"].get("settings", {})


def _seen(problem: Problem) -> str:
    given = (problem.targets.__getitem__, problem.weights.__getitem__, problem.fold, problem.group)
    return cross_validation.seen_by(problem.data, *given, problem.test)


# ---- scores


def score_rows(profile: str, problem: Problem, result: cross_validation.Run, model: str) -> list[dict[str, Any]]:
    """One row per split and kind of truth: what `results.json` lists.

    A generated corpus is also scored on its known truth; a real one on the observed labels only.

    Parameters
    ----------
    profile : str
        Whose truth to score on.
    problem : Problem
        Of `load_problem`.
    result : Run
        Of `cross_validate`.
    model : str
        Name of the model.

    Returns
    -------
    list of dict
        Score rows, see docs/formats.md.
    """
    n = len(problem.given)
    train_ids = problem.data.clip_ids[:n]
    wanted = [("oof", "observed", train_ids, problem.given, result.oof, result.per_seed)]
    learned = _truth(problem.train_profile or profile, problem)
    if learned is not None and learned.reindex(train_ids).notna().all():
        y = learned.reindex(train_ids).to_numpy(int)
        wanted.append(("oof", "truth", train_ids, y, result.oof, result.per_seed))
    truth = _truth(profile, problem)
    tested = problem.test_y >= 0
    if tested.any():
        ids = [i for i, known in zip(problem.test.clip_ids, tested, strict=True) if known]
        known = truth is not None and truth.reindex(ids).notna().all()
        y = truth.reindex(ids).to_numpy(int) if known else problem.test_y[tested]
        each = [proba[tested] for proba in result.test_per_seed]
        wanted.append(("test", "truth" if known else "observed", ids, y, result.test[tested], each))
    about = {"seconds": round(result.seconds, 2), "parameters": _parameters(result)} | _searched(result)
    return [_score_row(problem, model, *each) | about for each in wanted]


def cluster_clips(clips: pd.DataFrame, ids: Sequence[str]) -> tuple[np.ndarray, str]:
    """What intervals of these clips draw, (N,), and its name: their groups, or speakers where there are too few groups.

    clips : rows of the manifest with index clip_id.
    """
    few = clips["group"].reindex(ids).nunique() < metrics.MIN_CLUSTERS
    return clips["speaker" if few else "group"].reindex(ids).to_numpy(object), "speakers" if few else "groups"


def _parameters(result: cross_validation.Run) -> int:
    """Median over the fits: a first stage may cut more axes in one fold than in another."""
    return int(np.median([model.n_parameters for model in result.estimators]))


def _searched(result: cross_validation.Run) -> dict[str, dict[str, float]]:
    """What the nested searches of all outer folds have cost; the seeds of a fold share one."""
    folds = result.estimators[: len(result.estimators) // len(result.per_seed)]
    found = [model.trials_ for model in folds if isinstance(model, search.Searched)]
    return {"search": search.cost(found)} if found else {}


def _score_row(
    problem: Problem,
    model: str,
    split: str,
    scored_on: str,
    ids: list[str],
    y: np.ndarray,
    proba: np.ndarray,
    per_seed: list[np.ndarray],
) -> dict[str, Any]:
    groups, unit = cluster_clips(problem.train_clips if split == "oof" else problem.clips, ids)
    interval = metrics.bootstrap_ci(y, proba, groups)
    found = {name: round(value, 4) for name, value in metrics.score(y, proba).items()}
    return (
        {
            "model": model,
            "branches": problem.branches,
            "labels": problem.trained_on,
            "split": split,
            "n": len(y),
            "seeds": len(per_seed),
            "weighted_f1": found["weighted_f1"],
            "ci95": [round(v, 4) for v in interval.ci],
            "ci_unit": unit if interval.unit == "groups" else interval.unit,
            "accuracy": found["accuracy"],
            "macro_f1": found["macro_f1"],
            "ece": found["ece"],
            "scored_on": scored_on,
        }
        | _seed_spread(y, per_seed)
        | ({"train_profile": problem.train_profile} if problem.train_profile else {})
    )


def _seed_spread(y: np.ndarray, per_seed: list[np.ndarray]) -> dict[str, float]:
    """Mean and standard deviation of single seeds, each the mean probability over its folds."""
    single = [metrics.weighted_f1(y, proba) for proba in per_seed]
    if len(single) < 2:
        return {}
    return {"seed_mean": round(float(np.mean(single)), 4), "seed_sd": round(float(np.std(single, ddof=1)), 4)}


def _truth(profile: str, problem: Problem) -> pd.Series | None:
    table = corpus.read_truth(profile)
    if table is None:
        return None
    names = table.set_index("clip_id")["truth"]
    if profile == problem.train_profile:
        names = names.map(problem.label_map)
    classes = pd.Series(index_labels(names, problem.labels), names.index, dtype=float)
    return classes.where(classes >= 0)


def save_run(
    profile: str, key: str, problem: Problem, result: cross_validation.Run, rows: list[dict[str, Any]]
) -> None:
    """Write the predictions and the score rows of a run, and note that it is whole.

    Parameters
    ----------
    profile : str
        Where to write.
    key : str
        Name of the run.
    problem : Problem
        Of `load_problem`.
    result : Run
        Of `cross_validate`.
    rows : list of dict
        Of `score_rows`.
    """
    folder = data_dir(profile) / "runs" / key
    n = len(problem.given)
    role = problem.clips["split"].reindex(problem.test.clip_ids).to_numpy(object)
    if problem.train_profile:  # every clip of the other corpus is a test clip
        role = np.where(problem.test_y >= 0, "test", "unlabelled")
    save_predictions(
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
    write_json(folder / "scores.json", rows)
    write_json(folder / cross_validation.RUN, read_json(folder / cross_validation.RUN) | {"saved": True})


def _stack(result: cross_validation.Run) -> np.ndarray | None:
    return None if result.oof_weights is None else np.concatenate([result.oof_weights, result.test_weights])


def save_predictions(
    profile: str,
    run: str,
    labels: Sequence[str],
    branches: Sequence[str],
    clip_ids: Sequence[str],
    roles: Sequence[str],
    proba: np.ndarray,
    weights: np.ndarray | None,
    seeds: int,
) -> Path:
    """Write `data/<profile>/predictions/<run>.parquet`, one row per clip and role.

    Parameters
    ----------
    roles : sequence of str (N,)
        `oof`, `test` or `unlabelled` for every clip.
    proba, weights : float arrays, shape (N, C) and (N, B), weights may be None
    seeds : int
        How many were averaged.
    """
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise EcmfError(f"predictions of {run}: role {unknown[0]!r} is not one of {', '.join(ROLES)}")
    table = pd.DataFrame({"clip_id": list(clip_ids), "role": list(roles)})
    table[[f"p_{label}" for label in labels]] = np.asarray(proba, float)
    table["predicted"] = np.array(list(labels), dtype=object)[np.asarray(proba).argmax(1)]
    if weights is not None:
        table[[f"w_{branch}" for branch in branches]] = np.asarray(weights, float)
    info = {"run": run, "labels": list(labels), "branches": list(branches)}
    return files.write_parquet(table.assign(seeds=int(seeds)), _predictions(profile, run), info)


def read_predictions(profile: str, run: str) -> pd.DataFrame:
    """The table that `save_predictions` wrote."""
    return files.read_parquet(_predictions(profile, run), "50_train_fusion or 51_compare_runs")


def _predictions(profile: str, run: str) -> Path:
    return files.data_dir(profile) / "predictions" / f"{run}.parquet"
