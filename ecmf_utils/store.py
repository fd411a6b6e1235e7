"""Feature files: parts while an extraction runs, one file a shard when it has ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from . import encoders, paths

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

    def __init__(
        self, branch_folder: Path, frame_dim: int, recipe: dict[str, Any], shard: int, n_shards: int
    ) -> None:
        self.folder = branch_folder / slug_of(recipe) / recipe["level"]
        self.recipe, self.n_shards = recipe, n_shards
        pooled = encoders.pooled_dim(frame_dim, recipe["pooling"])
        self.dim = pooled if recipe["level"] == "utterance" else frame_dim
        self.loaded_dim = pooled
        self.key = paths.digest(recipe)
        self.path = self.folder / shard_name(shard, n_shards)
        self.parts = self.folder / f".parts-{self.path.stem}"
        self.schema = schema(self.dim, recipe["level"])

    def kept(self, rows: list[dict[str, Any]], retry_failed: bool) -> dict[str, tuple[Path, int]]:
        """Where the rows that may be used again are: clip to file and position in it."""
        hashes = {str(row["clip_id"]): str(row.get("content_hash")) for row in rows}
        found = {}
        for path in [*self.folder.glob("*.parquet"), *self.folder.glob(".parts-*/*.parquet")]:
            for position, row in enumerate(_keys(path)):
                same = hashes.get(row["clip_id"]) == row["content_hash"]
                usable = row["status"] != "failed" or not retry_failed
                if same and usable and row["recipe_hash"] == self.key:
                    found[row["clip_id"]] = (path, position)
        return found

    def write_part(self, results: list[dict[str, Any]]) -> None:
        """Keep the results of some clips, so that a kill from now on does not lose them."""
        name = paths.digest([result["clip_id"] for result in results])
        rows = [result | {"recipe_hash": self.key} for result in results]
        columns = {
            field.name: pa.array([row.get(field.name) for row in rows], field.type)
            for field in self.schema
        }
        paths.write_parquet(pa.table(columns, schema=self.schema), self.parts / f"{name}.parquet")

    def merge(self, rows: list[dict[str, Any]]) -> None:
        """Write the shard's file in the order of the rows, drop the parts and older shardings."""
        place = self.kept(rows, retry_failed=False)
        files = sorted({path for path, _ in place.values()})
        tables = {path: pq.read_table(path, columns=self.schema.names) for path in files}
        starts = dict(zip(files, np.cumsum([0, *(len(tables[p]) for p in files)]), strict=False))
        order = [starts[place[r["clip_id"]][0]] + place[r["clip_id"]][1] for r in rows]
        found = [tables[path].cast(self.schema) for path in files]
        table = pa.concat_tables([self.schema.empty_table(), *found])
        table = table.take(pa.array(order, pa.int64()))
        header = {"recipe": self.recipe, "recipe_hash": self.key, "dim": self.dim}
        paths.write_parquet(table, self.path, header)
        shutil.rmtree(self.parts, ignore_errors=True)
        self._tidy()

    def _tidy(self) -> None:
        """Once every shard is there, remove what another number of shards has left."""
        own = [self.folder / shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        if all(path.exists() and _recipe_of(path) == self.key for path in own):
            for path in set(self.folder.glob("*.parquet")) - set(own):
                path.unlink(missing_ok=True)
            for path in self.folder.glob(".parts-*"):
                shutil.rmtree(path, ignore_errors=True)

    def statuses(self) -> list[str]:
        """Status of every row in the shards that exist."""
        own = [self.folder / shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        rows = [row for path in own if path.exists() for row in _keys(path)]
        return [row["status"] for row in rows if row["recipe_hash"] == self.key]


def schema(dim: int, level: str) -> pa.Schema:
    """Columns of a feature file; the vector is null where nothing is known."""
    vector = pa.list_(pa.float32(), dim)
    own = [("vector", vector)] if level == "utterance" else [("vectors", pa.list_(vector))]
    own += [("times", pa.list_(pa.float64()))] if level == "frame" else []
    text = [(name, pa.string()) for name in ("status", "problem", "detail")]
    hashes = [(name, pa.string()) for name in ("content_hash", "recipe_hash")]
    return pa.schema([("clip_id", pa.string()), *own, ("n_frames", pa.int32()), *text, *hashes])


def slug_of(recipe: dict[str, Any]) -> str:
    """Folder name of an extraction: encoder, layers and pooling."""
    return paths.slug("-".join([recipe["name"], recipe["layers"], recipe["pooling"]]))


def shard_of(clip_id: str, n_shards: int) -> int:
    """The shard of a clip: a hash of its name, so that it does not depend on the other clips."""
    return int(paths.digest(str(clip_id)), 16) % n_shards


def shard_name(shard: int, n_shards: int) -> str:
    """File name of a shard."""
    return f"{shard:03d}-of-{n_shards:03d}.parquet"


def read_shards(
    folder: Path, chosen: dict[str, Any], made_by: str, partial: bool = False
) -> pa.Table:
    """All shards of the selected extraction; a shard that is missing or stale is one clear line.

    partial : only those that are there, for a look while other shards are still at work.
    """
    tables = []
    for shard in range(chosen["n_shards"]):
        path = folder / shard_name(shard, chosen["n_shards"])
        wanted = f"{made_by} --set shard={shard}" if chosen["n_shards"] > 1 else made_by
        if partial and (not path.exists() or _recipe_of(path) != chosen["recipe_hash"]):
            continue
        if not path.exists():
            raise paths.EcmfError(f"{paths.show(path)} is missing: run {wanted} first")
        if _recipe_of(path) != chosen["recipe_hash"]:
            raise paths.EcmfError(f"{paths.show(path)} is of another recipe: run {wanted} again")
        tables.append(pq.read_table(path))
    return pa.concat_tables(tables)


def vectors_of(table: pa.Table, pooling: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 (N, dim), 0 where there is none, and which rows have one, bool (N,)."""
    name = "vector" if "vector" in table.column_names else "vectors"
    column = table.column(name).combine_chunks()
    known = ~np.asarray(column.is_null())
    out = np.zeros((len(table), dim), np.float32)
    if name == "vector":
        out[known] = np.asarray(column.flatten()).reshape(-1, dim)
    else:
        for i in np.flatnonzero(known):
            rows = np.asarray(column[i].values.flatten())
            out[i] = encoders.pool(rows.reshape(len(column[i].values), -1), pooling)
    return out, known


def vector_table(clip_ids: list[str], vectors: list[np.ndarray | None]) -> pa.Table:
    """Vectors of equal length as a table of the two columns that matter, for exchange."""
    dim = next(len(vector) for vector in vectors if vector is not None)
    own = schema(dim, "utterance")
    columns = {"clip_id": clip_ids, "vector": vectors}
    return pa.table({name: pa.array(columns[name], own.field(name).type) for name in columns})


def read_vectors(path: Path | str) -> np.ndarray:
    """The vectors float32 (N, D) of one feature file, 0 where there is none."""
    table = pq.read_table(path, columns=["vector"])
    return vectors_of(table, "mean", table.schema.field("vector").type.list_size)[0]


def _recipe_of(path: Path) -> str | None:
    return paths.parquet_metadata(path).get("recipe_hash")


def _keys(path: Path) -> list[dict[str, Any]]:
    """The columns that decide about reuse; nothing where another shard has just tidied up."""
    try:
        return pq.read_table(path, columns=KEYS).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return []
