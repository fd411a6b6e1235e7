"""What a refinement did to the labels, as tables, and whether it was right.

This is analysis: `audit` reads the known truth of a generated corpus. Nothing that is trained reads what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecmf_utils import corpus
from ecmf_utils.notebook import Note

from .labels import NONE_HELD_OUT

UNKNOWN = Note("The truth of a real corpus is not known.")
ACTIONS = ("changed", "dropped", "weighted", "added")


@dataclass(frozen=True)
class Audit:
    """What `audit` returns. Without a fold in its description, a table is of the labels made with no fold held out.

    Attributes
    ----------
    whole : DataFrame
        The refined labels made with no fold held out, index clip_id.
    labelled : DataFrame
        Those of `whole` that an annotator has labelled.
    changed : DataFrame
        Those of `labelled` whose label was changed, the most confident first.
    reliability : DataFrame
        How often each source speaks and agrees, see `measure_reliability`.
    actions : DataFrame
        Clips by action, with a column for each fold held out.
    correctness : DataFrame or Note
        Right labels, clips and their share: given, refined, and added ones.
    moves : DataFrame or Note
        Changed clips: from wrong to right, right to wrong, wrong to wrong.
    sign_test : Note
        Whether as many changes were for the worse as for the better.
    stability : DataFrame
        Clips by the number of different labels that the folds gave them.
    summary : DataFrame
        Labelled clips, and clips by action.
    """

    whole: pd.DataFrame
    labelled: pd.DataFrame
    changed: pd.DataFrame
    reliability: pd.DataFrame
    actions: pd.DataFrame
    correctness: pd.DataFrame | Note
    moves: pd.DataFrame | Note
    sign_test: Note
    stability: pd.DataFrame
    summary: pd.DataFrame


def audit(profile: str, refined: pd.DataFrame, labels: Sequence[str]) -> Audit:
    """Describe what a refinement did, and compare it with the truth where that is known.

    Parameters
    ----------
    profile : str
        Whose truth to compare with; only a generated corpus has one.
    refined : DataFrame
        The table of `refine`.
    labels : sequence of str
        Names of the classes.

    Returns
    -------
    Audit
        Tables and notes to show.
    """
    whole = refined[refined["for_fold"] == NONE_HELD_OUT].set_index("clip_id")
    labelled, added = whole[whole["action"] != "added"], whole[whole["action"] == "added"]
    changed = labelled[labelled["action"] == "changed"].sort_values("confidence", ascending=False)
    held_out = refined["for_fold"].map(lambda fold: "none held out" if fold < 0 else f"fold {fold} held out")
    different = refined[refined["action"] != "added"].groupby("clip_id")["refined"].nunique(dropna=False)
    counts = whole["action"].value_counts()
    truth = corpus.read_truth(profile)
    true = None if truth is None else truth.set_index("clip_id")["truth"]
    moves = None if true is None else _name_moves(changed, true)
    return Audit(
        whole=whole,
        labelled=labelled,
        changed=changed,
        reliability=measure_reliability(refined, labels).round(2),
        actions=pd.crosstab(refined["action"], held_out).rename_axis(index=None, columns=None),
        correctness=UNKNOWN if true is None else _count_right(labelled, added, true),
        moves=_table_of_moves(moves),
        sign_test=_test_signs(moves),
        stability=different.value_counts().rename_axis("different refined labels").to_frame("clips"),
        summary=pd.Series(
            {"clips": len(labelled)} | {action: int(counts.get(action, 0)) for action in ACTIONS}
        ).to_frame("value"),
    )


def measure_reliability(refined: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """How often each source speaks and agrees, over the labelled clips with no fold held out.

    Returns
    -------
    DataFrame
        Index source; `clips` (it speaks of), `agrees with given`, `agrees with refined` (0-1).
    """
    rows = refined[(refined["for_fold"] == NONE_HELD_OUT) & (refined["action"] != "added")]
    end = f"_{labels[0]}"
    names = [
        name
        for column in rows
        if column == f"s_{(name := column[2 : -len(end)])}{end}"
        and all(f"s_{name}_{label}" in rows for label in labels)  # one label may end another
    ]
    table = {}
    for name in names:
        p = rows[[f"s_{name}_{label}" for label in labels]].to_numpy(float)
        spoke = np.isfinite(p[:, 0])
        said = np.array(list(labels), dtype=object)[np.nan_to_num(p).argmax(1)]
        table[name] = {"clips": int(spoke.sum())}
        for column in ("given", "refined"):
            agrees = (said == rows[column].to_numpy(object))[spoke]
            table[name][f"agrees with {column}"] = float(agrees.mean()) if len(agrees) else np.nan
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("source")


def _count_right(labelled: pd.DataFrame, added: pd.DataFrame, true: pd.Series) -> pd.DataFrame:
    columns = {"given": labelled["given"], "refined": labelled["refined"], "added": added["refined"]}
    right = {name: int((column == true.reindex(column.index)).sum()) for name, column in columns.items()}
    table = pd.DataFrame({"right": right, "clips": {name: len(column) for name, column in columns.items()}})
    return table.assign(share=(table["right"] / table["clips"]).round(3))


def _name_moves(changed: pd.DataFrame, true: pd.Series) -> pd.Series:
    """For each changed clip what the change was, index clip_id."""
    true = true.reindex(changed.index)
    moves = pd.Series("wrong to wrong", changed.index, dtype=object)
    moves[changed["refined"] == true] = "wrong to right"
    moves[changed["given"] == true] = "right to wrong"
    return moves


def _table_of_moves(moves: pd.Series | None) -> pd.DataFrame | Note:
    if moves is None:
        return UNKNOWN
    return moves.value_counts().rename_axis(None).to_frame("changed clips") if len(moves) else Note("No label changed.")


def _test_signs(moves: pd.Series | None) -> Note:
    if moves is None:
        return UNKNOWN
    from scipy.stats import binomtest  # half a second that nothing else in this room needs

    better, worse = (int((moves == name).sum()) for name in ("wrong to right", "right to wrong"))
    if not better + worse:
        return Note("No change was for better or worse.")
    p = binomtest(better, better + worse).pvalue
    return Note(f"Sign test: {better} changes for the better, {worse} for the worse, p = {p:.2f}")
