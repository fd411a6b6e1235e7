"""Feature files: parts while an extraction runs, one file a shard when it has ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ecmf_utils.encoders import loading
from ecmf_utils.files import (
    DAMAGED,
    SCHEMA_VERSION,
    EcmfError,
    data_dir,
    digest,
    named,
    parquet_metadata,
    read_json,
    read_table,
    shard_name,
    show,
    slug,
    write_atomic,
    write_json,
)

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
        pooled = loading.compute_pooled_dim(frame_dim, recipe["pooling"])
        self.dim = pooled if recipe["level"] == "utterance" else frame_dim
        self.loaded_dim = pooled
        self.key = digest(recipe)
        self.path = self.folder / shard_name(shard, n_shards)
        self.parts = self.folder / f".parts-{self.path.stem}"
        self.level = recipe["level"]
        self.dtype = np.dtype(dtype_of(recipe))
        self.schema = schema(self.dim, self.level, self.dtype.name)
        self.keys = pa.schema([field for field in self.schema if field.name not in LEAVES])

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
        name = digest([result["clip_id"] for result in results])
        rows = [result | {"recipe_hash": self.key} for result in results]
        own = {field.name: [row.get(field.name) for row in rows] for field in self.keys}
        keys = pa.table(own, self.keys)
        found = [self._rows_of(row) for row in rows]
        values = np.concatenate([np.empty((0, self.dim), self.dtype), *found])
        table = self._table(keys, values, np.array([len(one) for one in found]))
        write_atomic(self.parts / f"{name}.parquet", lambda tmp: pq.write_table(table, tmp, **WRITE))

    def merge(self, rows: list[dict[str, Any]]) -> None:
        """Write the shard's file in the order of the rows, drop the parts and older shardings.

        No more than a row group is in memory at a time, besides the columns that are not vectors.
        """
        place = self.kept(rows, retry_failed=False)
        files = sorted({path for path, _ in place.values()})
        own = tuple(field.name for field in self.keys)
        found = [VectorFile(path, own) for path in files]
        starts = dict(zip(files, np.cumsum([0, *map(len, found)]), strict=False))
        order = np.array([starts[place[r["clip_id"]][0]] + place[r["clip_id"]][1] for r in rows], int)
        tables = [self.keys.empty_table(), *(one.keys.select(own).cast(self.keys) for one in found)]
        keys = pa.concat_tables(tables).take(pa.array(order))
        lengths = np.concatenate([np.empty(0, int), *(one.lengths for one in found)])[order]
        write_atomic(self.path, lambda tmp: self._write(tmp, keys, lengths, found, order))
        self.drop_parts()
        self._tidy()

    def _write(
        self, path: Path, keys: pa.Table, lengths: np.ndarray, files: list[VectorFile], order: np.ndarray
    ) -> None:
        own = {"schema_version": SCHEMA_VERSION, "recipe": self.recipe, "recipe_hash": self.key, "dim": self.dim}
        head = self.schema.with_metadata({b"ecmf": json.dumps(own, default=str).encode()})
        with pq.ParquetWriter(path, head, **WRITE) as writer:
            for rows in groups(lengths, self.dim * self.dtype.itemsize):
                table = self._table(keys[rows], gather(files, order[rows], self.dim, self.dtype), lengths[rows])
                writer.write_table(table.cast(head), row_group_size=len(table))

    def _rows_of(self, row: dict[str, Any]) -> np.ndarray:
        """The vectors (T, D) of a result; none where nothing is known, one at utterance level."""
        found = row.get("vector") if self.level == "utterance" else row.get("vectors")
        return np.asarray([] if found is None else found, self.dtype).reshape(-1, self.dim)

    def _table(self, keys: pa.Table, values: np.ndarray, lengths: np.ndarray) -> pa.Table:
        column = vector_column(values, lengths, self.level, self.dtype.name, self.dim)
        place = 1  # behind the clip_id
        return keys.add_column(place, self.schema.field(place), column.cast(self.schema.field(place).type))

    def _tidy(self) -> None:
        """Once every shard is there, remove what another number of shards has left."""
        own = [self.folder / shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        if all(path.exists() and _recipe_of(path) == self.key for path in own):
            for path in set(self.folder.glob("*.parquet")) - set(own):
                path.unlink(missing_ok=True)
            at_work = {f".parts-{path.stem}" for path in own}  # another shard may write there now
            for path in self.folder.glob(".parts-*"):
                if path.name not in at_work:
                    shutil.rmtree(path, ignore_errors=True)

    def statuses(self) -> list[str]:
        """Status of every row in the shards that exist."""
        own = [self.folder / shard_name(shard, self.n_shards) for shard in range(self.n_shards)]
        rows = [row for path in own if path.exists() for row in _keys(path)]
        return [row["status"] for row in rows if row["recipe_hash"] == self.key]


def dtype_of(recipe: dict[str, Any]) -> str:
    """The type that vectors are stored in: float32, or as they came where they were imported."""
    return recipe["dtype"] if recipe.get("imported") else "float32"


def schema(dim: int, level: str, dtype: str = "float32") -> pa.Schema:
    """Columns of a feature file; the vector is null where nothing is known."""
    vector = pa.list_(TYPES[dtype], dim)
    own = [("vector", vector)] if level == "utterance" else [("vectors", pa.list_(vector))]
    own += [("times", pa.list_(pa.float64()))] if level == "frame" else []
    text = [(name, pa.string()) for name in ("status", "problem", "detail")]
    hashes = [(name, pa.string()) for name in ("content_hash", "recipe_hash")]
    return pa.schema([("clip_id", pa.string()), *own, ("n_frames", pa.int32()), *text, *hashes])


def slug_of(recipe: dict[str, Any]) -> str:
    """Folder name of an extraction: encoder, layers and pooling."""
    return slug("-".join([recipe["name"], recipe["layers"], recipe["pooling"]]))


def shard_files(folder: Path, chosen: dict[str, Any], made_by: str, partial: bool = False) -> list[Path]:
    """All shards of the selected extraction; a shard that is missing or stale is one clear line.

    partial : only those that are there, for a look while other shards are still at work.
    """
    files = []
    for shard in range(chosen["n_shards"]):
        path = folder / shard_name(shard, chosen["n_shards"])
        wanted = f"{made_by} --set shard={shard}" if chosen["n_shards"] > 1 else made_by
        if partial and (not path.exists() or _recipe_of(path) != chosen["recipe_hash"]):
            continue
        if not path.exists():
            raise EcmfError(f"{show(path)} is missing: run {wanted} first")
        if _recipe_of(path) != chosen["recipe_hash"]:
            raise EcmfError(f"{show(path)} is of another recipe: run {wanted} again")
        files.append(path)
    return files


def opened(found: list[Path], columns: tuple[str, ...], made_by: str) -> list[VectorFile]:
    """The files of all shards, whose vectors have to be of one length."""
    files = [VectorFile(path, columns) for path in found]
    for file in files:
        if file.dim != files[0].dim:
            raise EcmfError(
                f"{show(file.path)}: vectors of {file.dim} dimensions, {files[0].dim} in the first shard: "
                f"run {made_by} again for every shard"
            )
    return files


def filled(files: list[VectorFile], dim: int) -> tuple[np.ndarray, np.ndarray]:
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


def pooled(files: list[VectorFile], chosen: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 (N, D), 0 where there is none, and which rows have one; frames are pooled."""
    if chosen["level"] == "utterance":
        found, known = filled(files, chosen["dim"])
        return found.astype(np.float32, copy=False), known
    known = np.concatenate([np.empty(0, int), *(file.lengths for file in files)]) > 0
    out, how = np.zeros((len(known), chosen["dim"]), np.float32), chosen["recipe"]
    rows = (one for file in files for _, some in each(file) for one in some)
    for i, found in enumerate(rows):
        if found is not None:
            out[i] = loading.pool(found, how["pooling"], how.get("normalise", False))
    return out, known


def in_steps(files: list[VectorFile], chosen: dict[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
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


def each(file: VectorFile) -> Iterator[tuple[int, list[np.ndarray | None]]]:
    """First row and rows (T, D) of consecutive clips, as many as fit into a row group."""
    for rows in groups(file.lengths, file.dim * file.dtype.itemsize):
        lengths = file.lengths[rows]
        found = np.split(file.read(rows.start, rows.stop), np.cumsum(lengths)[:-1])
        yield rows.start, [one if n else None for one, n in zip(found, lengths, strict=True)]


def _recipe_of(path: Path) -> str | None:
    return parquet_metadata(path).get("recipe_hash")


def _keys(path: Path) -> list[dict[str, Any]]:
    """The columns that decide about reuse; nothing where another shard has just tidied up."""
    try:
        return read_table(path, columns=KEYS).to_pylist()
    except EcmfError:  # or it is damaged
        return []


# ---- which vectors of a branch count: those that were extracted last, or those of an encoder by name


MADE_BY = {
    "scene": "22_extract_scene",
    "face": "21_extract_face",
    "audio": "23_extract_audio",
    "text": "24_extract_text",
    "context": "30_enrich_text",
}


def read_selected(profile: str, branch: str) -> dict[str, Any]:
    """What `load` reads for a branch: slug, recipe and its hash, dimension, counts."""
    place, notebook = branch_folder(profile, branch), name_notebook(profile, branch)
    chosen, (name, slug) = read_json(place / "selected.json", notebook), named(branch)
    if slug in ("", chosen["slug"]):
        return chosen
    oldest_first = sorted(place.glob("*/*/selected.json"), key=lambda path: path.stat().st_mtime)
    stored = {path.parent.parent.name: path for path in oldest_first}
    if slug not in stored:
        known = ", ".join(sorted(stored))
        raise EcmfError(f"features/{name}: no {slug!r}, there is {known}: run {notebook} for it")
    return read_json(stored[slug])


def branch_folder(profile: str, branch: str) -> Path:
    """Where the features of a branch are."""
    return data_dir(profile) / "features" / named(branch)[0]


def select_store(profile: str, branch: str, store: Store) -> pd.DataFrame:
    """Count what all shards have so far, note it as what `load` reads, return the summary."""
    how, dim = store.recipe, store.loaded_dim
    with FileLock(store.folder / ".lock"):  # shards may end at the same time
        status = pd.Series(store.statuses(), dtype=object)
        counts = {name: int((status == name).sum()) for name in ("ok", "missing", "failed")}
        chosen = {"slug": slug_of(how), "level": how["level"], "recipe": how}
        chosen |= {"schema_version": SCHEMA_VERSION, "recipe_hash": store.key, "dim": dim}
        chosen |= {"n_shards": store.n_shards} | {f"n_{name}": count for name, count in counts.items()}
        write_json(store.folder / "selected.json", chosen)
        write_json(branch_folder(profile, branch) / "selected.json", chosen)
    facts = {"branch": branch, "encoder": how["name"], "level": how["level"]}
    facts |= {"pooling": how["pooling"], "dim": dim, "clips": len(status), **counts}
    return pd.DataFrame([facts])


def name_notebook(profile: str, branch: str, chosen: dict[str, Any] | None = None) -> str:
    """What to run when vectors are not there."""
    branch = named(branch)[0]
    by_hand = f"`ecmf import-features {profile} {branch}=PATH`"
    if chosen and chosen["recipe"].get("imported"):
        return by_hand
    return MADE_BY.get(branch, f"the notebook that extracts {branch}, or {by_hand},")


# ---- the numbers of a feature file: laid out in one piece, so that they are read as fast as a copy


TYPES = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}
GROUP_BYTES = 32 << 20  # numbers in a row group: what a writer or a reader of frames holds at a time
GROUP_ROWS = 16384  # below the number of rows (20,000) after which the library begins a new page
LEAVES = {"vector": "vector.list.element", "vectors": "vectors.list.element.list.element"}
BROKEN = "the file is damaged; delete it, then extract or import the features again"
PLAIN, RLE, DATA_PAGE = 0, 3, 0  # enumerations of parquet.thrift
WRITE = {
    "compression": "none",  # numbers of an encoder hardly compress
    "use_dictionary": ["status", "problem", "detail", "content_hash", "recipe_hash"],
    "write_statistics": False,
    "data_page_size": 1 << 30,  # one page a row group
    "write_page_checksum": True,
}


def vector_column(values: np.ndarray, lengths: np.ndarray, level: str, dtype: str, dim: int) -> pa.Array:
    """A column of vectors, null where the length is 0.

    Parameters
    ----------
    values : (sum of lengths, D)
        The rows of all clips, one after another.
    lengths : int (N,)
        Rows of each clip; 0 or 1 at utterance level.
    """
    empty, values = lengths == 0, np.ascontiguousarray(values, dtype)
    if level == "frame":
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _lists(values, dim), mask=pa.array(empty))
    if empty.any():
        filled = np.zeros((len(lengths), dim), dtype)
        filled[~empty] = values
        return _lists(filled, dim, pa.array(empty))
    return _lists(values, dim)


def groups(lengths: np.ndarray, row_bytes: int) -> Iterator[slice]:
    """Consecutive clips whose numbers together take no more than a row group."""
    ends, first = np.cumsum(lengths) * row_bytes, 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + GROUP_BYTES, "right"))
        last = min(max(last, first + 1), first + GROUP_ROWS, len(lengths))
        yield slice(first, last)
        first = last


class VectorFile:
    """One feature file, whose vectors can be read for any run of its rows.

    Attributes
    ----------
    keys : Table
        The columns asked for, without the vectors.
    lengths : int (N,)
        Vectors of each row; 0 where nothing is known, at most 1 at utterance level.
    dim : int
    dtype : numpy dtype
    """

    def __init__(self, path: Path, columns: tuple[str, ...] = ("clip_id",)) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                self._meta, fields = file.metadata, file.schema_arrow
                self.name = "vector" if "vector" in fields.names else "vectors"
                wanted = dict.fromkeys((*columns, "status", "n_frames"))
                self.keys = file.read([name for name in wanted if name in fields.names])
        except DAMAGED as error:
            raise EcmfError(f"{show(path)}: {BROKEN} ({error})") from error
        kind = fields.field(self.name).type
        kind = kind.value_type if self.name == "vectors" else kind
        self.dim, self.dtype = kind.list_size, np.dtype(kind.value_type.to_pandas_dtype())
        known = np.asarray(self.keys.column("status").to_numpy() == "ok")
        frames = self.keys.column("n_frames").to_numpy().astype(int) if self.name == "vectors" else 1
        self.lengths = np.where(known, frames, 0)
        self._before = np.concatenate([[0], np.cumsum(self.lengths)])  # vectors before each row
        sizes = [self._meta.row_group(i).num_rows for i in range(self._meta.num_row_groups)]
        self._firsts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)  # first row of each group
        self._bare: dict[int, int | None] = {}
        self._decoded: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """The vectors (sum of lengths, D) of rows `first` to `last` (excluded), exactly as stored."""
        last = len(self) if last is None else last
        at, end = self._before[first], self._before[last]
        out = np.empty((end - at, self.dim), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for group, (start, stop) in enumerate(pairwise(self._before[self._firsts])):
                begin, until = max(at, start), min(end, stop)
                if begin < until:
                    self._fill(file, group, begin - start, out[begin - at : until - at])
        return out

    def _fill(self, file: BinaryIO, group: int, begin: int, out: np.ndarray) -> None:
        """Vectors of a row group, from number `begin` of the group on, into `out`."""
        if group not in self._bare:
            self._bare[group] = self._find(file, group)
        if (offset := self._bare[group]) is None:
            out[:] = self._decode(group)[begin : begin + len(out)]
            return
        file.seek(offset + begin * self.dim * self.dtype.itemsize)
        view, done = memoryview(out).cast("B"), 0
        while done < len(view):  # a raw read gives no more than 2 GiB
            got = file.readinto(view[done:])
            if not got:
                raise EcmfError(f"{show(self.path)}: {BROKEN}")
            done += got

    def _find(self, file: BinaryIO, group: int) -> int | None:
        """Where the numbers of a row group begin, None where they do not stand in one bare piece."""
        whole = self._before[self._firsts[group + 1]] - self._before[self._firsts[group]]
        rows = self._meta.row_group(group)
        chunks = (rows.column(i) for i in range(rows.num_columns))
        chunk = next(c for c in chunks if c.path_in_schema == LEAVES[self.name])
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
            return None
        return _numbers(file, chunk, int(whole) * self.dim * self.dtype.itemsize)

    def _decode(self, group: int) -> np.ndarray:
        """The numbers of a row group, read by the library; the last one is kept."""
        if self._decoded[0] != group:
            try:
                with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                    lists = file.read_row_group(group, [self.name]).column(0).combine_chunks()
            except DAMAGED as error:
                raise EcmfError(f"{show(self.path)}: {BROKEN} ({error})") from error
            lists = lists.flatten() if self.name == "vectors" else lists
            self._decoded = group, np.asarray(lists.flatten()).reshape(-1, self.dim)
            if len(self._decoded[1]) != self._before[self._firsts[group + 1]] - self._before[self._firsts[group]]:
                raise EcmfError(f"{show(self.path)}: {BROKEN}")
        return self._decoded[1]


def gather(files: list[VectorFile], order: np.ndarray, dim: int, dtype: np.dtype) -> np.ndarray:
    """The vectors of rows of several files, one after another.

    Parameters
    ----------
    order : int (N,)
        Numbers of the rows, counted through all files.
    """
    ends = np.cumsum([len(file) for file in files])
    pieces = [np.empty((0, dim), dtype)]
    for run in np.split(order, np.flatnonzero(np.diff(order) != 1) + 1) if len(order) else ():
        first, last = int(run[0]), int(run[-1]) + 1
        while first < last:  # a run may go on in the next file
            which = int(np.searchsorted(ends, first, "right"))
            before, until = ends[which] - len(files[which]), min(last, int(ends[which]))
            pieces.append(files[which].read(first - before, until - before))
            first = until
    return np.concatenate(pieces)


def _lists(values: np.ndarray, dim: int, mask: pa.Array | None = None) -> pa.Array:
    numbers = pa.array(values.reshape(-1), TYPES[values.dtype.name])
    return pa.FixedSizeListArray.from_arrays(numbers, dim, mask=mask)


def _numbers(file: BinaryIO, chunk: Any, size: int) -> int | None:
    """Offset of the numbers in a column chunk that is a single plain page with `size` bytes of them."""
    try:
        page, length = _struct(_bytes(file, chunk.data_page_offset, 256))
        body, data = page[3], page[5]
        single = data[1] == chunk.num_values and length + body == chunk.total_compressed_size
        plain = (page[1], data[2], data[3], data[4]) == (DATA_PAGE, PLAIN, RLE, RLE)
    except (IndexError, KeyError, TypeError):
        return None
    at = chunk.data_page_offset + length
    end = at + body
    for _ in ("repetition levels", "definition levels"):  # each after its length
        at += 4 + int.from_bytes(_bytes(file, at, 4), "little")
    return at if single and plain and end - at == size else None


def _bytes(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _struct(data: bytes, at: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol: field number to value, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        number, kind, at = number + (head >> 4), head & 15, at + 1
        if kind in (1, 2):  # true, false
            fields[number] = kind == 1
        elif kind == 12:  # struct
            fields[number], at = _struct(data, at)
        else:  # whole number, or the length of a text
            coded, at = _varint(data, at)
            fields[number], at = (coded >> 1) ^ -(coded & 1), at + (coded if kind == 8 else 0)
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
