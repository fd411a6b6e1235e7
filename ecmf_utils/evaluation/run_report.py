"""What the scores of one run say: by class, seed by seed, calibrated, of each head, and without each branch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecmf_utils import metrics, training
from ecmf_utils.notebook import Note
from ecmf_utils.training.cross_validation import Run
from ecmf_utils.training.problem import Problem


@dataclass(frozen=True)
class RunReport:
    """What `report_run` returns: of the labelled test clips, or of the out-of-fold ones where no test clip has a label.

    Attributes
    ----------
    classes : DataFrame
        Precision, recall, F1 and clips of each label.
    seeds : DataFrame
        Weighted F1 of the single seeds (mean, lowest, highest), and of their mean probability (together).
    calibration : DataFrame
        See `metrics.tabulate_calibration`.
    heads : DataFrame
        Scores of the head of each branch on the test clips that have the branch, and of the fusion on all.
    without : DataFrame or Note
        Weighted F1 on test clips with each branch hidden; a note where no test clip has a label.
    """

    classes: pd.DataFrame
    seeds: pd.DataFrame
    calibration: pd.DataFrame
    heads: pd.DataFrame
    without: pd.DataFrame | Note


def report_run(problem: Problem, result: Run) -> RunReport:
    """Score one run from several sides.

    Parameters
    ----------
    problem : Problem
        What the run has learned from, of `training.load_problem`.
    result : Run
        Of `training.cross_validate`.

    Returns
    -------
    RunReport
        Tables to show and to draw.
    """
    tested = problem.test_y >= 0
    y, proba, per_seed = problem.given, result.oof, result.per_seed
    if tested.any():
        y, proba, per_seed = problem.test_y[tested], result.test[tested], [p[tested] for p in result.test_per_seed]
    single = pd.Series([metrics.score(y, p)["weighted_f1"] for p in per_seed])
    fusion = metrics.score(y, proba)
    seeds = {"seeds": len(single), "mean": single.mean(), "lowest": single.min(), "highest": single.max()}
    fold = problem.fold[: len(problem.given)]
    held_out = (problem.given, result.oof, fold, problem.test_y[tested], result.test[tested])
    return RunReport(
        classes=metrics.score_classes(y, proba, problem.labels),
        seeds=pd.DataFrame([seeds | {"together": fusion["weighted_f1"]}], index=["weighted F1"]).round(3),
        calibration=metrics.tabulate_calibration(*held_out).round(3),
        heads=_score_heads(problem, result, tested, {"clips": len(y), **fusion}),
        without=_score_without(problem, result, tested),
    )


def _score_heads(problem: Problem, result: Run, tested: np.ndarray, fusion: dict[str, float]) -> pd.DataFrame:
    opinions = training.predict_heads(result.estimators, problem.test) if tested.any() else None
    rows = {}
    for i, branch in enumerate(problem.branches if opinions is not None else []):
        with_branch = tested & problem.test.present[branch]
        if with_branch.any():
            scores = metrics.score(problem.test_y[with_branch], opinions[with_branch, i])
            rows[branch] = {"clips": with_branch.sum(), **scores}
    table = pd.DataFrame(rows | {"fusion": fusion}).T[["clips", "weighted_f1", "accuracy", "macro_f1"]]
    return table.astype({"clips": int}).round(2)


def _score_without(problem: Problem, result: Run, tested: np.ndarray) -> pd.DataFrame | Note:
    if not tested.any():
        return Note("There are no labelled test clips.")
    probas = {"all branches": result.test}
    for branch in problem.branches:
        probas[f"without {branch}"] = training.predict_without(result.estimators, problem.test, [branch])
    y = problem.test_y[tested]
    scores = {name: metrics.score(y, proba[tested])["weighted_f1"] for name, proba in probas.items()}
    return pd.Series(scores, name="weighted F1 on test").round(2).to_frame()
