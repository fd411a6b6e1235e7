"""Published features in and out: exact numbers, every bad file a line, resume, flat memory."""

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecmf_utils import features, files
from ecmf_utils.features import feature_files, loading
from ecmf_utils.features.published import exchange, npy_folders
from ecmf_utils.notebook import profiles
from ecmf_workflow import cli

DTYPES = ("float16", "float32", "float64")
D = 5


def clips_of(n=6):
    return pd.DataFrame({"clip_id": [f"c{i}" for i in range(n)]})


def numbers(n=6, dtype="float32", frames=None, seed=0):
    """Name to an array (D,), or (T, D) with T from `frames`."""
    rng = np.random.default_rng(seed)
    shapes = [(D,) if frames is None else (frames[i % len(frames)], D) for i in range(n)]
    return {f"c{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)}


def folder_of(home, arrays, name="hubert-UTT"):
    folder = home / "published" / name
    folder.mkdir(parents=True, exist_ok=True)
    for clip_id, values in arrays.items():
        np.save(folder / f"{clip_id}.npy", values)
    return folder


def frames_of(home, clip_id, rows, name):
    """A folder with one file a frame."""
    (home / "published" / name / clip_id).mkdir(parents=True)
    folder_of(home, {f"{clip_id}/{i}": row for i, row in enumerate(rows)}, name)


def take_in(path, n=6, branch="audio", **settings):
    return features.import_features("p", branch, path, clips=clips_of(n), **settings)


def states(branch="audio"):
    return features.read_status("p", [branch]).set_index("clip_id")


def bits(rows):
    return {name: None if rows is None else rows.tobytes() for name, rows in rows}


def stored_file(branch="audio"):
    return next((files.data_dir("p") / "features" / branch).rglob("000-of-001.arrow"))


# ---- what comes in goes out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["hubert-UTT", "resnet_UTT", "hubert-FRA"])
def test_a_folder_goes_in_and_out_byte_by_byte(home, name, dtype):
    source = folder_of(home, numbers(dtype=dtype, frames=(1, 4, 2) if "FRA" in name else None), name)
    summary = take_in(source).iloc[0]
    written = exchange.export_features("p", "audio", home / "out", suffix=name[-4:]).iloc[0]
    assert (summary["dtype"], summary["ok"], written["files"], written["dtype"]) == (dtype, 6, 6, dtype)
    assert summary["level"] == written["level"] == ("frame" if "FRA" in name else "utterance")
    out = home / "out" / name
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


def test_a_folder_of_frames_becomes_one_array_in_the_order_of_the_numbers(home):
    arrays = numbers(3, "float16", frames=(12, 1, 3))
    for clip_id, rows in arrays.items():
        frames_of(home, clip_id, rows, "clip")
    assert take_in(home / "published/clip", 3).iloc[0]["level"] == "frame"
    exchange.export_features("p", "audio", home / "out")
    found = {path.stem: np.load(path) for path in (home / "out/clip-FRA").iterdir()}
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], rows) and found[name].dtype == "float16" for name, rows in arrays.items())


def test_a_row_of_one_is_a_vector(home):
    arrays = {name: values[None] for name, values in numbers().items()}
    assert take_in(folder_of(home, arrays)).iloc[0]["level"] == "utterance"
    assert np.array_equal(features.load_matrix("p", "audio")[1], np.concatenate(list(arrays.values())))
    assert take_in(folder_of(home, arrays, "hubert-FRA")).iloc[0]["level"] == "frame"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["lists", "columns", "frames"])
def test_a_parquet_table_keeps_its_numbers(home, dtype, form):
    arrays = numbers(dtype=dtype, frames=(3, 1) if form == "frames" else None)
    ids = list(reversed(arrays))
    if form == "columns":
        held = {f"f{i}": [arrays[name][i] for name in ids] for i in range(D)}
    else:
        inner = pa.list_(feature_files.TYPES[dtype], D if form == "frames" else -1)
        held = {
            "vector": pa.array([list(arrays[name]) for name in ids], pa.list_(inner) if form == "frames" else inner)
        }
    table = pa.table({"name": ids, "label": ["happy"] * 6, **held})
    pq.write_table(table, home / "t.parquet")
    summary = take_in(home / "t.parquet")
    assert summary.iloc[0][["level", "dtype", "dim"]].tolist() == [
        "frame" if form == "frames" else "utterance",
        dtype,
        D,
    ]
    assert bits(loading.iterate_frames("p", "audio")) == {name: rows.tobytes() for name, rows in arrays.items()}
    assert "columns not used: label" in summary.attrs["lines"][-1]


def test_what_the_store_holds_can_be_imported_again(home):
    take_in(folder_of(home, numbers(frames=(2, 3)), "hubert-FRA"))
    take_in(stored_file(), branch="again")
    assert bits(loading.iterate_frames("p", "again")) == bits(loading.iterate_frames("p", "audio"))


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_table_keeps_every_digit(home, start, end):
    arrays = numbers(dtype="float64")
    rows = [",".join(["clip_id", "split", *(f"f{i}" for i in range(D))])]
    rows += [",".join([name, "train", *map(repr, values.tolist())]) for name, values in arrays.items()]
    (home / "t.csv").write_bytes((start + end.join(rows)).encode())
    assert take_in(home / "t.csv").iloc[0]["dtype"] == "float64"
    assert np.array_equal(features.load_matrix("p", "audio")[1], np.stack(list(arrays.values())))


def test_whole_numbers_become_floats_that_hold_them(home):
    folder = folder_of(home, {name: np.arange(D, dtype=np.int32) + 2**24 + 1 for name in numbers()})
    assert take_in(folder).iloc[0]["dtype"] == "float64"
    assert features.load_matrix("p", "audio")[1][0].tolist() == [2**24 + 1 + i for i in range(D)]


def test_clips_without_a_vector_are_null_and_get_no_file(home):
    arrays = numbers()
    del arrays["c1"]
    summary = take_in(folder_of(home, arrays))
    assert summary.iloc[0][["clips", "ok", "missing"]].tolist() == [6, 5, 1]
    assert "hubert-UTT: no features of clip 'c1'" in summary.attrs["lines"]
    assert pd.read_feather(stored_file())["vector"].isna().tolist() == [name == "c1" for name in clips_of()["clip_id"]]
    assert features.load_matrix("p", "audio")[2].tolist() == [name != "c1" for name in clips_of()["clip_id"]]
    written = exchange.export_features("p", "audio", home / "out")
    assert written.iloc[0][["files", "without"]].tolist() == [5, 1]
    assert written.attrs["absent"]["clip_id"].tolist() == ["c1"] and len(list((home / "out/hubert-UTT").iterdir())) == 5
    assert written.attrs["lines"] == ["hubert-UTT: clip 'c1' has no vector (no_features); no file was written"]


def test_training_reads_float32(home):
    arrays = numbers(dtype="float64", frames=(3, 1))
    take_in(folder_of(home, arrays, "x-FRA"), pooling="max")
    loaded = features.load("p", ["audio"])
    assert loaded.x["audio"].dtype == np.float32
    assert np.array_equal(loaded.x["audio"][0], arrays["c0"].astype(np.float32).max(0))


def test_the_recipe_says_what_it_is_and_not_where_it_was(home):
    take_in(folder_of(home, numbers(dtype="float16")))
    how = features.read_selected("p", "audio")["recipe"]
    assert how["name"] == "imported-hubert-UTT" and how["imported"] and how["dtype"] == "float16"
    assert str(home) not in str(feature_files.read_header(stored_file())) + str(features.read_selected("p", "audio"))


def test_published_features_have_a_name_of_their_own(home):
    with pytest.raises(files.EcmfError, match="^audio@hubert: published features need a name of their own"):
        take_in(folder_of(home, numbers()), branch="audio@hubert")
    assert not (files.data_dir("p") / "features").exists()


def test_branches_without_features_are_left_out_of_an_export_and_named(home, monkeypatch, capsys):
    monkeypatch.setattr(profiles, "load_profile", lambda name: {"branches": ["text", "audio"]})
    assert cli.main(["export-features", "p", "--to", str(home / "out")]) == 2
    assert "text" in capsys.readouterr().err
    take_in(folder_of(home, numbers()))
    assert cli.main(["export-features", "p", "--to", str(home / "out")]) == 0
    assert "text: has no features yet, left out" in capsys.readouterr().out
    assert [path.name for path in (home / "out").iterdir()] == ["hubert-UTT"]
    assert cli.main(["export-features", "p", "text", "--to", str(home / "out")]) == 2


# ---- what is wrong with one file


def text(value):
    return lambda path: path.write_bytes(value)


def array(values, **settings):
    return lambda path: np.save(path, values, **settings)


def cut(path):
    np.save(path, np.ones(D, np.float32))
    path.write_bytes(path.read_bytes()[:-3])


def link(path):
    np.save(path.parents[2] / "elsewhere.npy", np.ones(D, np.float32))
    path.symlink_to(path.parents[2] / "elsewhere.npy")


def link_nowhere(path):
    path.symlink_to(path.parent / "gone.npy")


def link_to_itself(path):
    path.symlink_to(path.name)


def giant(path):
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
        file.write(b"0" * 20)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("bomb",)


def nan_at(i):
    return np.array([np.nan if j == i else 1 for j in range(D)], np.float32)


BAD = {
    "0 bytes": (text(b""), "empty_file", "hubert-UTT/c1.npy: the file has no bytes"),
    "cut off": (cut, "truncated", "17 bytes of numbers, its header announces 20"),
    "giant": (giant, "truncated", "20 bytes of numbers, its header announces 4,000,000,000,000"),
    "web page": (text(b"<!DOCTYPE html><html></html>"), "not_npy", "not an .npy file"),
    "damaged header": (text(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', " + b" " * 120), "not_npy", "the header"),
    "pickle": (text(pickle.dumps(Bomb())), "not_npy", "not an .npy file"),
    "objects": (array(np.array([Bomb()]), allow_pickle=True), "pickled", "pickled Python objects, which may run code"),
    "texts": (array(np.array(["a"])), "wrong_dtype", "expected float16, float32, float64 or whole numbers"),
    "complex": (array(np.ones(D, complex)), "wrong_dtype", "complex128; expected"),
    "other type": (array(np.ones(D)), "wrong_dtype", "float64, most of the files are float32"),
    "other length": (array(np.ones(D + 1, np.float32)), "wrong_dim", "6 numbers, most of the files have 5"),
    "frames": (array(np.ones((2, D), np.float32)), "wrong_dim", "2 vectors, most of the clips have one"),
    "cube": (array(np.ones((1, 1, D), np.float32)), "wrong_dim", "shape (1, 1, 5); expected (D,) or (T, D)"),
    "number": (array(np.float32(1)), "wrong_dim", "shape (); expected"),
    "nothing in it": (array(np.ones(0, np.float32)), "wrong_dim", "shape (0,); expected"),
    "NaN": (array(nan_at(3)), "not_finite", "NaN or infinite"),
    "infinite": (array(np.full(D, np.inf, np.float32)), "not_finite", "NaN or infinite"),
    "link out": (link, "outside_source", "a link that leads out of the folder"),
    "link to nothing": (link_nowhere, "unreadable", "No such file or directory"),
    "link to itself": (link_to_itself, "unreadable", "a link that leads in a circle"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_costs_its_clip_and_no_other(home, monkeypatch, name):
    monkeypatch.chdir(home)
    make, code, line = BAD[name]
    arrays = numbers()
    folder = folder_of(home, arrays)
    (folder / "c1.npy").unlink()
    make(folder / "c1.npy")
    summary = take_in(folder)
    assert summary.iloc[0][["ok", "failed"]].tolist() == [5, 1]
    row = states().loc["c1"]
    assert (row["status"], row["problem"]) == ("failed", code) and row["detail"].startswith("hubert-UTT/c1.npy: ")
    told = [one for one in summary.attrs["lines"] if line.removeprefix("hubert-UTT/") in one]
    assert len(told) == 1 and told[0].startswith("hubert-UTT: c1.npy: ")
    assert not (home / "bomb").exists()
    left = {clip_id: rows for clip_id, rows in loading.iterate_frames("p", "audio") if rows is not None}
    assert left.keys() == arrays.keys() - {"c1"} and all(np.array_equal(left[one][0], arrays[one]) for one in left)


def test_a_bad_frame_is_named(home):
    for clip_id in ("c0", "c1", "c2"):
        frames_of(home, clip_id, np.ones((3, D), np.float32), "f")
    (home / "published/f/c1/2.npy").write_bytes(b"")
    (home / "published/f/c3").mkdir()
    take_in(home / "published/f", 4)
    found = states()
    assert found["status"].tolist() == ["ok", "failed", "ok", "missing"]
    assert found.loc["c1", "detail"] == "f/c1/2.npy: the file has no bytes"
    assert found.loc["c3", "problem"] == "no_features"


@pytest.fixture
def no_open(monkeypatch):
    """Fails where a pipe would be waited for."""

    def guarded(path, *args, **settings):
        assert not Path(path).is_fifo(), f"{path} was opened"
        return open(path, *args, **settings)

    monkeypatch.setattr(npy_folders, "open", guarded, raising=False)


def test_a_pipe_is_never_opened(home, no_open):
    folder = folder_of(home, numbers(2))
    os.mkfifo(folder / "c2.npy")
    summary = take_in(folder, 3)
    assert summary.iloc[0][["ok", "missing"]].tolist() == [2, 1]
    assert "hubert-UTT: c2.npy is a pipe or a device, not a file; it was not opened" in summary.attrs["lines"]


def test_a_pipe_among_frames_is_never_opened(home, no_open):
    for clip_id in ("c0", "c1"):
        frames_of(home, clip_id, np.ones((3, D), np.float32), "f")
    (home / "published/f/c1/0.npy").unlink()
    os.mkfifo(home / "published/f/c1/0.npy")
    take_in(home / "published/f", 2)
    assert states().loc["c1", "detail"] == "f/c1: 0.npy is not a file; it was not opened"


def test_the_majority_decides_what_the_set_is(home):
    arrays = numbers(9) | {f"c{i}": np.ones(D + 1) for i in range(3)}
    summary = take_in(folder_of(home, arrays), 9).iloc[0]
    assert summary[["dtype", "dim", "ok", "failed"]].tolist() == ["float32", D, 6, 3]


def test_files_without_a_clip_are_counted_and_named(home):
    folder = folder_of(home, numbers() | {"C2": np.ones(D, np.float32)} | {f"x{i}": np.ones(D) for i in range(20)})
    (folder / "notes.txt").write_text("hello")
    summary = take_in(folder)
    lines = summary.attrs["lines"]
    assert summary.iloc[0][["ok", "unlisted"]].tolist() == [6, 21]
    hint = "clip 'c2' differs only in upper and lower case"
    assert f"hubert-UTT: features of 'C2', which is not a clip of this corpus; {hint}" in lines
    assert "hubert-UTT: … and 18 more like it" in lines
    assert "hubert-UTT: notes.txt is not an .npy file; it was not opened" in lines


def test_vectors_of_zeros_are_kept_and_told(home):
    summary = take_in(folder_of(home, numbers() | {"c4": np.zeros(D, np.float32)}))
    assert summary.iloc[0]["ok"] == 6
    assert "hubert-UTT: 1 clips have vectors of zeros; kept as they came" in summary.attrs["lines"]


CSV = {
    "text in a cell": ("c1,1,two", "not_finite", "row 3 (c1): 'two' is not a number"),
    "empty cell": ("c1,1,", "not_finite", "row 3 (c1): '' is not a number"),
    "NaN": ("c1,nan,2", "not_finite", "row 3 (c1): NaN or infinite"),
    "beyond float32": ("c1,1e300,2", "not_finite", "numbers beyond the range of float32"),
    "cell too few": ("c1,1", "wrong_dim", "row 3 (c1): 2 cells, expected 3"),
    "cell too many": ("c1,1,2,3", "wrong_dim", "row 3 (c1): 4 cells, expected 3"),
}


@pytest.mark.parametrize("name", CSV)
def test_a_bad_row_costs_its_clip_and_no_other(home, name):
    row, code, line = CSV[name]
    (home / "t.csv").write_text("\n".join(["id,x,y", "c0,1,2", row, "c2,3,4", "c2,9,9", ",5,5"]))
    summary = take_in(home / "t.csv", 3)
    assert summary.iloc[0][["ok", "failed"]].tolist() == [2, 1]
    found = states().loc["c1"]
    assert found["problem"] == code and line in found["detail"]
    lines = summary.attrs["lines"]
    assert "t.csv row 5: 'c2' occurred in row 4 already; the first row counts" in lines
    assert "t.csv row 6: no name; the row is not used" in lines
    assert features.load_matrix("p", "audio")[1][2].tolist() == [3, 4]


def test_bad_rows_of_a_parquet_table_cost_their_clips(home):
    held = [[1.0, 2.0], None, [1.0, None], [1.0], [3.0, 4.0]]
    pq.write_table(pa.table({"clip_id": [f"c{i}" for i in range(5)], "vector": held}), home / "t.parquet")
    take_in(home / "t.parquet", 5)
    assert states()["problem"].fillna("").tolist() == ["", "no_features", "not_finite", "wrong_dim", ""]
    assert states().loc["c3", "detail"] == "t.parquet row 4 (c3): 1 numbers, most of the files have 2"


def test_vectors_that_are_not_there_are_counted_also_the_second_time(home):
    held = pa.array([[1.0, 2.0], None, None], pa.list_(pa.float32()))
    pq.write_table(pa.table({"clip_id": ["c0", "c1", "c2"], "vector": held}), home / "t.parquet")
    for _ in range(2):
        summary = take_in(home / "t.parquet", 3)
        line = "t.parquet: 2 clips are there without a vector; the first: t.parquet row 2 (c1): no vector"
        assert line in summary.attrs["lines"] and summary.iloc[0]["missing"] == 2


@pytest.mark.parametrize("row", ['c1,"1,2', '"c1,1,2', 'c1,1,"2'])
def test_a_quotation_mark_that_is_not_closed_costs_one_row(home, row):
    (home / "t.csv").write_text("\n".join(["id,x,y", "c0,1,2", row, 'c2,"3",4', *[f'x{i},1,"2"' for i in range(99)]]))
    summary = take_in(home / "t.csv", 3)
    assert summary.iloc[0][["ok", "failed", "unlisted"]].tolist() == [2, 1, 99]
    line = "t.csv: t.csv row 3 (c1): a quotation mark is not closed; the row is not used"
    assert line.removeprefix("t.csv: t.csv ") in " ".join(summary.attrs["lines"])
    assert features.load_matrix("p", "audio")[1][2].tolist() == [3, 4]


def test_foreign_names_are_shown_in_part(home):
    (home / "t.csv").write_text(f"id,x\nc0,1\n{'n' * 500},2")
    told = [line for line in take_in(home / "t.csv", 1).attrs["lines"] if "nnn" in line]
    assert len(told) == 1 and told[0].count("n" * 50) == 1 and len(told[0]) < 150


def test_columns_with_decimal_commas_are_explained(home):
    (home / "t.csv").write_text("id;x;y;note\nc0;1;2,5;hello\nc1;3;4,5;you")
    line = take_in(home / "t.csv", 2).attrs["lines"][-1]
    assert line.endswith("columns not used: y (decimal commas: write 2.5 for 2,5), note")


# ---- what is wrong with the whole


def several_sets(home):
    folder_of(home, numbers(), "a-UTT")
    return home / "published"


def text_file(name, content):
    def make(home):
        (home / name).write_bytes(content)
        return home / name

    return make


def damaged_table(home):
    pq.write_table(
        pa.table({"clip_id": ["c0"] * 999, "vector": [[1.5] * 99] * 999}), home / "t.parquet", use_dictionary=False
    )
    with open(home / "t.parquet", "r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 9000)
    return home / "t.parquet"


WHOLE = {
    "damaged table": (damaged_table, "t.parquet: damaged after row 0 ("),
    "nothing there": (lambda home: home / "gone", "gone: not there; expected a folder of .npy files"),
    "another kind": (text_file("f.npz", b"PK"), "not one of the layouts that can be read"),
    "names of another corpus": (
        lambda home: folder_of(home, {"x1": np.ones(3)}),
        "no name in it is a clip of this corpus: the first name is 'x1', the first clip is 'c0'",
    ),
    "empty folder": (lambda home: folder_of(home, {}), "no name in it is a clip of this corpus: it is empty"),
    "several sets": (several_sets, "holds a set of features; give published/a-UTT"),
    "all damaged": (
        lambda home: folder_of(home, {"c0": np.array(["a"])}),
        "none of its features can be used; the first: hubert-UTT/c0.npy: str32; expected float16",
    ),
    "no Parquet": (text_file("t.parquet", b"<html>"), "t.parquet: not a Parquet file"),
    "no names": (text_file("t.csv", b"x,y\n1,2"), "no column clip_id, name, id, filename; found x, y; say which"),
    "all not finite": (
        lambda home: folder_of(home, {"c0": nan_at(0), "c1": nan_at(1)}),
        "hubert-UTT: none of its features can be used; the first: hubert-UTT/c0.npy: NaN or infinite",
    ),
    "decimal commas": (
        text_file("t.csv", b"name;x\nc0;-1,5e3"),
        "no column of numbers; found name, x (decimal commas: write -1.5e3 for -1,5e3)",
    ),
    "no numbers": (text_file("t.csv", b"name,text\nc0,hello"), "no column of numbers; found name, text"),
    "not UTF-8": (text_file("t.csv", "name,x\n名,1".encode("gbk")), "not a CSV table in UTF-8"),
    "empty table": (text_file("t.csv", b""), "t.csv: the file is empty"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_set_that_cannot_be_used_is_one_clear_line(home, name):
    make, line = WHOLE[name]
    with pytest.raises(files.EcmfError) as error:
        take_in(make(home))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_set_without_one_good_vector_replaces_nothing(home):
    folder = folder_of(home, numbers(2))
    take_in(folder, 2)
    before = features.load_matrix("p", "audio")[1]
    for name in ("c0", "c1"):
        np.save(folder / f"{name}.npy", nan_at(1))
    os.utime(folder / "c0.npy", ns=(1, 1))
    os.utime(folder / "c1.npy", ns=(1, 1))
    with pytest.raises(files.EcmfError, match="none of its features can be used"):
        take_in(folder, 2)
    assert (
        np.array_equal(features.load_matrix("p", "audio")[1], before)
        and features.read_selected("p", "audio")["n_ok"] == 2
    )
    assert not list(stored_file().parent.glob(".parts-*"))


def test_a_set_without_one_good_vector_selects_nothing(home):
    with pytest.raises(files.EcmfError, match="none of its features"):
        take_in(folder_of(home, {"c0": nan_at(0)}))
    with pytest.raises(files.EcmfError, match="is missing"):
        features.read_selected("p", "audio")


def test_the_way_out_is_told_for_python_and_the_command_line(home):
    (home / "t.csv").write_text("which,x\nc0,1")
    with pytest.raises(files.EcmfError, match=r"\(id_column=..., on the command line --id-column\)"):
        take_in(home / "t.csv")


def test_another_column_can_hold_the_names(home):
    (home / "t.csv").write_text("which;x\nc0;1\nc1;2")
    assert take_in(home / "t.csv", id_column="which").iloc[0]["ok"] == 2
    with pytest.raises(files.EcmfError, match="no column 'who'; found which, x"):
        take_in(home / "t.csv", id_column="who")


# ---- export


@pytest.mark.parametrize("name", ["a:b", "aux", "con.1", "a?", "dot.", "x" * 241])
def test_a_clip_that_is_no_file_name_is_refused_before_anything_is_written(home, name):
    pq.write_table(pa.table({"clip_id": [name], "vector": [[1.0]]}), home / "t.parquet")
    features.import_features("p", "audio", home / "t.parquet", clips=pd.DataFrame({"clip_id": [name]}))
    with pytest.raises(files.EcmfError, match="is not safe as a file name"):
        exchange.export_features("p", "audio", home / "out")
    assert not (home / "out").exists()


def test_names_that_differ_only_in_case_are_refused(home):
    pq.write_table(pa.table({"clip_id": ["a", "A"], "vector": [[1.0], [2.0]]}), home / "t.parquet")
    features.import_features("p", "audio", home / "t.parquet", clips=pd.DataFrame({"clip_id": ["a", "A"]}))
    with pytest.raises(files.EcmfError, match="'a' and 'A' differ only in upper and lower case"):
        exchange.export_features("p", "audio", home / "out")


def test_other_files_in_the_way_are_never_touched(home):
    take_in(folder_of(home, numbers()))
    exchange.export_features("p", "audio", home / "out")
    exchange.export_features("p", "audio", home / "out")  # the same files again
    (home / "out/hubert-UTT/old.npy").write_text("keep me")
    with pytest.raises(files.EcmfError, match="holds 1 files that are not of this export, such as 'old.npy'"):
        exchange.export_features("p", "audio", home / "out")
    written = exchange.export_features("p", "audio", home / "out", overwrite=True)
    assert "1 files of something else stay, such as 'old.npy'" in written.attrs["lines"][0]
    assert (home / "out/hubert-UTT/old.npy").read_text() == "keep me"


def test_files_that_hold_something_else_are_not_replaced(home):
    arrays = {name: values[None] for name, values in numbers().items()}  # (1, D) would become (D,)
    source = folder_of(home, arrays)
    take_in(source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(files.EcmfError, match=r"6 files there hold something else, .*'c0.npy'.*--overwrite"):
        exchange.export_features("p", "audio", source.parent)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    exchange.export_features("p", "audio", source.parent, overwrite=True)
    assert np.load(source / "c0.npy").shape == (D,)


def test_one_file_with_other_numbers_stops_the_export(home):
    take_in(folder_of(home, numbers()))
    exchange.export_features("p", "audio", home / "out")
    np.save(home / "out/hubert-UTT/c3.npy", np.zeros(D, np.float32))
    with pytest.raises(files.EcmfError, match="1 files there hold something else, the first is 'c3.npy'"):
        exchange.export_features("p", "audio", home / "out")


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_where_the_folder_should_be_is_one_line(home, below):
    take_in(folder_of(home, numbers()))
    (home / "out").write_text("mine")
    with pytest.raises(files.EcmfError, match="out: is a file; give a folder") as error:
        exchange.export_features("p", "audio", home / "out" / below)
    assert "\n" not in str(error.value) and (home / "out").read_text() == "mine"


def test_writing_below_a_file_is_one_line(home):
    (home / "out").write_text("mine")
    with pytest.raises(files.EcmfError, match="cannot be written"):
        files.write_text(home / "out/x.txt", "text")


@pytest.mark.parametrize("suffix", ["/../x", "\\x", "-UTT/"])
def test_an_ending_is_no_path(home, suffix):
    take_in(folder_of(home, numbers()))
    with pytest.raises(files.EcmfError, match="not safe in the name of a folder"):
        exchange.export_features("p", "audio", home / "out", suffix=suffix)
    assert not (home / "out").exists()


# ---- much of it


def test_an_import_goes_on_where_it_was_interrupted(home, monkeypatch):
    folder, read, load = folder_of(home, numbers(9)), [], np.load
    monkeypatch.setattr(exchange, "PART_ROWS", 2)

    def stop_at_six(path, **options):
        read.append(path.stem)
        if len(read) == 6:
            raise KeyboardInterrupt
        return load(path, **options)

    monkeypatch.setattr(npy_folders.np, "load", stop_at_six)
    with pytest.raises(KeyboardInterrupt):
        take_in(folder, 9)
    monkeypatch.setattr(npy_folders.np, "load", lambda path, **options: read.append(path.stem) or load(path, **options))
    resumed = take_in(folder, 9)
    assert resumed.attrs["computed"] == 5 and read[6:] == ["c4", "c5", "c6", "c7", "c8"]
    after = stored_file().read_bytes()
    stored_file().unlink()
    take_in(folder, 9)
    assert stored_file().read_bytes() == after and not list(stored_file().parent.glob(".parts-*"))


def test_only_what_changed_is_read_again(home):
    folder = folder_of(home, numbers())
    take_in(folder)
    assert take_in(folder).attrs["computed"] == 0
    np.save(folder / "c3.npy", np.arange(D, dtype=np.float32))
    os.utime(folder / "c3.npy", ns=(1, 1))
    assert take_in(folder).attrs["computed"] == 1
    assert features.load_matrix("p", "audio")[1][3].tolist() == list(range(D))


def test_frames_of_a_large_corpus_are_never_held_at_once(home, monkeypatch):
    folder, size = home / "published/big-FRA", 1 << 20
    folder.mkdir(parents=True)
    for i in range(48):  # 1 MiB each
        np.save(folder / f"c{i}.npy", np.full((256, 1024), i, np.float32))
    monkeypatch.setattr(feature_files, "BATCH_BYTES", 2 * size)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        take_in(folder, 48)
        exchange.export_features("p", "audio", home / "out")
        features.load("p", ["audio"])
        held = tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert max(held) < 16 * size, held
    assert len(feature_files.FeatureFile(stored_file()).batch_lengths) == 24


def test_the_manifest_decides_the_order(home):
    arrays = numbers(30)
    ids = list(np.random.default_rng(0).permutation(list(arrays)))
    pq.write_table(pa.table({"clip_id": list(arrays), "vector": list(arrays.values())}), home / "t.parquet")
    features.import_features("p", "audio", home / "t.parquet", clips=pd.DataFrame({"clip_id": ids}))
    found, matrix, _ = features.load_matrix("p", "audio")
    assert found == ids and np.array_equal(matrix, np.stack([arrays[name] for name in ids]))


def test_the_real_vectors_come_in_exactly(home, realdata):
    labels = pd.read_csv(realdata / "mosi" / "labels.csv")
    for branch, dim in {"visual": 100, "audio": 73, "text": 100}.items():
        summary = features.import_features("p", branch, realdata / "mosi" / f"{branch}.parquet", clips=labels).iloc[0]
        assert summary[["dtype", "dim", "ok", "unlisted"]].tolist() == ["float32", dim, 2199, 0]
        known = pd.read_parquet(realdata / "mosi" / f"{branch}.parquet").set_index("clip_id")["vector"]
        ids, matrix, present = features.load_matrix("p", branch)
        assert present.all() and np.array_equal(matrix, np.stack(known.loc[ids].to_list()))
    assert feature_files.choose_dtype(features.read_selected("p", "text")["recipe"]) == "float32"
