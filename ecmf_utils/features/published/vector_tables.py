"""Vectors in tables: Parquet with a list column or a column a number, and CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.files import EcmfError, digest, show

from .checks import Fault, Found, Published, checked, first_rows, float_of, majority, match, short

ID_COLUMNS = ("clip_id", "name", "id", "filename")
VECTOR_COLUMNS = ("vector", "vectors", "embedding", "embeddings", "feature", "features")
# numbers about a clip that are not part of its vector
NOT_FEATURES = {
    "label",
    "split",
    "fold",
    "group",
    "speaker",
    "dialogue",
    "index",
    "unnamed: 0",
    "",
    "start",
    "end",
    "n_frames",
    "duration",
    "duration_s",
    "valence",
    "arousal",
    "dominance",
    "intensity",
}
ROWS_AT_A_TIME = {"utterance": 1024, "frame": 64}
SAMPLE_ROWS = 100  # of a CSV, to tell columns of numbers from columns of text
DELIMITERS = ",;\t"
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")


def parquet(path: Path, clip_ids: set[str], found: Findings, id_column: str) -> Published:
    """A Parquet table as published features; see `exchange.look`."""
    try:
        with pq.ParquetFile(path) as file:
            fields = file.schema_arrow
            key = _id_column(path, fields.names, id_column)
            ids = file.read([key]).column(0).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise EcmfError(f"{show(path)}: not a Parquet file ({error})") from error
    rows = first_rows(zip(ids, range(len(ids)), strict=True), path, found, 1)
    known = set(match(rows, clip_ids, path, found))
    lists = [field.name for field in fields if _is_list(field.type)]
    column = next((name for name in VECTOR_COLUMNS if name in lists), lists[0] if len(lists) == 1 else None)
    if column is None and lists:
        raise EcmfError(f"{show(path)}: several columns of lists ({', '.join(lists)}); name one of them 'vector'")
    if column:
        used, level, dtype = [column], *_list_kind(fields.field(column).type, path, column)
        dim = _list_dim(path, column, level, {rows[name] for name in known})
    else:
        used, level = [field.name for field in fields if field.name != key and _is_feature(field)], "utterance"
        dtype, dim = _common(path, [fields.field(name).type for name in used]), len(used)
    _tell(path, found, level, dtype, dim, [short(n) for n in fields.names if n not in (key, *used)], len(known))
    read = partial(_read_parquet, path=path, used=used, rows=rows, level=level, dtype=dtype, dim=dim)
    return Published(path.name, path.stem, level, dtype, dim, _stamps(path, known), read)


def csv_table(path: Path, clip_ids: set[str], found: Findings, id_column: str) -> Published:
    """A CSV table, a column a number, as published features in float64, which holds what is written."""
    names, sample, ids = _scan(path, id_column)
    rows = first_rows(ids, path, found, 0)
    known = match(rows, clip_ids, path, found)
    key = names.index(_id_column(path, names, id_column))
    cells = {i: [row[i] for row in sample if i < len(row)] for i in range(len(names)) if i != key}
    used = [i for i in cells if _is_number_column(names[i], cells[i])]
    unused = [_with_comma(names[i], cells[i]) for i in cells if i not in used]
    if not used:
        raise EcmfError(f"{show(path)}: no column of numbers; found {_some([short(names[key]), *unused])}")
    _tell(path, found, "utterance", "float64", len(used), unused, len(known))
    lines = {name: rows[name] for name in known}
    read = partial(_read_csv, path=path, key=key, used=used, width=len(names), lines=lines)
    return Published(path.name, path.stem, "utterance", "float64", len(used), _stamps(path, known), read)


# ---- which column is what


def _id_column(path: Path, names: list[str], wanted: str) -> str:
    there = _some([short(name) for name in names])
    if wanted and wanted not in names:
        raise EcmfError(f"{show(path)}: no column {wanted!r}; found {there}")
    key = wanted or next((name for name in ID_COLUMNS if name in names), "")
    if not key:
        raise EcmfError(
            f"{show(path)}: no column {', '.join(ID_COLUMNS)}; found {there}; say which column holds the clip "
            "names (id_column=..., on the command line --id-column)"
        )
    return key


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _stamps(path: Path, known: Any) -> dict[str, str]:
    stat = path.stat()
    return dict.fromkeys(known, digest(stat.st_size, stat.st_mtime_ns))


def _tell(path: Path, found: Findings, level: str, dtype: str, dim: int, unused: list[str], n: int) -> None:
    rest = f"; columns not used: {_some(unused)}" if unused else ""
    found.add("layout", path, f"{level} level, {dim} numbers {dtype}; features of {n:,} clips{rest}")


# ---- Parquet


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_feature(field: pa.Field) -> bool:
    return _is_number(field.type) and field.name.lower() not in NOT_FEATURES


def _list_kind(kind: pa.DataType, path: Path, column: str) -> tuple[str, str]:
    """Level and type of the numbers of a column of lists."""
    level, inner = "utterance", kind.value_type
    if _is_list(inner):
        level, inner = "frame", inner.value_type
    if not _is_number(inner):
        raise EcmfError(f"{show(path)}: column {column!r} holds {kind}; expected lists of numbers")
    return level, float_of(np.dtype(inner.to_pandas_dtype()))


def _common(path: Path, kinds: list[pa.DataType]) -> str:
    """The smallest float type that holds the numbers of all columns."""
    if not kinds:
        raise EcmfError(f"{show(path)}: no column of lists and no column of numbers; see docs/formats.md")
    return np.result_type(*[float_of(np.dtype(kind.to_pandas_dtype())) for kind in kinds]).name


def _list_dim(path: Path, column: str, level: str, rows: set[int]) -> int:
    """The length that most vectors have."""
    lengths = []
    for first, batch in _batches(path, [column], level):
        lists = batch.column(0).take([i for i in range(len(batch)) if first + i in rows])
        lists = lists.flatten() if _is_list(lists.type.value_type) else lists
        lengths += [("", length) for length in pc.list_value_length(lists).drop_null().to_pylist()]
    return majority(lengths, path)[1]


def _batches(path: Path, columns: list[str], level: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Pieces of a table with the number of their first row."""
    first = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_A_TIME[level], columns=columns):
                yield first, batch
                first += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise EcmfError(f"{show(path)}: damaged after row {first:,} ({reason}); fetch it again") from error


def _read_parquet(
    names: list[str], path: Path, used: list[str], rows: dict[str, int], level: str, dtype: str, dim: int
) -> Iterator[tuple[str, Found]]:
    wanted = {rows[name]: name for name in names}
    for first, batch in _batches(path, used, level):
        table = None if _is_list(batch.schema.field(used[0]).type) else _stacked(batch, used, dtype)
        for i in range(len(batch)):
            if (name := wanted.get(first + i)) is not None:
                label = f"{path.name} row {first + i + 1:,} ({name})"
                values = _listed(batch.column(used[0])[i], level) if table is None else table[i]
                yield name, _told(values, label, dtype, dim)


def _stacked(batch: pa.RecordBatch, used: list[str], dtype: str) -> np.ndarray:
    """The numbers (rows, D) of one column a number; NaN where a cell is empty."""
    return np.stack([batch.column(name).to_numpy(zero_copy_only=False).astype(dtype) for name in used], axis=1)


def _listed(value: pa.Scalar, level: str) -> np.ndarray | None:
    """The numbers of a list, (D,) or (T, D); None where there is no list, or lists of several lengths."""
    if not value.is_valid:
        return None
    inner = value.values
    if level == "utterance":
        return inner.to_numpy(zero_copy_only=False)
    lengths = set(pc.list_value_length(inner).to_pylist())
    if len(lengths) != 1 or None in lengths:
        return np.empty((0, 0), np.float32) if lengths else None
    return inner.flatten().to_numpy(zero_copy_only=False).reshape(len(inner), -1)


def _told(values: np.ndarray | None, label: str, dtype: str, dim: int) -> Found:
    if values is None:
        return Fault("no_features", f"{label}: no vector")
    if values.ndim == 2 and not values.size:
        return Fault("wrong_dim", f"{label}: frames of several lengths")
    if float_of(values.dtype) != dtype and np.isnan(values.astype(float)).any():
        return Fault("not_finite", f"{label}: empty or NaN")  # whole numbers with a gap
    return checked(values, label, dtype, dim)


# ---- CSV


class Record(NamedTuple):
    """A line of a table; `stray` where a quotation mark in it is not closed."""

    line: int
    cells: list[str]
    stray: bool


def _records(path: Path) -> Iterator[Record]:
    """The lines that are not empty, the header first. A cell ends with its line, whatever its quotation marks."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=head.count)
            for number, line in enumerate(file, 1):
                if line.strip(delimiter + " \t\r\n"):
                    yield Record(number, *_cells(line.rstrip("\r\n"), delimiter))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise EcmfError(f"{show(path)}: not a CSV table in UTF-8 ({error}); save it as one") from error


def _cells(line: str, delimiter: str) -> tuple[list[str], bool]:
    reader = csv.reader([line, ""], delimiter=delimiter)
    cells = next(reader)
    if reader.line_num == 1:
        return cells, False
    return [cell.strip().strip('"') for cell in line.split(delimiter)], True  # the quotation went beyond the line


def _scan(path: Path, id_column: str) -> tuple[list[str], list[list[str]], list[tuple[str, int]]]:
    """The header, some rows, and the name and line of every row."""
    records = _records(path)
    names = [name.strip() for name in next(records, Record(0, [], False)).cells]
    if not names:
        raise EcmfError(f"{show(path)}: the file is empty")
    key, sample, ids = names.index(_id_column(path, names, id_column)), [], []
    for line, cells, _ in records:
        sample += [cells] if len(sample) < SAMPLE_ROWS else []
        ids.append((cells[key] if key < len(cells) else "", line))
    return names, sample, ids


def _is_number_column(name: str, cells: list[str]) -> bool:
    """Whether most of the cells that are filled hold numbers."""
    filled = [cell for cell in cells if cell.strip()]
    numbers = sum(_number(cell) is not None for cell in filled)
    return name.lower() not in NOT_FEATURES and 2 * numbers > len(filled)


def _with_comma(name: str, cells: list[str]) -> str:
    """The name of a column that is not used; with an example where its numbers have decimal commas."""
    example = next((cell.strip()[:20] for cell in cells if DECIMAL_COMMA.fullmatch(cell)), "")
    return short(name) + (f" (decimal commas: write {example.replace(',', '.')} for {example})" if example else "")


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_csv(
    names: list[str], path: Path, key: int, used: list[int], width: int, lines: dict[str, int]
) -> Iterator[tuple[str, Found]]:
    wanted = set(names)
    for line, cells, stray in _records(path):
        name = cells[key].strip() if key < len(cells) else ""
        if name in wanted and lines[name] == line:
            label = f"{path.name} row {line:,} ({name})"
            if stray:
                yield name, Fault("stray_quote", f"{label}: a quotation mark is not closed; the row is not used")
            elif len(cells) != width:
                yield name, Fault("wrong_dim", f"{label}: {len(cells)} cells, expected {width}")
            else:
                yield name, _numbers([cells[i] for i in used], label, len(used))


def _numbers(cells: list[str], label: str, dim: int) -> Found:
    try:
        return checked(np.array(cells, np.float64), label, "float64", dim)
    except ValueError:
        bad = next(cell for cell in cells if _number(cell) is None)
        return Fault("not_finite", f"{label}: {bad[:20]!r} is not a number")
