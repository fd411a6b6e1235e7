"""The layout of feature files: read as a copy where it is bare, by the library where it is not."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecmf_utils.features import store
from ecmf_utils.files import EcmfError

LENGTHS = {"utterance": [1, 0, 1, 1, 0, 1, 1], "frame": [3, 0, 1, 5, 0, 2, 4]}


def write(path, level="frame", dtype="float32", dim=6, **options):
    """A feature file with three clips a row group; returns its numbers (sum of lengths, D)."""
    lengths = np.array(LENGTHS[level])
    values = np.random.default_rng(0).standard_normal((lengths.sum(), dim)).astype(dtype)
    column = store.vector_column(values, lengths, level, dtype, dim)
    name = "vector" if level == "utterance" else "vectors"
    keys = {"clip_id": [f"c{i}" for i in range(len(lengths))], "n_frames": pa.array(lengths, pa.int32())}
    table = pa.table(keys | {"status": np.where(lengths > 0, "ok", "missing"), name: column})
    pq.write_table(table, path, row_group_size=3, **(store.WRITE | options))
    return values


def never(*_):
    raise AssertionError("the library's decoder was used")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "f.parquet"


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize("dtype", store.TYPES)
def test_the_numbers_are_read_as_they_stand_in_the_file(file, monkeypatch, level, dtype):
    values = write(file, level, dtype)
    monkeypatch.setattr(store.VectorFile, "_decode", never)
    read = store.VectorFile(file).read()
    assert read.dtype == values.dtype and read.tobytes() == values.tobytes()


@pytest.mark.parametrize("level", LENGTHS)
def test_any_run_of_rows_can_be_read(file, level):
    values, found = write(file, level), store.VectorFile(file)
    before = np.concatenate([[0], np.cumsum(LENGTHS[level])])
    for first in range(len(found) + 1):
        for last in range(first, len(found) + 1):
            assert np.array_equal(found.read(first, last), values[before[first] : before[last]])


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "snappy"},
        {"compression": "snappy", "use_dictionary": True},  # as the files were before
        {"use_dictionary": True},
        {"data_page_size": 16, "write_batch_size": 2},
        {"data_page_version": "2.0"},
        {"use_byte_stream_split": ["vector.list.element", "vectors.list.element.list.element"]},
    ],
    ids=lambda options: "-".join(options),
)
def test_any_other_layout_is_read_by_the_library(file, level, options):
    values = write(file, level, **options)
    found = store.VectorFile(file)
    before = sum(LENGTHS[level][:2])
    assert np.array_equal(found.read(), values) and np.array_equal(found.read(2), values[before:])
    assert found._decoded[0] >= 0


def test_pandas_shows_lists_and_nulls(file):
    values = write(file, "utterance")
    shown = pd.read_parquet(file)["vector"]
    assert shown.isna().tolist() == [length == 0 for length in LENGTHS["utterance"]]
    assert np.array_equal(np.stack(shown.dropna().to_list()), values)


def test_special_numbers_keep_their_bits(file):
    odd = np.array([[-0.0, 1e-45, np.finfo(np.float32).max, np.pi]], np.float32)
    table = pa.table({"clip_id": ["a"], "vector": store.vector_column(odd, np.array([1]), "utterance", "float32", 4)})
    pq.write_table(table.append_column("status", [["ok"]]), file, **store.WRITE)
    assert store.VectorFile(file).read().tobytes() == odd.tobytes()


def test_a_damaged_file_is_one_clear_line(file):
    write(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(EcmfError, match="f.parquet: the file is damaged; delete it"):
        store.VectorFile(file)


def test_a_damaged_page_is_one_clear_line(file, monkeypatch):
    write(file)
    whole = store.VectorFile(file)
    monkeypatch.setattr(whole, "_find", lambda *_: None)  # as of a file in another compression

    def broken(*_, **__):
        raise OSError("Couldn't deserialize thrift")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", broken)
    with pytest.raises(EcmfError, match="f.parquet: the file is damaged; delete it"):
        whole.read()


def test_row_groups_hold_a_limited_number_of_bytes(monkeypatch):
    monkeypatch.setattr(store, "GROUP_BYTES", 100)
    monkeypatch.setattr(store, "GROUP_ROWS", 4)
    found = list(store.groups(np.array([3, 0, 2, 5, 40, 0, 0, 0, 0, 0, 1]), 20))
    assert [(rows.start, rows.stop) for rows in found] == [(0, 3), (3, 4), (4, 5), (5, 9), (9, 11)]


def test_rows_of_several_files_are_gathered_in_any_order(tmp_path):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    values = np.concatenate([write(file) for file in files])
    rows = np.split(values, np.cumsum(LENGTHS["frame"] * 2)[:-1])
    order = np.array([13, 5, 6, 7, 8, 0])
    found = store.gather([store.VectorFile(file) for file in files], order, 6, np.dtype("float32"))
    assert np.array_equal(found, np.concatenate([rows[i] for i in order]))


@pytest.mark.parametrize("level", LENGTHS)
def test_files_of_before_are_read_and_their_rows_used_again(tmp_path, level):
    how = {"name": "n", "layers": "last", "pooling": "mean", "level": level}
    made = store.Store(tmp_path, 6, how, 0, 1)
    made.folder.mkdir(parents=True)
    values = write(made.path, level, compression="snappy", use_dictionary=True)
    old = pq.read_table(made.path)
    for name, value in (("content_hash", "h"), ("recipe_hash", made.key), ("problem", None), ("detail", None)):
        old = old.append_column(name, pa.array([value] * len(old), pa.string()))
    old = old.append_column("times", pa.nulls(len(old), pa.list_(pa.float64()))) if level == "frame" else old
    header = {b"ecmf": json.dumps({"recipe_hash": made.key}).encode()}
    pq.write_table(old.replace_schema_metadata(header), made.path)
    rows = [{"clip_id": name, "content_hash": "h"} for name in old.column("clip_id").to_pylist()]
    assert len(made.kept(rows, retry_failed=True)) == len(rows)
    made.merge(rows)
    again = store.VectorFile(made.path)
    assert np.array_equal(again.read(), values) and again._decoded[0] == -1
