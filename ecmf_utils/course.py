"""How far a comparison is, told by the fits that its runs leave on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from . import baselines, paths, training


def minutes(
    profile: str,
    planned: Iterable[Mapping[str, Any]],
    seeds: Sequence[int],
    estimate: pd.DataFrame,
    began: float,
    ended: Collection[str],
) -> tuple[float, float]:
    """Minutes of one core of the fits made until now, and of all; what was read from disk counts for nothing.

    Parameters
    ----------
    planned : rows of `comparison.plan`
    estimate : DataFrame
        Of `comparison.estimate` for these rows.
    began : float
        Seconds since the epoch; older fits were there before.
    ended : keys of the runs that are over
    """
    done = total = 0.0
    for one in planned:
        each, folds = estimate.loc[one["base"], "seconds a fit"] / 60, estimate.attrs["folds"]
        n_seeds = len(seeds) if baselines.is_random(one["base"]) else 1
        notes = (paths.data_dir(profile) / "runs" / one["key"]).glob(f"*/{training.FIT}")
        made, whole = sum(note.stat().st_mtime >= began for note in notes), folds * (n_seeds + one["trials"])
        if one["key"] in ended:
            done, total = done + bool(made) * each * whole, total + bool(made) * each * whole
        else:  # the first seed's fits search, the others take what was found
            done, total = done + each * (made + min(made, folds) * one["trials"]), total + each * whole
    return done, total
