"""The score rows of all runs of a profile: the file `runs/scores.json`.

The room `evaluation` writes this file and the pages of `ecmf_workflow` read it. Its path and its columns stand here,
below both, because the floors do not let `ecmf_workflow` import `evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import EcmfError, data_dir, read_json, show, write_json

KEYS = (
    "model", "branches", "labels", "split", "n", "seeds", "weighted_f1", "ci95", "accuracy",
    "macro_f1", "scored_on",
)  # fmt: skip


def save_scores(profile: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write the score rows of all runs to `data/<profile>/runs/scores.json`.

    Parameters
    ----------
    profile : str
        Whose scores they are.
    rows : sequence of dict
        Score rows of `training.score_rows`, in the order of the runs.

    Returns
    -------
    Path
        The file.
    """
    return write_json(_path(profile), list(rows))


def read_scores(profile: str) -> list[dict[str, Any]]:
    """Read the score rows that notebook 51 has written.

    Parameters
    ----------
    profile : str
        Whose scores to read.

    Returns
    -------
    list of dict
        The rows; empty when notebook 51 has not run.

    Raises
    ------
    EcmfError
        A row lacks one of `KEYS`.
    """
    path = _path(profile)
    if not path.exists():
        return []
    rows = read_json(path)
    for number, row in enumerate(rows):
        lacking = [key for key in KEYS if key not in row]
        if lacking:
            raise EcmfError(f"{show(path)}: row {number} lacks {', '.join(lacking)}; run 51 again")
    return rows


def _path(profile: str) -> Path:
    return data_dir(profile) / "runs" / "scores.json"
