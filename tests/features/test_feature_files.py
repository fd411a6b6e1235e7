"""The layout of feature files: exact numbers, checksums, batches of a limited size, and files of version 1."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecmf_utils import features
from ecmf_utils.features import feature_files, loading, store
from ecmf_utils.features.feature_files import FeatureFile
from ecmf_utils.files import EcmfError, digest

LENGTHS = {"utterance": [1, 0, 1, 1, 0, 1, 1], "frame": [3, 0, 1, 5, 0, 2, 4]}
DIM = 6
# how version 1 wrote its Parquet files
VERSION_1 = {
    "compression": "none",
    "use_dictionary": ["status", "problem", "detail", "content_hash", "recipe_hash"],
    "write_statistics": False,
    "data_page_size": 1 << 30,
    "write_page_checksum": True,
    "row_group_size": 3,
}


def recipe_of(level, dtype="float32"):
    how = {"name": "n", "layers": "last", "pooling": "mean", "level": level}
    return how | ({"imported": True, "dtype": dtype} if dtype != "float32" else {})


def make_vectors(level, dtype="float32"):
    """Made-up vectors (T, D) of each clip."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((length, DIM)).astype(dtype) for length in LENGTHS[level]]


def make_keys(vectors, recipe):
    """All columns but the vectors."""
    lengths = [len(clip) for clip in vectors]
    columns = {"clip_id": [f"c{i}" for i in range(len(vectors))], "n_frames": lengths}
    columns |= {"status": ["ok" if length else "missing" for length in lengths]}
    columns |= {"content_hash": ["h"] * len(vectors), "recipe_hash": [digest(recipe)] * len(vectors)}
    schema = pa.schema([f for f in feature_files.make_schema(DIM, recipe) if f.name not in ("vector", "vectors")])
    return pa.table({name: columns.get(name, [None] * len(vectors)) for name in schema.names}, schema)


def write(path, level="frame", dtype="float32", vectors=None, batch_rows=2):
    """A feature file with few clips a batch; returns the vectors of each clip."""
    vectors = make_vectors(level, dtype) if vectors is None else vectors
    recipe, lengths = recipe_of(level, dtype), np.array([len(clip) for clip in vectors])
    header = {"recipe": recipe, "recipe_hash": digest(recipe), "dim": DIM}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_files, "BATCH_BYTES", batch_rows * DIM * np.dtype(dtype).itemsize)
        feature_files.write_file(path, header, make_keys(vectors, recipe), lengths, vectors.__getitem__)
    return vectors


def write_version_1(path, level="frame", **options):
    """A feature file as version 1 wrote it; returns the vectors of each clip."""
    vectors, recipe = make_vectors(level), recipe_of(level)
    name = "vector" if level == "utterance" else "vectors"
    values = [clip.tolist() if len(clip) else None for clip in vectors]
    values = [clip and clip[0] for clip in values] if level == "utterance" else values
    vector = pa.list_(pa.float32(), DIM)
    table = make_keys(vectors, recipe).add_column(
        1, name, pa.array(values, vector if level == "utterance" else pa.list_(vector))
    )
    header = {"schema_version": 1, "recipe": recipe, "recipe_hash": digest(recipe), "dim": DIM}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"ecmf": json.dumps(header).encode()}), path, **(VERSION_1 | options))
    return vectors


def read_all(file):
    return [clip for batch in range(len(file.batch_lengths)) for clip in file.read_vectors(batch)]


def same(found, expected):
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.arrow"


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize("dtype", feature_files.TYPES)
def test_the_vectors_are_read_as_they_were_written(path, level, dtype):
    vectors = write(path, level, dtype)
    file = FeatureFile(path)
    assert len(file.batch_lengths) > 2 and same(read_all(file), vectors)
    assert (file.dim, file.dtype, len(file)) == (DIM, np.dtype(dtype), len(vectors))
    assert file.lengths.tolist() == LENGTHS[level]
    assert file.keys.column("clip_id").to_pylist() == [f"c{i}" for i in range(len(vectors))]


@pytest.mark.parametrize("level", LENGTHS)
def test_numbers_can_be_copied_on_the_way(path, level):
    write(path, level)
    file = FeatureFile(path)
    for batch in range(len(file.batch_lengths)):
        numbers = file.read_numbers(batch)
        copy = np.full_like(numbers, np.nan)
        assert same([file.read_numbers(batch, copy), copy], [numbers, numbers])
        assert copy.flags.writeable and not numbers.flags.writeable  # mapped


def test_pandas_shows_lists_and_nulls(path):
    vectors = write(path, "utterance")
    shown = pd.read_feather(path)["vector"]
    assert shown.isna().tolist() == [length == 0 for length in LENGTHS["utterance"]]
    assert np.array_equal(np.stack(shown.dropna().to_list()), np.concatenate(vectors))


def test_special_numbers_keep_their_bits(path):
    odd = np.array([[-0.0, 1e-45, np.finfo(np.float32).max, np.pi, np.inf, np.nan]], np.float32)
    write(path, "utterance", vectors=[odd])
    assert same(read_all(FeatureFile(path)), [odd])


def test_a_file_without_clips_is_read(path):
    write(path, vectors=[])
    assert len(FeatureFile(path)) == 0 and FeatureFile(path).batch_lengths == []


def test_clips_of_which_nothing_is_known_are_read(path):
    for level in LENGTHS:
        vectors = write(path, level, vectors=[np.empty((0, DIM), np.float32)] * 3)
        assert same(read_all(FeatureFile(path)), vectors)


def test_batches_hold_a_limited_number_of_bytes(monkeypatch):
    monkeypatch.setattr(feature_files, "BATCH_BYTES", 100)
    batches = list(feature_files.split_rows(np.array([3, 0, 2, 5, 40, 0, 0, 1]), 20))
    assert [(rows.start, rows.stop) for rows in batches] == [(0, 3), (3, 4), (4, 5), (5, 8)]


def test_rows_of_several_files_are_gathered_in_any_order(tmp_path):
    paths = [tmp_path / "a.arrow", tmp_path / "b.arrow"]
    vectors = [clip for path in paths for clip in write(path)]
    order = np.array([13, 5, 6, 7, 8, 0])
    gathered = feature_files.gather_vectors([FeatureFile(path) for path in paths], order)
    assert same(gathered, [vectors[i] for i in order])


# ---- damage


def test_a_cut_file_is_one_clear_line(path):
    write(path)
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(EcmfError, match=r"f.arrow: the file is damaged \(.*\); delete it, then extract or import"):
            FeatureFile(path)


@pytest.mark.parametrize("level", LENGTHS)
def test_every_changed_bit_of_a_vector_is_noticed(path, level):
    vectors = write(path, level)
    whole = path.read_bytes()
    start = whole.index(vectors[2].tobytes())
    for at in range(start, start + vectors[2].nbytes):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(EcmfError, match=r"damaged \(the checksum of column vectors? is wrong\); delete it"):
            read_all(FeatureFile(path))


def test_vectors_that_have_changed_places_are_noticed(path, monkeypatch):
    monkeypatch.setattr(feature_files, "SUM_BYTES", 2 * DIM * 4)  # sums count in their order
    vectors = write(path, "utterance", vectors=[np.full((1, DIM), i, np.float32) for i in range(4)], batch_rows=4)
    first, second = (np.concatenate(vectors[i : i + 2]).tobytes() for i in (0, 2))
    path.write_bytes(path.read_bytes().replace(first + second, second + first))
    with pytest.raises(EcmfError, match="the checksum of column vector is wrong"):
        read_all(FeatureFile(path))


def test_a_batch_that_is_missing_is_noticed(path):
    write(path)
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
        with pa.OSFile(str(path) + "x", "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
            for batch, metadata in batches[:-1]:
                writer.write_batch(batch, metadata)
    (path.parent / "f.arrowx").replace(path)
    with pytest.raises(EcmfError, match=r"damaged \(rows are missing\)"):
        FeatureFile(path)


def test_columns_of_something_else_are_one_clear_line(path):
    pd.DataFrame({"a": [1]}).to_feather(path)
    with pytest.raises(EcmfError, match="f.arrow: the file is damaged"):
        FeatureFile(path)


def test_a_file_that_is_not_there_is_one_clear_line(path):
    with pytest.raises(EcmfError, match=r"f.arrow: cannot be read \(No such file or directory\)$"):
        FeatureFile(path)


# ---- files of schema version 1


OPTIONS = [
    {},
    {"compression": "snappy"},
    {"compression": "snappy", "use_dictionary": True},
    {"data_page_size": 16, "write_batch_size": 2},
    {"data_page_version": "2.0"},
    {"row_group_size": 100},
]


@pytest.mark.parametrize("level", LENGTHS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "as written")
def test_a_file_of_version_1_is_read(tmp_path, level, options):
    path = tmp_path / "f.parquet"
    vectors = write_version_1(path, level, **options)
    file = FeatureFile(path, ["clip_id", "content_hash"])
    assert same(read_all(file), vectors) and file.header["recipe_hash"] == digest(recipe_of(level))
    assert file.keys.column("content_hash").to_pylist() == ["h"] * len(vectors)


def test_damage_to_a_file_of_version_1_is_one_clear_line(tmp_path):
    path = tmp_path / "f.parquet"
    vectors = write_version_1(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(vectors[2].tobytes(), vectors[2].tobytes()[::-1]))
    with pytest.raises(EcmfError, match=r"f.parquet: the file is damaged \(.*\); delete it"):
        read_all(FeatureFile(path))
    path.write_bytes(whole[:-20])
    with pytest.raises(EcmfError, match=r"f.parquet: the file is damaged \(.*\); delete it"):
        FeatureFile(path)


def make_version_1(level, n_shards=1):
    """A store of version 1 in profile `p`, its vectors by clip, and the rows of the manifest."""
    recipe, folder = recipe_of(level), store.branch_folder("p", "audio")
    new = store.Store(folder, DIM, recipe, 0, n_shards)
    vectors = write_version_1(new.path.with_suffix(".parquet"), level)
    rows = [{"clip_id": f"c{i}", "content_hash": "h"} for i in range(len(vectors))]
    store.select_store("p", "audio", new)
    return new, dict(zip((row["clip_id"] for row in rows), vectors, strict=True)), rows


@pytest.mark.parametrize("level", LENGTHS)
def test_a_store_of_version_1_is_loaded(home, level):
    _, vectors, _ = make_version_1(level)
    rows = dict(loading.iterate_frames("p", "audio"))
    assert all(same([rows[name]], [clip]) if len(clip) else rows[name] is None for name, clip in vectors.items())
    loaded = features.load("p", ["audio"])
    assert loaded.present["audio"].tolist() == [len(clip) > 0 for clip in vectors.values()]
    means = [clip.mean(0) if len(clip) else np.zeros(DIM, np.float32) for clip in vectors.values()]
    assert np.array_equal(loaded.x["audio"], np.stack(means))
    assert features.read_status("p", ["audio"])["status"].tolist().count("missing") == 2
    if level == "utterance":
        assert np.array_equal(features.load_matrix("p", "audio")[1], np.stack(means))


@pytest.mark.parametrize("level", LENGTHS)
def test_rows_of_version_1_are_used_again_and_written_anew(home, level):
    made, vectors, rows = make_version_1(level)
    assert len(made.find_reusable(rows, retry_failed=True)) == len(rows)
    made.merge(rows)
    assert [path.name for path in made.folder.glob("0*")] == ["000-of-001.arrow"]
    assert same(read_all(FeatureFile(made.path)), list(vectors.values()))
    assert FeatureFile(made.path).header["schema_version"] == 2


def test_a_shard_of_version_1_stays_until_its_turn_comes(home):
    made, _, rows = make_version_1("utterance", n_shards=2)
    other = store.Store(store.branch_folder("p", "audio"), DIM, made.recipe, 1, 2)
    other.write_part([{"clip_id": "x", "content_hash": "h", "status": "ok", "vector": np.ones(DIM), "n_frames": 1}])
    other.merge([{"clip_id": "x", "content_hash": "h"}])
    names = {path.name for path in made.folder.glob("0*")}
    assert names == {"000-of-002.parquet", "001-of-002.arrow"}
    store.select_store("p", "audio", other)
    assert features.load("p", ["audio"]).clip_ids == [row["clip_id"] for row in rows] + ["x"]
    made.merge(rows)
    assert {path.name for path in made.folder.glob("0*")} == {"000-of-002.arrow", "001-of-002.arrow"}


def test_the_old_file_is_passed_over_where_there_is_a_new_one(home):
    made, _, rows = make_version_1("utterance")
    old = made.path.with_suffix(".parquet").read_bytes()
    made.merge(rows)
    made.path.with_suffix(".parquet").write_bytes(old[:50])
    assert feature_files.list_files(made.folder) == [made.path]
    assert features.load("p", ["audio"]).clip_ids == [row["clip_id"] for row in rows]
