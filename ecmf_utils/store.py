"""Feature files: parts while an extraction runs, one file a shard when it has ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import encoders, paths, vectors

KEYS = ["clip_id", "content_hash", "recipe_hash", "status"]


class Store:
    """The files of one extraction (`<branch>/<slug>/<level>/`) and one shard of it.

    Parameters
    ----------
    branch_folder : Path
    frame_dim : int
        Length of a frame-level row.
    recipe : dict
        With its hash `key` it decides which stored rows may be used again.
    """

    def __init__(self, branch_folder: Path, frame_dim: int, recipe: dict[str, Any], shard: int, n_shards: int) -> None:
        self.folder = branch_folder / slug_of(recipe) / recipe["level"]
        self.recipe, self.n_shards = recipe, n_shards
        pooled = encoders.pooled_dim(frame_dim, recipe["pooling"])
        self.dim = pooled if recipe["level"] == "utterance" else frame_dim
        self.loaded_dim = pooled
        self.key = paths.digest(recipe)
        self.path = self.folder / paths.shard_name(shard, n_shards)
        self.parts = self.folder / f".parts-{self.path.stem}"
        self.level = recipe["level"]
        self.dtype = np.dtype(dtype_of(recipe))
        self.schema = schema(self.dim, self.level, self.dtype.name)
        self.keys = pa.schema([field for field in self.schema if field.name not in vectors.LEAVES])

    def kept(self, rows: list[dict[str, Any]], retry_failed: bool) -> dict[str, tuple[Path, int]]:
        """Where the rows that may be used again are: clip to file and position in it."""
        stored = sorted(self._stored(rows), key=lambda one: one[2] == "ok")  # of two rows of a clip, the good one
        return {one: place for one, place, status in stored if status != "failed" or not retry_failed}

    def any_ok(self, rows: list[dict[str, Any]]) -> bool:
        """Whether any of these rows has a vector so far."""
        return any(status == "ok" for _, _, status in self._stored(rows))

    def _stored(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[Path, int], str]]:
        """Clip, place and status of what was computed from the same content by the same recipe."""
        hashes = {str(row["clip_id"]): str(row.get("content_hash")) for row in rows}
        for path in [*self.folder.glob("*.parquet"), *self.folder.glob(".parts-*/*.parquet")]:
            for position, row in enumerate(_keys(path)):
                same = hashes.get(row["clip_id"]) == row["content_hash"]
                if same and row["recipe_hash"] == self.key:
                    yield row["clip_id"], (path, position), row["status"]

    def drop_parts(self) -> None:
        """Forget what was written since the last `merge`."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def write_part(self, results: list[dict[str, Any]]) -> None:
        """Keep the results of some clips, so that a kill from now on does not lose them."""
        name = paths.digest([result["clip_id"] for result in results])
        rows = [result | {"recipe_hash": self.key} for result in results]
        own = {field.name: [row.get(field.name) for row in rows] for field in self.keys}
        keys = pa.table(own, self.keys)
        found = [self._rows_of(row) for row in rows]
        values = np.concatenate([np.empty((0, self.dim), self.dtype), *found])
        table = self._table(keys, values, np.array([len(one) for one in found]))
        paths.write_atomic(self.parts / f"{name}.parquet", lambda tmp: pq.write_table(table, tmp, **vectors.WRITE))

    def merge(self, rows: list[dict[str, Any]]) -> None:
        """Write the shard's file in the order of the rows, drop the parts and older shardings.

        No more than a row group is in memory at a time, besides the columns that are not vectors.
        """
        place = self.kept(rows, retry_failed=False)
        files = sorted({path for path, _ in place.values()})
        own = tuple(field.name for field in self.keys)
        found = [vectors.VectorFile(path, own) for path in files]
        starts = dict(zip(files, np.cumsum([0, *map(len, found)]), strict=False))
        order = np.array([starts[place[r["clip_id"]][0]] + place[r["clip_id"]][1] for r in rows], int)
        tables = [self.keys.empty_table(), *(one.keys.select(own).cast(self.keys) for one in found)]
        keys = pa.concat_tables(tables).take(pa.array(order))
        lengths = np.concatenate([np.empty(0, int), *(one.lengths for one in found)])[order]
        paths.write_atomic(self.path, lambda tmp: self._write(tmp, keys, lengths, found, order))
        self.drop_parts()
        self._tidy()

    def _write(
        self, path: Path, keys: pa.Table, lengths: np.ndarray, files: list[vectors.VectorFile], order: np.ndarray
    ) -> None:
        own = {"schema_version": paths.SCHEMA_VERSION, "recipe": self.recipe, "recipe_hash": self.key, "dim": self.dim}
        head = self.schema.with_metadata({b"ecmf": json.dumps(own, default=str).encode()})
        with pq.ParquetWriter(path, head, **vectors.WRITE) as writer:
            for rows in vectors.groups(lengths, self.dim * self.dtype.itemsize):
                table = self._table(keys[rows], vectors.gather(files, order[rows], self.dim, self.dtype), lengths[rows])
                writer.write_table(table.cast(head), row_group_size=len(table))

    def _rows_of(self, row: dict[str, Any]) -> np.ndarray:
        """The vectors (T, D) of a result; none where nothing is known, one at utterance level."""
        found = row.get("vector") if self.level == "utterance" else row.get("vectors")
        return np.asarray([] if found is None else found, self.dtype).reshape(-1, self.dim)

    def _table(self, keys: pa.Table, values: np.ndarray, lengths: np.ndarray) -> pa.Table:
        column = vectors.column(values, lengths, self.level, self.dtype.name, self.dim)
        place = 1  # behind the clip_id
        return keys.add_column(place, self.schema.field(place), column.cast(self.schema.field(place).type))

    def _tidy(self) -> None:
        """Once every shard is there, remove what another number of shards has left."""
        own = [self.folder / paths.shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        if all(path.exists() and _recipe_of(path) == self.key for path in own):
            for path in set(self.folder.glob("*.parquet")) - set(own):
                path.unlink(missing_ok=True)
            at_work = {f".parts-{path.stem}" for path in own}  # another shard may write there now
            for path in self.folder.glob(".parts-*"):
                if path.name not in at_work:
                    shutil.rmtree(path, ignore_errors=True)

    def statuses(self) -> list[str]:
        """Status of every row in the shards that exist."""
        own = [self.folder / paths.shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        rows = [row for path in own if path.exists() for row in _keys(path)]
        return [row["status"] for row in rows if row["recipe_hash"] == self.key]


def dtype_of(recipe: dict[str, Any]) -> str:
    """The type that vectors are stored in: float32, or as they came where they were imported."""
    return recipe["dtype"] if recipe.get("imported") else "float32"


def schema(dim: int, level: str, dtype: str = "float32") -> pa.Schema:
    """Columns of a feature file; the vector is null where nothing is known."""
    vector = pa.list_(vectors.TYPES[dtype], dim)
    own = [("vector", vector)] if level == "utterance" else [("vectors", pa.list_(vector))]
    own += [("times", pa.list_(pa.float64()))] if level == "frame" else []
    text = [(name, pa.string()) for name in ("status", "problem", "detail")]
    hashes = [(name, pa.string()) for name in ("content_hash", "recipe_hash")]
    return pa.schema([("clip_id", pa.string()), *own, ("n_frames", pa.int32()), *text, *hashes])


def slug_of(recipe: dict[str, Any]) -> str:
    """Folder name of an extraction: encoder, layers and pooling."""
    return paths.slug("-".join([recipe["name"], recipe["layers"], recipe["pooling"]]))


def shard_files(folder: Path, chosen: dict[str, Any], made_by: str, partial: bool = False) -> list[Path]:
    """All shards of the selected extraction; a shard that is missing or stale is one clear line.

    partial : only those that are there, for a look while other shards are still at work.
    """
    files = []
    for shard in range(chosen["n_shards"]):
        path = folder / paths.shard_name(shard, chosen["n_shards"])
        wanted = f"{made_by} --set shard={shard}" if chosen["n_shards"] > 1 else made_by
        if partial and (not path.exists() or _recipe_of(path) != chosen["recipe_hash"]):
            continue
        if not path.exists():
            raise paths.EcmfError(f"{paths.show(path)} is missing: run {wanted} first")
        if _recipe_of(path) != chosen["recipe_hash"]:
            raise paths.EcmfError(f"{paths.show(path)} is of another recipe: run {wanted} again")
        files.append(path)
    return files


def opened(found: list[Path], columns: tuple[str, ...], made_by: str) -> list[vectors.VectorFile]:
    """The files of all shards, whose vectors have to be of one length."""
    files = [vectors.VectorFile(path, columns) for path in found]
    for file in files:
        if file.dim != files[0].dim:
            raise paths.EcmfError(
                f"{paths.show(file.path)}: vectors of {file.dim} dimensions, {files[0].dim} in the first shard: "
                f"run {made_by} again for every shard"
            )
    return files


def filled(files: list[vectors.VectorFile], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) of utterance-level files as stored, 0 where there is none, and which rows have one."""
    lengths = np.concatenate([np.empty(0, int), *(file.lengths for file in files)])
    parts = [file.read() for file in files]
    found = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, dim), np.float32), *parts])
    known = lengths > 0
    if known.all():
        return found, known
    out = np.zeros((len(known), dim), found.dtype)
    out[known] = found
    return out, known


def pooled(files: list[vectors.VectorFile], chosen: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 (N, D), 0 where there is none, and which rows have one; frames are pooled."""
    if chosen["level"] == "utterance":
        found, known = filled(files, chosen["dim"])
        return found.astype(np.float32, copy=False), known
    known = np.concatenate([np.empty(0, int), *(file.lengths for file in files)]) > 0
    out, how = np.zeros((len(known), chosen["dim"]), np.float32), chosen["recipe"]
    rows = (one for file in files for _, some in each(file) for one in some)
    for i, found in enumerate(rows):
        if found is not None:
            out[i] = encoders.pool(found, how["pooling"], how.get("normalise", False))
    return out, known


def in_steps(files: list[vectors.VectorFile], chosen: dict[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences float32 (N, T, D) of frame-level files, of one step at utterance level; which rows have one."""
    if chosen["level"] == "utterance":
        found, known = pooled(files, chosen)
        return found[:, None], known
    known = np.concatenate([np.empty(0, int), *(file.lengths for file in files)]) > 0
    out = np.zeros((len(known), steps, files[0].dim), np.float32)
    rows = (one for file in files for _, some in each(file) for one in some)
    for i, found in enumerate(rows):
        if found is not None:
            out[i] = spans(found, steps)
    return out, known


def spans(rows: np.ndarray, steps: int) -> np.ndarray:
    """Means (T, D) of rows (F, D) in T equal spans of time; with fewer rows than steps a row serves several."""
    edges = np.arange(steps + 1) * len(rows) / steps
    starts = np.floor(edges[:-1] + 1e-9).astype(int)
    ends = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), starts + 1)
    return np.stack([rows[a:b].astype(np.float32).mean(0) for a, b in zip(starts, ends, strict=True)])


def each(file: vectors.VectorFile) -> Iterator[tuple[int, list[np.ndarray | None]]]:
    """First row and rows (T, D) of consecutive clips, as many as fit into a row group."""
    for rows in vectors.groups(file.lengths, file.dim * file.dtype.itemsize):
        lengths = file.lengths[rows]
        found = np.split(file.read(rows.start, rows.stop), np.cumsum(lengths)[:-1])
        yield rows.start, [one if n else None for one, n in zip(found, lengths, strict=True)]


def _recipe_of(path: Path) -> str | None:
    return paths.parquet_metadata(path).get("recipe_hash")


def _keys(path: Path) -> list[dict[str, Any]]:
    """The columns that decide about reuse; nothing where another shard has just tidied up."""
    try:
        return paths.read_table(path, columns=KEYS).to_pylist()
    except paths.EcmfError:  # or it is damaged
        return []
