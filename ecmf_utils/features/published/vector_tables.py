"""Vectors in tables: Parquet or Arrow with a column of lists or a column a number, and CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.files import DAMAGED, EcmfError, digest, show

from .checks import Fault, Found, Published, checked, find_first_rows, float_of, majority, match, shorten

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
ARROW = ".arrow"  # other tables are Parquet
ROWS_AT_A_TIME = {"utterance": 1024, "frame": 64}
NAMES_AT_A_TIME = 65536
SAMPLE_ROWS = 100  # of a CSV, to tell columns of numbers from columns of text
DELIMITERS = ",;\t"
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")


def open_table(path: Path, clip_ids: set[str], findings: Findings, id_column: str) -> Published:
    """A Parquet or Arrow table as published features, whose numbers are read later; see `exchange.look`."""
    schema = _read_schema(path)
    key = _find_id_column(path, schema.names, id_column)
    ids = [name for _, batch in _iterate_batches(path, [key], NAMES_AT_A_TIME) for name in batch.column(0).to_pylist()]
    rows = find_first_rows(zip(ids, range(len(ids)), strict=True), path, findings, 1)
    names = set(match(rows, clip_ids, path, findings))
    lists = [field.name for field in schema if _is_list(field.type)]
    column = next((name for name in VECTOR_COLUMNS if name in lists), lists[0] if len(lists) == 1 else None)
    if column is None and lists:
        raise EcmfError(f"{show(path)}: several columns of lists ({', '.join(lists)}); name one of them 'vector'")
    if column:
        used, level, dtype = [column], *_check_list_type(schema.field(column).type, path, column)
        dim = _find_dim(path, column, level, {rows[name] for name in names})
    else:
        numbers = [field for field in schema if _is_number(field.type) and field.name.lower() not in NOT_FEATURES]
        used, level = [field.name for field in numbers if field.name != key], "utterance"
        dtype, dim = _find_common_type(path, [schema.field(name).type for name in used]), len(used)
    unused = [shorten(name) for name in schema.names if name not in (key, *used)]
    _report_layout(path, findings, level, dtype, dim, unused, len(names))
    read = partial(_read_table, path=path, used=used, rows=rows, level=level, dtype=dtype, dim=dim)
    return Published(path.name, path.stem, level, dtype, dim, _make_stamps(path, names), read)


def open_csv(path: Path, clip_ids: set[str], findings: Findings, id_column: str) -> Published:
    """A CSV table, a column a number, as published features in float64, which holds what is written."""
    columns, sample, ids = _scan_csv(path, id_column)
    rows = find_first_rows(ids, path, findings, 0)
    names = match(rows, clip_ids, path, findings)
    key = columns.index(_find_id_column(path, columns, id_column))
    cells = {i: [row[i] for row in sample if i < len(row)] for i in range(len(columns)) if i != key}
    used = [i for i in cells if _is_number_column(columns[i], cells[i])]
    unused = [_describe_unused(columns[i], cells[i]) for i in cells if i not in used]
    if not used:
        raise EcmfError(f"{show(path)}: no column of numbers; found {_list_some([shorten(columns[key]), *unused])}")
    _report_layout(path, findings, "utterance", "float64", len(used), unused, len(names))
    lines = {name: rows[name] for name in names}
    read = partial(_read_csv, path=path, key=key, used=used, width=len(columns), lines=lines)
    return Published(path.name, path.stem, "utterance", "float64", len(used), _make_stamps(path, names), read)


# ---- which column is what


def _find_id_column(path: Path, names: list[str], wanted: str) -> str:
    there = _list_some([shorten(name) for name in names])
    if wanted and wanted not in names:
        raise EcmfError(f"{show(path)}: no column {wanted!r}; found {there}")
    key = wanted or next((name for name in ID_COLUMNS if name in names), "")
    if not key:
        raise EcmfError(
            f"{show(path)}: no column {', '.join(ID_COLUMNS)}; found {there}; say which column holds the clip "
            "names (id_column=..., on the command line --id-column)"
        )
    return key


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _make_stamps(path: Path, names: Iterable[str]) -> dict[str, str]:
    stat = path.stat()
    return dict.fromkeys(names, digest(stat.st_size, stat.st_mtime_ns))


def _report_layout(
    path: Path, findings: Findings, level: str, dtype: str, dim: int, unused: list[str], n_clips: int
) -> None:
    rest = f"; columns not used: {_list_some(unused)}" if unused else ""
    findings.add("layout", path, f"{level} level, {dim} numbers {dtype}; features of {n_clips:,} clips{rest}")


# ---- Parquet and Arrow


def _is_list(column_type: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(column_type) for is_kind in kinds)


def _is_number(column_type: pa.DataType) -> bool:
    return pa.types.is_floating(column_type) or pa.types.is_integer(column_type)


def _check_list_type(list_type: pa.DataType, path: Path, column: str) -> tuple[str, str]:
    """Level and type of the numbers of a column of lists."""
    level, inner = "utterance", list_type.value_type
    if _is_list(inner):
        level, inner = "frame", inner.value_type
    if not _is_number(inner):
        raise EcmfError(f"{show(path)}: column {column!r} holds {list_type}; expected lists of numbers")
    return level, float_of(np.dtype(inner.to_pandas_dtype()))


def _find_common_type(path: Path, types: list[pa.DataType]) -> str:
    """The smallest float type that holds the numbers of all columns."""
    if not types:
        raise EcmfError(f"{show(path)}: no column of lists and no column of numbers; see docs/formats.md")
    return np.result_type(*[float_of(np.dtype(number.to_pandas_dtype())) for number in types]).name


def _find_dim(path: Path, column: str, level: str, rows: set[int]) -> int:
    """The length that most vectors have."""
    lengths = []
    for first, batch in _iterate_batches(path, [column], ROWS_AT_A_TIME[level]):
        lists = batch.column(0).take([i for i in range(len(batch)) if first + i in rows])
        lists = lists.flatten() if _is_list(lists.type.value_type) else lists
        lengths += [("", length) for length in pc.list_value_length(lists).drop_null().to_pylist()]
    return majority(lengths, path)[1]


def _read_schema(path: Path) -> pa.Schema:
    kind = "an Arrow" if path.suffix.lower() == ARROW else "a Parquet"
    try:
        if path.suffix.lower() != ARROW:
            return pq.read_schema(path)
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).schema
    except DAMAGED as error:
        raise EcmfError(f"{show(path)}: not {kind} file ({error})") from error


def _iterate_batches(path: Path, columns: list[str], n_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Pieces of a table with the number of their first row."""
    first = 0
    try:
        for batch in (_iterate_arrow if path.suffix.lower() == ARROW else _iterate_parquet)(path, columns, n_rows):
            yield first, batch
            first += len(batch)
    except DAMAGED as error:
        reason = str(error).splitlines()[0]
        raise EcmfError(f"{show(path)}: damaged after row {first:,} ({reason}); fetch it again") from error


def _iterate_parquet(path: Path, columns: list[str], n_rows: int) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(n_rows, columns=columns)


def _iterate_arrow(path: Path, columns: list[str], n_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number).select(columns)
            batch.validate(full=True)
            yield from (batch.slice(first, n_rows) for first in range(0, len(batch), n_rows))


def _read_table(
    names: list[str], path: Path, used: list[str], rows: dict[str, int], level: str, dtype: str, dim: int
) -> Iterator[tuple[str, Found]]:
    name_of = {rows[name]: name for name in names}
    for first, batch in _iterate_batches(path, used, ROWS_AT_A_TIME[level]):
        table = None
        if not _is_list(batch.schema.field(used[0]).type):  # a column a number; an empty cell becomes NaN
            columns = [batch.column(name).to_numpy(zero_copy_only=False).astype(dtype) for name in used]
            table = np.stack(columns, axis=1)
        for i in range(len(batch)):
            if (name := name_of.get(first + i)) is not None:
                label = f"{path.name} row {first + i + 1:,} ({name})"
                values = _read_list(batch.column(used[0])[i], level) if table is None else table[i]
                yield name, _check_values(values, label, dtype, dim)


def _read_list(value: pa.Scalar, level: str) -> np.ndarray | None:
    """The numbers of a list, (D,) or (T, D); None where there is no list, (0, 0) where its lists differ in length."""
    if not value.is_valid:
        return None
    inner = value.values
    if level == "utterance":
        return inner.to_numpy(zero_copy_only=False)
    lengths = set(pc.list_value_length(inner).to_pylist())
    if len(lengths) != 1 or None in lengths:
        return np.empty((0, 0), np.float32) if lengths else None
    return inner.flatten().to_numpy(zero_copy_only=False).reshape(len(inner), -1)


def _check_values(values: np.ndarray | None, label: str, dtype: str, dim: int) -> Found:
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


def _iterate_records(path: Path) -> Iterator[Record]:
    """The lines that are not empty, the header first. A cell ends with its line, whatever its quotation marks."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=head.count)
            for number, line in enumerate(file, 1):
                if line.strip(delimiter + " \t\r\n"):
                    yield Record(number, *_split_line(line.rstrip("\r\n"), delimiter))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise EcmfError(f"{show(path)}: not a CSV table in UTF-8 ({error}); save it as one") from error


def _split_line(line: str, delimiter: str) -> tuple[list[str], bool]:
    reader = csv.reader([line, ""], delimiter=delimiter)
    cells = next(reader)
    if reader.line_num == 1:
        return cells, False
    return [cell.strip().strip('"') for cell in line.split(delimiter)], True  # the quotation went beyond the line


def _scan_csv(path: Path, id_column: str) -> tuple[list[str], list[list[str]], list[tuple[str, int]]]:
    """The header, some rows, and the name and line of every row."""
    records = _iterate_records(path)
    names = [name.strip() for name in next(records, Record(0, [], False)).cells]
    if not names:
        raise EcmfError(f"{show(path)}: the file is empty")
    key, sample, ids = names.index(_find_id_column(path, names, id_column)), [], []
    for line, cells, _ in records:
        sample += [cells] if len(sample) < SAMPLE_ROWS else []
        ids.append((cells[key] if key < len(cells) else "", line))
    return names, sample, ids


def _is_number_column(name: str, cells: list[str]) -> bool:
    """Whether most of the cells that are filled hold numbers."""
    filled = [cell for cell in cells if cell.strip()]
    numbers = sum(_parse_number(cell) is not None for cell in filled)
    return name.lower() not in NOT_FEATURES and 2 * numbers > len(filled)


def _describe_unused(name: str, cells: list[str]) -> str:
    """The name of a column that is not used; with an example where its numbers have decimal commas."""
    example = next((cell.strip()[:20] for cell in cells if DECIMAL_COMMA.fullmatch(cell)), "")
    return shorten(name) + (f" (decimal commas: write {example.replace(',', '.')} for {example})" if example else "")


def _parse_number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_csv(
    names: list[str], path: Path, key: int, used: list[int], width: int, lines: dict[str, int]
) -> Iterator[tuple[str, Found]]:
    wanted = set(names)
    for line, cells, stray in _iterate_records(path):
        name = cells[key].strip() if key < len(cells) else ""
        if name in wanted and lines[name] == line:
            label = f"{path.name} row {line:,} ({name})"
            if stray:
                yield name, Fault("stray_quote", f"{label}: a quotation mark is not closed; the row is not used")
            elif len(cells) != width:
                yield name, Fault("wrong_dim", f"{label}: {len(cells)} cells, expected {width}")
            else:
                yield name, _parse_numbers([cells[i] for i in used], label, len(used))


def _parse_numbers(cells: list[str], label: str, dim: int) -> Found:
    try:
        return checked(np.array(cells, np.float64), label, "float64", dim)
    except ValueError:
        bad = next(cell for cell in cells if _parse_number(cell) is None)
        return Fault("not_finite", f"{label}: {bad[:20]!r} is not a number")
