"""Training on one corpus for another: what the two have to share, and what they must not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import selection
from .paths import EcmfError


def same_recipes(profile: str, train_profile: str, branches: Sequence[str]) -> None:
    """Refuse branches that the two profiles encode differently.

    Raises
    ------
    EcmfError
        Names the branch and both extractions.
    """
    for branch in branches:
        here, there = (selection.read_selected(name, branch) for name in (profile, train_profile))
        if here["recipe_hash"] != there["recipe_hash"]:
            raise EcmfError(
                f"branch {branch}: {profile} has {here['slug']} of {here['dim']} numbers and {train_profile} has "
                f"{there['slug']} of {there['dim']}, or another recipe of it; extract both with the same parameters"
            )


def in_both(train: pd.DataFrame, clips: pd.DataFrame) -> set[str]:
    """Clips of one corpus that the other has too: the same content, or the same name where there are no media."""
    same = train["content_hash"].notna() & train["content_hash"].isin(clips["content_hash"].dropna())
    unseen = set(clips.index[clips["content_hash"].isna()])
    no_hash = train["content_hash"].isna()
    named = [name in clips.index and (none or name in unseen) for name, none in no_hash.items()]
    return set(train.index[same | np.array(named, bool)])
