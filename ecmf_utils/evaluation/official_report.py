"""What the official protocol would report of a corpus, as tables; and whether its folds know the groups.

The protocol itself is in `official`. Its code decides whether a stored run may be read, so tables stand here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecmf_utils.metrics import weighted_f1
from ecmf_utils.notebook import Note
from ecmf_utils.scores import read_scores
from ecmf_utils.training.problem import Problem

from . import official


@dataclass(frozen=True)
class OfficialReport:
    """What `report_official` returns; notes and an empty table where the protocol was not run.

    Attributes
    ----------
    groups : DataFrame or Note
        Index protocol; folds, labelled clips, those with a clip of their group in the training folds, and their
        share. A note where there are fewer clips than official folds.
    scores : DataFrame or Note
        Weighted F1 and what it is scored on: reported, settled, optimism, on test clips, and of the same model
        trained by this project, where notebook 51 has it. The note says how to run the protocol.
    folds : DataFrame or Note
        Of each fold the best epoch, its score, the settled score, and the difference.
    curves : DataFrame
        Columns fold, epoch (from 1), weighted_f1 on the held-out fold.
    """

    groups: pd.DataFrame | Note
    scores: pd.DataFrame | Note
    folds: pd.DataFrame | Note
    curves: pd.DataFrame


def report_official(profile: str, problem: Problem, seed: int, epochs: int) -> OfficialReport:
    """What the official protocol would report of the given labels; it is run, or read where nothing has changed.

    Parameters
    ----------
    profile : str
        Whose clips they are.
    problem : Problem
        Of `training.load_problem`.
    seed : int
        Of the folds and the networks.
    epochs : int
        Of each fold, 100 as published; 0: the protocol is not run.

    Returns
    -------
    OfficialReport
        Tables to show and to draw.

    Raises
    ------
    EcmfError
        There are fewer labelled clips than folds.
    """
    groups = _count_shared_groups(problem, seed)
    if not epochs:
        how = Note("The protocol was not run: `ecmf run 53 --set official_epochs=100` runs it as published.")
        return OfficialReport(groups, how, Note("There is no fold: the protocol was not run."), pd.DataFrame())
    run = official.run_official(profile, problem, seed, epochs)
    best = {"reported": run.reported, "settled": run.settled, "optimism": run.optimism}
    scores = pd.DataFrame({"weighted F1": best, "scored on": "held-out folds, given labels"})
    for name, f1, scored_on in _scores_on_test(profile, problem, run):
        scores.loc[name] = [f1, scored_on]
    folds = pd.DataFrame(
        {
            "best epoch": [int(np.argmax(curve)) + 1 for curve in run.curves],
            "reported": [max(curve) for curve in run.curves],
            "settled": [float(np.median(curve[-official.SETTLED :])) for curve in run.curves],
        },
        index=pd.RangeIndex(len(run.curves), name="fold"),
    )
    rows = [(fold, epoch, f1) for fold, curve in enumerate(run.curves) for epoch, f1 in enumerate(curve, 1)]
    curves = pd.DataFrame(rows, columns=["fold", "epoch", "weighted_f1"])
    folds["optimism"] = folds["reported"] - folds["settled"]
    return OfficialReport(groups, scores.round(3), folds.round(3), curves)


def _scores_on_test(profile: str, problem: Problem, run: official.OfficialRun) -> Iterator[tuple[str, float, str]]:
    """Name, weighted F1 and what it is scored on: of the protocol on test clips, and of its model as trained here."""
    rows = read_scores(profile)
    split = "test" if any(row["split"] == "test" for row in rows) else "oof"
    rows = [row for row in rows if row["split"] == split and (split == "test" or row["scored_on"] == "observed")]
    scored_on = f"{split}, {rows[0]['scored_on']}" if rows else split
    labelled = problem.test_y >= 0
    if labelled.any():
        yield "test", weighted_f1(problem.test_y[labelled], run.test[labelled]), scored_on
    same = [row for row in rows if (row["model"], row["labels"]) == ("attention", "given")]
    for row in same:
        if row["branches"] == problem.branches:
            yield "attention, trained as here", row["weighted_f1"], scored_on


def _count_shared_groups(problem: Problem, seed: int) -> pd.DataFrame | Note:
    """How many held-out clips have clips of their group among those that are learned from, by protocol."""
    n = len(problem.given)
    if n < official.FOLDS:
        return Note(f"There are {n} labelled clips, too few for {official.FOLDS} folds.")
    official_fold = np.empty(n, int)
    for number, held_out in enumerate(official._folds(n, official.FOLDS, seed)):
        official_fold[held_out] = number
    rows = {}
    protocols = {"official: random folds": official_fold, "here: folds of whole groups": problem.fold[:n]}
    for name, fold in protocols.items():
        shared = pd.Series(fold).groupby(problem.group[:n]).transform("nunique") > 1
        about = {"group also trained on": int(shared.sum()), "share": shared.mean()}
        rows[name] = {"folds": len(set(fold)), "clips": n} | about
    return pd.DataFrame.from_dict(rows, orient="index").round(2)
