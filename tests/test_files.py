"""Files that are read and written one clear way: lines of JSON, names, what a disk refuses."""

import errno
import json

import pyarrow.parquet as pq
import pytest

from ecmf_utils.files import EcmfError, append_line, file_name, given_path, read_json, read_lines, read_table


def test_lines_come_back_whatever_is_in_them(tmp_path):
    entries = [{"a": "one\u2028two\u0085three\nfour"}, {"a": "\u4f60\u597d"}, {"a": 1}]
    for entry in entries:
        append_line(tmp_path / "new" / "x.jsonl", entry, "nothing")
    assert list(read_lines(tmp_path / "new" / "x.jsonl")) == entries
    assert list(read_lines(tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_line_that_was_cut_is_left_out_and_the_next_one_is_whole(tmp_path, cut):
    file, first, second = tmp_path / "x.jsonl", {"a": "\u4f60\u597d"}, {"b": "\u518d\u89c1"}
    append_line(file, first, "")
    append_line(file, second, "")
    length = len(json.dumps(second, ensure_ascii=False).encode()) + 1
    file.write_bytes(file.read_bytes()[: -min(cut, length)])
    append_line(file, {"c": 3}, "")
    assert list(read_lines(file)) == ([first, second, {"c": 3}] if cut == 1 else [first, {"c": 3}])


def test_lines_that_are_no_entries_are_left_out(tmp_path):
    (tmp_path / "x.jsonl").write_text('1\n\n[2]\n{"a": 3}\n')
    assert list(read_lines(tmp_path / "x.jsonl")) == [{"a": 3}]


def test_a_line_that_cannot_be_written_says_what_is_kept(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(EcmfError, match=r"x\.jsonl: cannot be written \(Is a directory\); all of it is kept"):
        append_line(tmp_path / "x.jsonl", {}, "all of it is kept")


def test_every_clip_has_a_file_of_its_own_where_case_does_not_count_and_names_are_short():
    names = ["c0020", "Clip", "clip", "CLIP", "a b", "a-b", "x" * 200, "con.", "-x"]
    names += ["\u4f60" * 85, "\u4f60" * 86, "\u00e9"]
    files = [file_name(name) for name in names]
    assert len({file.lower() for file in files}) == len(names) and files[0] == "c0020" and files[2] == "clip"
    assert all(len(f"{file}.npz".encode()) < 200 and file.isascii() for file in files)


@pytest.mark.parametrize("wrong", ["~nosuchuser/clips", "x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_is_one_line(wrong):
    with pytest.raises(EcmfError, match="no usable path") as told:
        given_path(wrong)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_a_path_is_taken_as_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path("~/clips") == tmp_path / "clips" and str(given_path("clips")) == "clips"


def test_a_file_that_the_system_refuses_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(EcmfError, match=r"x\.json: cannot be read \(Is a directory\)"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.parquet").touch()
    with pytest.raises(EcmfError, match="not a Parquet file or a damaged one"):
        read_table(tmp_path / "x.parquet")

    def too_many(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pq, "read_table", too_many)
    with pytest.raises(EcmfError, match=r"x\.parquet: cannot be read \(Too many open files\)$"):
        read_table(tmp_path / "x.parquet")
