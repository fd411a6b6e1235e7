"""The numbers of a feature file: laid out in one piece, so that they are read as fast as a copy.

Any Parquet reader shows them as lists. Its decoder goes through the nesting number by number, which takes
most of a load. A page without compression and dictionary ends in the bare numbers; here they are read from
there, after the page's header has shown that they are. Any other file is read by the library.
Source: https://parquet.apache.org/docs/file-format/ and parquet.thrift (PageHeader).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .paths import DAMAGED, EcmfError, show

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


def column(values: np.ndarray, lengths: np.ndarray, level: str, dtype: str, dim: int) -> pa.Array:
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
