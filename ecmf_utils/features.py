"""Vectors of every clip and branch: extracted in parts that survive a kill, read as arrays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import encoders, paths, workers
from .media import MediaError
from .readers import Timed, read_audio, read_face, read_scene, read_text

__all__ = [
    "Features", "extract", "load", "read_audio", "read_face", "read_scene", "read_text", "recipe",
    "recipe_hash", "status_table", "take",
]  # fmt: skip

MISSING = {"no_video_stream", "no_sound_stream", "silent_sound", "no_face", "empty_text",
           "no_answer"}  # fmt: skip
MADE_BY = {"scene": "22_extract_scene", "face": "21_extract_face", "audio": "23_extract_audio",
           "text": "24_extract_text", "context": "30_enrich_text"}  # fmt: skip
FEW_CLIPS = 32  # starting processes takes longer than this many clips
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


def recipe(
    encoder: encoders.Encoder, pooling: str, level: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Everything besides the clip that decides a vector; goes into the file's metadata."""
    if pooling not in encoders.POOLINGS or level not in LEVELS:
        raise paths.EcmfError(
            f"pooling={pooling!r}, level={level!r}: expected one of "
            f"{', '.join(encoders.POOLINGS)} and one of {', '.join(LEVELS)}"
        )
    return {**encoder.recipe, "pooling": pooling, "level": level, "extra": extra or {}}


def recipe_hash(recipe: dict[str, Any]) -> str:
    """16 hex digits of a recipe."""
    return paths.digest(recipe)


def extract(
    profile: str,
    branch: str,
    clips: pd.DataFrame,
    encoder: encoders.Encoder,
    read_input: Callable[[dict[str, Any]], Any],
    *,
    pooling: str = "mean",
    level: str = "utterance",
    shard: int = 0,
    n_shards: int = 1,
    part: int = 32,
    n_workers: int = 0,
    extra: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Encode a branch of a corpus and select the result for `load`.

    A row is computed again only when the clip's `content_hash` or the recipe changed, or when it
    failed before. Every `part` clips are written as they finish, so that a killed run loses no more.
    A clip that fails gets a row with its status and problem; the others go on.

    Parameters
    ----------
    clips : DataFrame
        Rows of `clips.parquet`; `clip_id` and `content_hash` are needed, and what the reader reads.
    read_input : callable
        A row as dict to the encoder's input; raises `MediaError` with a problem code. A function of
        a module or a `functools.partial` of one, since worker processes call it.
    extra : dict, optional
        What the reader depends on besides the clip, such as `n_frames` or the recipe of the crops.

    Returns
    -------
    DataFrame
        One row: branch, encoder, level, pooling, dim, clips, ok, missing, failed. How many were
        computed now is in `attrs["computed"]`.
    """
    how = recipe(encoder, pooling, level, extra)
    key, folder = recipe_hash(how), _folder(profile, branch, encoder, pooling, level)
    if not 0 <= shard < n_shards:
        raise paths.EcmfError(f"shard={shard}: expected 0 to n_shards - 1 = {n_shards - 1}")
    rows = [r for r in clips.to_dict("records") if _shard_of(r["clip_id"], n_shards) == shard]
    parts = folder / f".parts-{shard:03d}-of-{n_shards:03d}"
    schema = _schema(encoders.pooled_dim(encoder.dim, pooling), encoder.dim, level)
    kept = _kept(folder, rows, key, schema)
    todo = [row for row in rows if row["clip_id"] not in kept]
    todo_ids = {row["clip_id"] for row in todo}
    results = _results(todo, encoder, read_input, partial(_finish, how, key, encoder), part, n_workers)
    from .progress import track

    results = track(results, len(todo), branch)
    while batch := list(islice(results, part)):
        name = paths.digest([result["clip_id"] for result in batch])
        paths.write_parquet(pa.Table.from_pylist(batch, schema), parts / f"{name}.parquet")
    kept = _kept(folder, rows, key, schema, retry=False)
    table = pa.Table.from_pylist([kept[row["clip_id"]] for row in rows], schema)
    header = {"recipe": how, "recipe_hash": key, "dim": schema.field("vector").type.list_size}
    paths.write_parquet(table, folder / _shard_name(shard, n_shards), header)
    shutil.rmtree(parts, ignore_errors=True)
    return _select(profile, branch, folder, how, n_shards, len(todo_ids))
