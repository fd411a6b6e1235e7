"""Whether runs differ: what is compared with what, and paired differences on the same clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ecmf_utils import corpus, metrics, training
from ecmf_utils.corpus.label_map import index_labels
from ecmf_utils.metrics import OURS, SEARCHED
from ecmf_utils.notebook import Note

from .comparison import choose_split, describe_run

SAME = 1e-9  # differences of a score, and of an interval's ends, below which there is none


def pair_runs(done: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[str, list[str]]]:
    """What is compared with what: name of a family to the key of our run and those of the others.

    Other models against ECMF trained on the same labels (against notebook 50's where there is none), ECMF as notebook
    50 trained it against itself without a part or on other labels, and searched settings against ECMF's searched ones.
    """
    first = {key: rows[0] for key, rows in done.items()}
    searched = [key for key, row in first.items() if row["model"].endswith(SEARCHED)]
    itself = [key for key, row in first.items() if key != OURS and row["model"].partition("-no-")[0] == OURS]
    plain = [key for key in first if key not in (OURS, *searched, *itself)]
    own = {first[key]["labels"]: key for key in itself if _is_whole(first[key], first[OURS])} if itself else {}
    own |= {first[OURS]["labels"]: OURS}
    parts = {}
    for labels in dict.fromkeys(first[key]["labels"] for key in plain):
        ours = own.get(labels, OURS)
        name = f"other models, {labels} labels" + ("" if labels in own else f" (ECMF: {first[OURS]['labels']})")
        parts[name] = (ours, [key for key in plain if first[key]["labels"] == labels])
    parts["itself otherwise"] = (OURS, itself)
    for best in (key for key in searched if first[key]["model"] == OURS + SEARCHED):
        parts["other models, settings searched"] = (best, [key for key in searched if key != best])
    return {name: (key, others) for name, (key, others) in parts.items() if others}


def _is_whole(row: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """ECMF with every part and branch of notebook 50's."""
    return row["model"] == OURS and row["branches"] == ours["branches"]


class Comparison(NamedTuple):
    """Differences between runs to show, and what the bootstrap drew; notes where there is nothing to compare."""

    table: pd.DataFrame | Note
    drawn: Note


def compare_runs(
    profile: str, done: Mapping[str, Sequence[Mapping[str, Any]]], branches: Sequence[str], labels: Sequence[str]
) -> Comparison:
    """Weighted F1 of ECMF minus that of the others on the same clips, a part of the table for each of `pair_runs`.

    Parameters
    ----------
    profile : str
        Whose predictions to read.
    done : mapping
        Run key to its score rows; `ecmf` is notebook 50's run.
    branches : sequence of str
        All branches, to name the runs.
    labels : sequence of str
        Names of the C classes.

    Returns
    -------
    Comparison
        `table`: index part of the table and run, the columns of `differences`, rounded; `drawn`: a line on what the
        bootstrap drew. Notes where there is no other run.
    """
    parts = pair_runs(done)
    if not parts:
        return Comparison(Note("There is no other run to compare with."), Note("The bootstrap drew nothing."))
    split = choose_split(pd.DataFrame([row for rows in done.values() for row in rows]))
    tables = {part: compare_paired(profile, key, others, labels, split) for part, (key, others) in parts.items()}
    names = {key: describe_run(rows[0], branches) for key, rows in done.items()}
    table = pd.concat(tables, names=["ECMF minus", "run"]).rename(index=names, level="run").round(3)
    return Comparison(table, Note(f"The bootstrap drew {' and '.join(table.pop('drawn').unique())}."))


def compare_paired(
    profile: str, key: str, others: Iterable[str], labels: Sequence[str], role: str = "test"
) -> pd.DataFrame:
    """Weighted F1 of run `key` minus that of each other run on the same clips of a role, test or oof.

    Returns
    -------
    DataFrame
        As that of `differences`, and `drawn`: groups, speakers (see `training.cluster_clips`) or clips, whichever
        the bootstrap drew.
    """
    clips = corpus.read_clips(profile).set_index("clip_id")
    tables = {
        name: training.read_predictions(profile, name).set_index("clip_id").pipe(lambda t: t[t["role"] == role])
        for name in [key, *others]
    }
    ids = [i for i in tables[key].index if isinstance(clips["label"][i], str)]
    y = index_labels(clips["label"].reindex(ids), labels)
    groups, unit = training.cluster_clips(clips, ids)
    proba = {name: t.reindex(ids)[[f"p_{label}" for label in labels]].to_numpy(float) for name, t in tables.items()}
    ours = proba.pop(key)
    table = differences(y, ours, proba if ids else {}, groups)
    by_group = (table["unit"] == "groups") & (len(set(groups)) < len(ids))
    return table.assign(drawn=by_group.map({True: unit, False: "clips"})).drop(columns="unit")


def differences(
    y: np.ndarray, ours: np.ndarray, others: Mapping[Any, np.ndarray], clusters: np.ndarray | None
) -> pd.DataFrame:
    """Weighted F1 of `ours` minus that of each other on the same clips.

    Parameters
    ----------
    y, clusters : (N,)
        Labels; groups for the bootstrap.
    ours, others : (N, C)
        Probabilities; of the others by name.

    Returns
    -------
    DataFrame
        Index name of the other; `difference`, `low`, `high` (95 %, paired bootstrap, see `metrics.paired_difference`),
        `p`, `p (Holm)`, corrected for the number of others, `p (McNemar, Holm)`, corrected likewise, and `unit`:
        groups or clips. A difference that is the same in every draw has no interval and no p: nothing tells its error.
    """
    rows = {}
    for name, proba in others.items():
        paired = metrics.paired_difference(y, proba, ours, clusters)
        low, high, p = *paired.ci, paired.p
        if high - low < SAME < abs(paired.mean):
            low = high = p = np.nan
        tested = {"p": p, "p (McNemar, Holm)": metrics.mcnemar(y, proba, ours)}
        rows[name] = {"difference": paired.mean, "low": low, "high": high} | tested | {"unit": paired.unit}
    columns = ["difference", "low", "high", "p", "p (McNemar, Holm)", "unit"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    corrected = pd.Series(metrics.holm(table["p"].dropna()), table["p"].dropna().index, dtype=float)
    table.insert(4, "p (Holm)", corrected.reindex(table.index))
    return table.assign(**{"p (McNemar, Holm)": metrics.holm(table["p (McNemar, Holm)"])})
