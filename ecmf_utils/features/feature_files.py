"""One feature file: an Arrow file (Feather version 2) that is mapped into memory, with a checksum of each column."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecmf_utils.files import DAMAGED, EcmfError, digest, shard_name, show, write_atomic

SCHEMA_VERSION = 2  # of a feature file; version 1 was a Parquet file, and is still read
ENDING, OLD_ENDING = ".arrow", ".parquet"
TYPES = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}
BATCH_BYTES = 32 << 20  # vectors in a record batch: what a writer or a reader of frames holds at a time
SUM_BYTES = 512 << 10  # under one sum of a checksum: they stay in a processor's cache. Part of the format
UNREADABLE = (*DAMAGED, KeyError, TypeError)  # what reading a file with wrong bytes in it may raise
REMEDY = "delete it, then extract or import the features again"


# ---- names and columns


def find_shard(folder: Path, shard: int, n_shards: int) -> Path:
    """The file of a shard: the Parquet file of schema version 1 where there is no newer one."""
    path = folder / shard_name(shard, n_shards, ENDING)
    old = path.with_suffix(OLD_ENDING)
    return old if old.exists() and not path.exists() else path


def list_files(folder: Path) -> list[Path]:
    """All feature files in a folder; a Parquet file of schema version 1 only where there is no newer one."""
    new = sorted(folder.glob(f"*{ENDING}"))
    return new + [path for path in sorted(folder.glob(f"*{OLD_ENDING}")) if path.with_suffix(ENDING) not in new]


def choose_dtype(recipe: dict[str, Any]) -> str:
    """The type that vectors are stored in: float32, or as they came where they were imported."""
    return recipe["dtype"] if recipe.get("imported") else "float32"


def make_schema(dim: int, recipe: dict[str, Any]) -> pa.Schema:
    """The columns of a feature file, vectors in the second place."""
    vector, text = pa.list_(TYPES[choose_dtype(recipe)], dim), pa.string()
    vectors = {"vector": vector} if recipe["level"] == "utterance" else {"vectors": pa.list_(vector)}
    times = {"times": pa.list_(pa.float64())} if recipe["level"] == "frame" else {}
    status = {"status": text, "problem": text, "detail": text}
    hashes = {"content_hash": text, "recipe_hash": text}
    return pa.schema({"clip_id": text, **vectors, **times, "n_frames": pa.int32(), **status, **hashes})


# ---- writing


def write_file(
    path: Path,
    header: dict[str, Any],
    keys: pa.Table,
    lengths: np.ndarray,
    read_vectors: Callable[[slice], list[np.ndarray]],
) -> None:
    """Write a feature file; besides the columns that are not vectors no more than a batch is in memory at a time.

    Parameters
    ----------
    header : dict
        `recipe`, `recipe_hash` and `dim`, the length of a vector in the file.
    keys : Table
        All columns but the vectors, one row a clip.
    lengths : int (N,)
        Vectors of each clip; 0 where nothing is known.
    read_vectors : callable
        Gets consecutive rows, gives the vectors (T, D) of each of these clips.
    """
    schema = make_schema(header["dim"], header["recipe"])
    facts = {"schema_version": SCHEMA_VERSION, **header, "rows": len(keys)}
    schema = schema.with_metadata({b"ecmf": json.dumps(facts, default=str).encode()})
    row_bytes = header["dim"] * np.dtype(choose_dtype(header["recipe"])).itemsize

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for rows in split_rows(lengths, row_bytes):
                vectors = make_vector_column(read_vectors(rows), schema.field(1).type)
                table = keys[rows].add_column(1, schema.field(1), vectors)
                (batch,) = table.combine_chunks().to_batches()
                batch = pa.ipc.read_record_batch(batch.serialize(), schema)  # now its bytes are those of the file
                writer.write_batch(batch, {name: make_checksum(batch.column(name)) for name in schema.names})

    write_atomic(path, write)


def split_rows(lengths: np.ndarray, row_bytes: int) -> Iterator[slice]:
    """Consecutive clips whose vectors together fit into a batch; a clip that is longer has one of its own."""
    ends, first = np.cumsum(lengths) * row_bytes, 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + BATCH_BYTES, "right")))
        yield slice(first, last)
        first = last


def make_vector_column(vectors: list[np.ndarray], column_type: pa.DataType) -> pa.Array:
    """A column from the vectors (T, D) of each clip, null where T is 0; at utterance level T is at most 1."""
    lengths = np.array([len(rows) for rows in vectors])
    absent = pa.array(lengths == 0) if not lengths.all() else None
    per_frame = pa.types.is_list(column_type)
    vector_type = column_type.value_type if per_frame else column_type
    nothing = np.zeros((0 if per_frame else 1, vector_type.list_size))  # a null vector takes its place, too
    dtype = vector_type.value_type.to_pandas_dtype()
    numbers = np.concatenate([rows if len(rows) else nothing for rows in vectors], dtype=dtype, casting="unsafe")
    if not per_frame:
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), type=vector_type, mask=absent)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), type=vector_type)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, rows, type=column_type, mask=absent)


def make_checksum(column: pa.Array, copy_to: np.ndarray | None = None) -> str:
    """16 hex digits of the bytes of a column.

    copy_to : array that gets a copy of the column's numbers.
    """
    *others, numbers = [np.frombuffer(buffer, np.uint8) for buffer in column.buffers() if buffer]
    target = None if copy_to is None else copy_to.reshape(-1).view(np.uint8)
    return digest([_sum_words(buffer) for buffer in others], _sum_words(numbers, target))


def _sum_words(data: np.ndarray, copy_to: np.ndarray | None = None) -> list[int]:
    """The sum of the 64-bit words in every 512 KiB: as fast as memory, and no change within a word leaves it the same.

    copy_to : bytes that become a copy of the data, piece by piece, while the piece is in the processor's cache.
    """
    whole, sums = len(data) // 8 * 8, []
    for first in range(0, len(data), SUM_BYTES):
        piece = data[first : first + SUM_BYTES]
        if copy_to is not None:
            copy_to[first : first + SUM_BYTES] = piece
        sums.append(int(np.add.reduce(piece[: whole - first].view(np.uint64))))
    return [*sums, int.from_bytes(data[whole:], "little")]


# ---- reading


class ArrowReader:
    """A feature file, mapped into memory: nothing is copied."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as mapped:
            self._reader = pa.ipc.open_file(mapped.read_buffer())  # with a file it would wait for another thread
        self.schema, self.n_batches = self._reader.schema, self._reader.num_record_batches
        self.header = _parse_header(self.schema)
        if not self.schema.equals(make_schema(self.header["dim"], self.header["recipe"])):
            raise ValueError("its columns are not those of its header")

    def read(self, batch: int, names: list[str], copy_to: np.ndarray | None = None) -> pa.RecordBatch:
        """Some columns of a batch, compared with their checksums; see `make_checksum`."""
        record_batch, checksums = self._reader.get_batch_with_custom_metadata(batch)
        record_batch = record_batch.select(names)
        record_batch.validate()
        for name, column in zip(names, record_batch.columns, strict=True):
            if make_checksum(column, copy_to).encode() != checksums[name.encode()]:
                raise ValueError(f"the checksum of column {name} is wrong")
        return record_batch


class ParquetReader:
    """A feature file of schema version 1, whose row groups are its batches; they are decoded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            self.schema, self.n_batches = file.schema_arrow, file.num_row_groups
        self.header = _parse_header(self.schema)

    def read(self, batch: int, names: list[str], copy_to: np.ndarray | None = None) -> pa.RecordBatch:
        """Some columns of a batch, compared with the checksums of their pages."""
        with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
            columns = file.read_row_group(batch, names)
        return pa.record_batch({name: columns.column(name).combine_chunks() for name in names})


def read_header(path: Path) -> dict[str, Any]:
    """What a file says about itself: `schema_version`, `recipe`, `recipe_hash`, `dim` and `rows`."""
    with _report_damage(path):
        return _open(path).header


def _open(path: Path) -> ArrowReader | ParquetReader:
    return ParquetReader(path) if path.suffix == OLD_ENDING else ArrowReader(path)


def _parse_header(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(b"ecmf", b"{}"))


@contextmanager
def _report_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno:  # the library's own have none
            raise EcmfError(f"{show(path)}: cannot be read ({os.strerror(error.errno)})") from error
        reason = str(error).partition("\n")[0]
        raise EcmfError(f"{show(path)}: the file is damaged ({reason}); {REMEDY}") from error


class FeatureFile:
    """One feature file, whose vectors can be read batch by batch.

    Parameters
    ----------
    columns : iterable of str
        What `keys` has, besides `status` and `n_frames`.

    Attributes
    ----------
    header : dict
        See `read_header`.
    keys : Table
        Columns without the vectors.
    lengths : int (N,)
        Vectors of each row; 0 where nothing is known, at most 1 at utterance level.
    batch_lengths : list of int (N_b,)
        The same, batch by batch.
    dim : int
    dtype : numpy dtype

    Raises
    ------
    EcmfError
        The file is missing or damaged: one line says how, and what to do. Vectors are checked when they are read.
    """

    def __init__(self, path: Path, columns: Iterable[str] = ("clip_id",)) -> None:
        self.path = path
        with _report_damage(path):
            self._reader = _open(path)
            self.header, schema = self._reader.header, self._reader.schema
            names = [name for name in dict.fromkeys([*columns, "status", "n_frames"]) if name in schema.names]
            batches = [self._reader.read(batch, names) for batch in range(self._reader.n_batches)]
            self.keys = pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in names]))
            if len(self.keys) != self.header.get("rows", len(self.keys)):
                raise ValueError("rows are missing")
            self.per_frame = "vectors" in schema.names
            vector_type = schema.field("vectors").type.value_type if self.per_frame else schema.field("vector").type
            self.dim, self.dtype = vector_type.list_size, np.dtype(vector_type.value_type.to_pandas_dtype())
            has_vector = pc.equal(self.keys.column("status"), "ok").to_numpy()
            n_frames = self.keys.column("n_frames").fill_null(0).to_numpy().astype(int) if self.per_frame else 1
            self.lengths = np.where(has_vector, n_frames, 0)
            starts = np.cumsum([0, *map(len, batches)])
            self.batch_lengths = [self.lengths[first:last] for first, last in pairwise(starts)]

    def __len__(self) -> int:
        return len(self.lengths)

    def read_numbers(self, batch: int, copy_to: np.ndarray | None = None) -> np.ndarray:
        """Vectors (M, D) of all clips of a batch, mapped; at utterance level also a row for clips without a vector.

        copy_to : array (M, D), which gets a copy.
        """
        with _report_damage(self.path):
            # What is not copied is mapped again, so that it leaves memory before this object does.
            reader = _open(self.path) if copy_to is None else self._reader
            lists = reader.read(batch, ["vectors" if self.per_frame else "vector"], copy_to).column(0)
            numbers = np.asarray((lists.values if self.per_frame else lists).values).reshape(-1, self.dim)
            lengths = self.batch_lengths[batch]
            if len(numbers) != (lengths.sum() if self.per_frame else len(lengths)):
                raise ValueError("vectors are missing")
            if copy_to is not None and self.path.suffix == OLD_ENDING:
                copy_to[:] = numbers
        return numbers

    def read_vectors(self, batch: int) -> list[np.ndarray]:
        """Vectors (T, D) of each clip of a batch, mapped; T is 0 where nothing is known."""
        numbers, lengths = self.read_numbers(batch), self.batch_lengths[batch]
        starts = np.cumsum(lengths) - lengths if self.per_frame else np.arange(len(lengths))
        return [numbers[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def gather_vectors(files: list[FeatureFile], order: np.ndarray) -> list[np.ndarray]:
    """The vectors (T, D) of some rows (N,), whose numbers are counted through all files."""
    batches = [(file, batch) for file in files for batch in range(len(file.batch_lengths))]
    starts = np.cumsum([0, *(len(lengths) for file in files for lengths in file.batch_lengths)])
    places = np.searchsorted(starts, order, "right") - 1
    vectors = {place: batches[place][0].read_vectors(batches[place][1]) for place in np.unique(places)}
    return [vectors[place][row - starts[place]] for place, row in zip(places, order, strict=True)]
