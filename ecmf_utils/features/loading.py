"""Stored vectors of every clip and branch, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.encoders.loading import pool
from ecmf_utils.files import EcmfError, named, show

from .feature_files import FeatureFile, find_shard
from .store import branch_folder, name_notebook, read_selected

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
    x, present, dims, branch_of = {}, {}, {}, {}
    ids = None if clip_ids is None else [str(clip_id) for clip_id in clip_ids]
    for branch in branches:
        files, selected = _open_files(profile, branch, partial)
        first = branch_of.setdefault((named(branch)[0], selected["slug"]), branch)
        if first != branch:
            raise EcmfError(f"branches {first} and {branch} are the same vectors: leave one of them out")
        vectors, has_vector = _read_as_float32(files, selected, steps)
        ids, order = _order_clips(profile, branch, files, ids, selected)
        x[branch], present[branch], dims[branch] = vectors[order], has_vector[order], vectors.shape[-1]
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
        The branch is at frame level (see `iterate_frames`), was not extracted, or lacks a clip.
    """
    files, selected = _open_files(profile, branch, partial)
    if selected["level"] != "utterance":
        raise EcmfError(f"features/{branch}: stored at frame level, one clip has many vectors; use `iterate_frames`")
    vectors, has_vector = _read_matrix(files, selected["dim"])
    wanted = None if clip_ids is None else [str(clip_id) for clip_id in clip_ids]
    ids, order = _order_clips(profile, branch, files, wanted, selected)
    return ids, vectors[order], has_vector[order]


def iterate_frames(profile: str, branch: str, partial: bool = False) -> Iterator[tuple[str, np.ndarray | None]]:
    """Clip by clip its stored rows (T, D), None where nothing is known; T is 1 at utterance level.

    No more than a batch (32 MiB) is in memory at a time.
    """
    for file in _open_files(profile, branch, partial)[0]:
        for clip_id, rows in zip(file.keys.column("clip_id").to_pylist(), _iterate_rows([file]), strict=True):
            yield clip_id, rows.copy() if len(rows) else None


def take_clips(features: Features, idx: np.ndarray) -> Features:
    """The clips at integer positions or under a boolean mask (N,)."""
    idx = np.arange(len(features))[np.asarray(idx)]
    return replace(
        features,
        clip_ids=[features.clip_ids[i] for i in idx],
        x={branch: values[idx] for branch, values in features.x.items()},
        present={branch: has_vector[idx] for branch, has_vector in features.present.items()},
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
    stored = tuple(name for name in columns if name != "branch")
    tables = [
        file.keys.select(stored).to_pandas().assign(branch=branch)
        for branch in branches
        for file in _open_files(profile, branch, partial, stored)[0]
    ]
    return pd.concat(tables or [pd.DataFrame(columns=columns, dtype=object)], ignore_index=True)[columns]


# ---- from files to arrays


def _open_files(
    profile: str, branch: str, partial: bool, columns: tuple[str, ...] = ("clip_id",)
) -> tuple[list[FeatureFile], dict[str, Any]]:
    """The shards of the selected extraction; one that is missing, stale or of another dimension is one clear line."""
    selected = read_selected(profile, branch)
    n_shards, made_by = selected["n_shards"], name_notebook(profile, branch, selected)
    files: list[FeatureFile] = []
    for shard in range(n_shards):
        path = find_shard(branch_folder(profile, branch) / selected["slug"] / selected["level"], shard, n_shards)
        file = FeatureFile(path, columns) if path.exists() else None
        current = file is not None and file.header.get("recipe_hash") == selected["recipe_hash"]
        if not current and partial:
            continue
        if not current:
            run = f"{made_by} --set shard={shard}" if n_shards > 1 else made_by
            line = f"is of another recipe: run {run} again" if file is not None else f"is missing: run {run} first"
            raise EcmfError(f"{show(path)} {line}")
        files.append(file)
        if file.dim != files[0].dim:
            raise EcmfError(
                f"{show(path)}: vectors of {file.dim} dimensions, {files[0].dim} in the first shard: "
                f"run {made_by} again for every shard"
            )
    return files, selected


def _iterate_rows(files: list[FeatureFile]) -> Iterator[np.ndarray]:
    """Vectors (T, D) of every clip, mapped; T is 0 where nothing is known."""
    for file in files:
        for batch in range(len(file.batch_lengths)):
            yield from file.read_vectors(batch)


def _read_matrix(files: list[FeatureFile], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) of utterance-level files as stored, 0 where there is none, and which rows have one."""
    has_vector = np.concatenate([np.empty(0, bool), *(file.lengths > 0 for file in files)])
    vectors = np.empty((len(has_vector), dim), files[0].dtype if files else np.float32)
    first = 0
    for file in files:
        for batch, lengths in enumerate(file.batch_lengths):
            last = first + len(lengths)
            file.read_numbers(batch, copy_to=vectors[first:last])
            first = last
    vectors[~has_vector] = 0
    return vectors, has_vector


def _read_as_float32(files: list[FeatureFile], selected: dict[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 (N, D), or sequences (N, T, D) of so many steps, and which rows have one.

    Clips without a vector are 0. Frames are pooled; vectors of a clip are a sequence of one step.
    """
    if selected["level"] == "utterance":
        vectors, has_vector = _read_matrix(files, selected["dim"])
        vectors = vectors.astype(np.float32, copy=False)
        return vectors[:, None] if steps else vectors, has_vector
    has_vector = np.concatenate([np.empty(0, bool), *(file.lengths > 0 for file in files)])
    recipe = selected["recipe"]
    shape = (steps, files[0].dim) if steps else (selected["dim"],)
    vectors = np.zeros((len(has_vector), *shape), np.float32)
    for i, rows in enumerate(_iterate_rows(files)):
        if len(rows):
            vectors[i] = (
                average_spans(rows, steps) if steps else pool(rows, recipe["pooling"], recipe.get("normalise", False))
            )
    return vectors, has_vector


def average_spans(rows: np.ndarray, steps: int) -> np.ndarray:
    """Means (T, D) of rows (F, D) in T equal spans of time; with fewer rows than steps a row serves several."""
    edges = np.arange(steps + 1) * len(rows) / steps
    starts = np.floor(edges[:-1] + 1e-9).astype(int)
    ends = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), starts + 1)
    return np.stack([rows[a:b].astype(np.float32).mean(0) for a, b in zip(starts, ends, strict=True)])


def _order_clips(
    profile: str, branch: str, files: list[FeatureFile], wanted: list[str] | None, selected: dict[str, Any]
) -> tuple[list[str], np.ndarray | slice]:
    """The clips in the order asked for, and where they are among the rows of the files."""
    stored = [clip_id for file in files for clip_id in file.keys.column("clip_id").to_pylist()]
    if wanted is None or wanted == stored:
        return stored, slice(None)
    place = {clip_id: i for i, clip_id in enumerate(stored)}
    again = f"run {name_notebook(profile, branch, selected)} again"
    if len(place) < len(stored):
        twice = next(clip_id for i, clip_id in enumerate(stored) if place[clip_id] != i)
        raise EcmfError(f"features/{branch}: clip {twice!r} has more than one row: {again}")
    absent = [clip_id for clip_id in wanted if clip_id not in place]
    if absent:
        raise EcmfError(f"features/{branch}: {len(absent)} clips have no row, the first is {absent[0]!r}: {again}")
    return wanted, np.array([place[clip_id] for clip_id in wanted], int)
