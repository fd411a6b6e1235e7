"""How far a comparison is, told by the fits that its runs leave on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
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
    planned : rows of `comparison.plan_runs`
    estimate : DataFrame
        Of `comparison.estimate_minutes` for these rows.
    began : float
        Seconds since the epoch; older fits were there before.
    ended : keys of the runs that are over
    """
    done = total = 0.0
    runs = paths.data_dir(profile) / "runs"
    for one in planned:
        each, folds = estimate.loc[one["base"], "seconds a fit"] / 60, estimate.attrs["folds"]
        n_seeds = len(seeds) if baselines.is_random(one["base"]) else 1
        made, whole = _since(runs / one["key"], began), folds * (n_seeds + one["trials"])
        if one["key"] in ended:
            part = whole = whole if made else 0
        else:  # the first seed's fits search, the others take what was found
            part = made + min(made, folds) * one["trials"]
        done, total = done + each * part, total + each * whole
    return done, total


def _since(run: Path, began: float) -> int:
    """Fits of a run that were made since; one that is being made again is not there for a moment."""
    made = 0
    for note in run.glob(f"*/{training.FIT}"):
        with suppress(FileNotFoundError):
            made += note.stat().st_mtime >= began
    return made
