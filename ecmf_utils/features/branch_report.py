"""What the stored vectors of a branch look like, as tables: for the notebooks that extract them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import corpus
from ecmf_utils.media import PROBLEMS
from ecmf_utils.notebook import Note

from .loading import load, read_status
from .store import read_selected


@dataclass(frozen=True)
class Report:
    """What `report` returns, of the N clips that have a vector and of all others.

    Attributes
    ----------
    status : DataFrame
        One row a clip, see `features.read_status`.
    problems : DataFrame or Note
        Clips by status and problem, with the meaning of the problem.
    vectors : DataFrame, float32 (N, D)
        Index clip_id.
    clip_labels : list of str or None (N,)
        The annotator's label of each vector.
    numbers : DataFrame
        Clips, columns, constant columns and the largest absolute value.
    recipe : DataFrame
        Everything besides the clip that decides a vector.
    summary : DataFrame
        Branch, encoder, dimension, and clips by status.
    """

    status: pd.DataFrame
    problems: pd.DataFrame | Note
    vectors: pd.DataFrame
    clip_labels: list[str | None]
    numbers: pd.DataFrame
    recipe: pd.DataFrame
    summary: pd.DataFrame


def report(profile: str, branch: str, partial: bool = False) -> Report:
    """Describe the stored vectors of a branch.

    Parameters
    ----------
    profile : str
        Whose vectors to read.
    branch : str
        Such as `audio`.
    partial : bool
        Whether some shards may be missing.

    Returns
    -------
    Report
        Tables to show, and the vectors.

    Raises
    ------
    EcmfError
        The branch was not extracted, or a shard is missing.
    """
    status, features = read_status(profile, [branch], partial), load(profile, [branch], partial=partial)
    present, chosen = features.present[branch], read_selected(profile, branch)
    ids = np.array(features.clip_ids, dtype=object)[present]
    vectors = pd.DataFrame(features.x[branch][present], index=pd.Index(ids, name="clip_id"))
    labels = corpus.read_clips(profile).set_index("clip_id")["label"].reindex(ids)
    counts = status["status"].value_counts()
    with_problem = status.dropna(subset=["problem"]).assign(meaning=lambda rows: rows["problem"].map(PROBLEMS))
    by_problem = with_problem.groupby(["status", "problem", "meaning"]).size().to_frame("clips")
    return Report(
        status=status,
        problems=by_problem if len(by_problem) else Note("Every clip has a vector."),
        vectors=vectors,
        clip_labels=[label if isinstance(label, str) else None for label in labels],
        numbers=_values(
            {
                "clips": len(vectors),
                "columns": vectors.shape[1],
                "constant columns": int((vectors.nunique() <= 1).sum()),
                "largest |value|": round(float(vectors.abs().to_numpy().max(initial=0)), 1),
            }
        ),
        recipe=_values(chosen["recipe"] | {"recipe hash": chosen["recipe_hash"]}),
        summary=_values(
            {
                "branch": branch,
                "encoder": chosen["recipe"]["name"],
                "dimension": features.dims[branch],
                "ok": len(vectors),
                "missing": int(counts.get("missing", 0)),
                "failed": int(counts.get("failed", 0)),
            }
        ),
    )


def _values(facts: dict[str, Any]) -> pd.DataFrame:
    """Facts as text, one below the other."""
    return pd.Series(facts, name="value", dtype=object).astype(str).to_frame()
