"""Stored vectors of every clip and branch, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, named

from .store import (
    VectorFile,
    branch_folder,
    each,
    filled,
    in_steps,
    name_notebook,
    opened,
    pooled,
    read_selected,
    shard_files,
)

LEVELS = ("utterance", "frame")


@dataclass(frozen=True)
class Features:
    """Vectors of the same clips in several branches.

    Attributes
    ----------
    clip_ids : list of str (N,)
    x : dict of branch to float32 (N, D)
        0 where the branch is missing for a clip.
    present : dict of branch to bool (N,)
    dims : dict of branch to D
    """

    clip_ids: list[str]
    x: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    dims: dict[str, int]

    def __len__(self) -> int:
        return len(self.clip_ids)


def load(
    profile: str,
    branches: list[str],
    clip_ids: Iterable[str] | None = None,
    partial: bool = False,
    steps: int = 0,
) -> Features:
    """Read the vectors of some branches.

    Parameters
    ----------
    profile : str
        Whose vectors to read.
    branches : list of str
        `audio`: what was extracted last; `audio@<slug>`: what another encoder made of the same branch, by the name of
        its folder. Both may stand side by side.
    clip_ids : iterable of str, optional
        Which clips, in which order; those of the first branch when left out.
    partial : bool
        Only the shards that are there already.
    steps : int
        Branches that are stored at frame level become sequences (N, T, D) of so many steps, the means of
        equal spans of time; others of one step. 0: vectors (N, D).

    Returns
    -------
    Features
        Vectors float32 of the same N clips in every branch.

    Raises
    ------
    EcmfError
        A branch was not extracted, or a clip is not among its rows: the notebook to run is named. Two branches are the
        same vectors.
    """
    x, present, dims, taken = {}, {}, {}, {}
    ids = None if clip_ids is None else [str(one) for one in clip_ids]
    for branch in branches:
        files, chosen = _files(profile, branch, partial)
        first = taken.setdefault((named(branch)[0], chosen["slug"]), branch)
        if first != branch:
            raise EcmfError(f"branches {first} and {branch} are the same vectors: leave one of them out")
        vectors, known = in_steps(files, chosen, steps) if steps else pooled(files, chosen)
        ids, order = _order(profile, branch, files, ids, chosen)
        x[branch], present[branch], dims[branch] = vectors[order], known[order], vectors.shape[-1]
    return Features(ids or [], x, present, dims)


def load_matrix(
    profile: str, branch: str, clip_ids: Iterable[str] | None = None, partial: bool = False
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The stored vectors of a branch, bit by bit.

    Parameters
    ----------
    profile : str
        Whose vectors to read.
    branch : str
        Such as `audio`.
    clip_ids : iterable of str, optional
        Which clips, in which order; all when left out.
    partial : bool
        Only the shards that are there already.

    Returns
    -------
    clip_ids : list of str (N,)
    vectors : (N, D)
        In the type that is stored: float32, or that of published features. 0 where nothing is known.
    present : bool (N,)

    Raises
    ------
    EcmfError
        The branch is at frame level (see `frames`), was not extracted, or lacks a clip.
    """
    files, chosen = _files(profile, branch, partial)
    if chosen["level"] != "utterance":
        raise EcmfError(f"features/{branch}: stored at frame level, one clip has many vectors; use `frames`")
    vectors, known = filled(files, chosen["dim"])
    wanted = None if clip_ids is None else [str(one) for one in clip_ids]
    ids, order = _order(profile, branch, files, wanted, chosen)
    return ids, vectors[order], known[order]


def iterate_frames(profile: str, branch: str, partial: bool = False) -> Iterator[tuple[str, np.ndarray | None]]:
    """Clip by clip its stored rows (T, D), None where nothing is known; T is 1 at utterance level.

    No more than a row group (32 MiB) is in memory at a time.
    """
    for file in _files(profile, branch, partial)[0]:
        ids = file.keys.column("clip_id").to_pylist()
        for first, rows in each(file):
            yield from zip(ids[first:], rows, strict=False)


def take_clips(features: Features, idx: np.ndarray) -> Features:
    """The clips at integer positions or under a boolean mask (N,)."""
    idx = np.arange(len(features))[np.asarray(idx)]
    return replace(
        features,
        clip_ids=[features.clip_ids[i] for i in idx],
        x={branch: values[idx] for branch, values in features.x.items()},
        present={branch: known[idx] for branch, known in features.present.items()},
    )


def read_status(profile: str, branches: list[str], partial: bool = False) -> pd.DataFrame:
    """What became of each clip in some branches.

    Parameters
    ----------
    profile : str
        Whose features to look at.
    branches : list of str
        Such as `audio`.
    partial : bool
        Only the shards that are there already.

    Returns
    -------
    DataFrame
        One row a clip and branch: clip_id, branch, status (ok, missing, failed), problem, detail.

    Raises
    ------
    EcmfError
        A branch was not extracted: the notebook to run is named.
    """
    columns = ["clip_id", "branch", "status", "problem", "detail"]
    tables = [pd.DataFrame(columns=columns, dtype=object)]
    for branch in branches:
        files = _files(profile, branch, partial, ("clip_id", "status", "problem", "detail"))[0]
        found = [file.keys.select(["clip_id", *columns[2:]]).to_pandas() for file in files]
        tables += [one.assign(branch=branch) for one in found]
    return pd.concat(tables[1:] or tables, ignore_index=True)[columns]


def _files(
    profile: str, branch: str, partial: bool, columns: tuple[str, ...] = ("clip_id",)
) -> tuple[list[VectorFile], dict[str, Any]]:
    chosen = read_selected(profile, branch)
    place = branch_folder(profile, branch) / chosen["slug"] / chosen["level"]
    found = shard_files(place, chosen, name_notebook(profile, branch, chosen), partial)
    return opened(found, columns, name_notebook(profile, branch, chosen)), chosen


def _order(
    profile: str, branch: str, files: list[VectorFile], wanted: list[str] | None, chosen: dict[str, Any]
) -> tuple[list[str], np.ndarray | slice]:
    """The clips in the order asked for, and where they are among the rows of the files."""
    found = [clip_id for file in files for clip_id in file.keys.column("clip_id").to_pylist()]
    if wanted is None or wanted == found:
        return found, slice(None)
    place = {clip_id: i for i, clip_id in enumerate(found)}
    if len(place) < len(found):
        twice = next(clip_id for i, clip_id in enumerate(found) if place[clip_id] != i)
        again = f"run {name_notebook(profile, branch, chosen)} again"
        raise EcmfError(f"features/{branch}: clip {twice!r} has more than one row: {again}")
    absent = [clip_id for clip_id in wanted if clip_id not in place]
    if absent:
        raise EcmfError(
            f"features/{branch}: {len(absent)} clips have no row, the first is {absent[0]!r}: "
            f"run {name_notebook(profile, branch, chosen)} again"
        )
    return wanted, np.array([place[clip_id] for clip_id in wanted], int)
