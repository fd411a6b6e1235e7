"""Label files of the official toolkit: what they hold is read, what would run is refused."""

import os
import pickle
import time
import zipfile

import numpy as np
import pytest

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.corpus.readers.label_npz import load_npz, tabulate_labels
from ecmf_utils.files import EcmfError

LABELS = {"a": {"emo": "happy", "val": 2.5}, "b": {"emo": "sad"}, "c": {"emo": 3, "val": -10}}


@pytest.fixture
def place(tmp_path):
    return tmp_path / "label-6way.npz"


def write_pickle(place, data, key="train_corpus", shape="()"):
    """An npz whose object array is the given pickle."""
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data)
    return place


def object_array(value, protocol):
    return pickle.dumps(np.array(value, object), protocol)


# ---- what is read


def test_the_official_label_file_is_read(place):
    np.savez_compressed(place, train_corpus=LABELS, test1_corpus={})
    assert load_npz(place) == {"train_corpus": LABELS, "test1_corpus": {}}


@pytest.mark.parametrize("protocol", range(2, 5))
def test_every_protocol_and_kind_of_plain_value_is_read(place, protocol):
    value = {
        "text": "你好",
        "bytes": b"\xff\x00",
        "none": None,
        "yes": True,
        "numbers": (1, -2.5, 2**70, 1 + 2j),
        "set": {1, 2},
        "list": [[], [1, [2]]],
        "float32": np.float32(1.5),
        "int64": np.int64(-3),
        "empty": b"",
        "str_": np.str_("é"),
        "big": np.array([1, 2], ">i2"),
        "array": np.arange(6.0).reshape(2, 3),
        "objects": np.array([None, "a", {"b": 1}], object),
    }
    read = load_npz(write_pickle(place, object_array(value, protocol)))["train_corpus"]
    assert {k: v for k, v in read.items() if not isinstance(v, np.ndarray)} == {
        k: v for k, v in value.items() if not isinstance(v, np.ndarray)
    }
    for key in ("big", "array", "objects"):
        np.testing.assert_array_equal(read[key], value[key])
    assert read["big"].dtype == value["big"].dtype and read["float32"].dtype == np.float32


def test_numpy_1_and_numpy_2_spell_their_modules_differently(place):
    data = object_array(LABELS, 2)
    other = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert data != other
    assert load_npz(write_pickle(place, other))["train_corpus"] == LABELS


def test_plain_arrays_and_arrays_of_objects_are_read(place):
    np.savez(place, numbers=np.eye(3, dtype=np.float16), names=np.array(["a", None], object), text=np.array("x"))
    read = load_npz(place)
    np.testing.assert_array_equal(read["numbers"], np.eye(3))
    assert read["numbers"].dtype == np.float16 and list(read["names"]) == ["a", None] and read["text"] == "x"


def test_what_occurs_many_times_is_made_once(place):
    nested = ["x"]
    for _ in range(60):  # 2**60 items when each is made anew
        nested = [nested, nested]
    start = time.monotonic()
    read = load_npz(write_pickle(place, object_array({"n": nested}, 4)))["train_corpus"]["n"]
    assert read[0] is read[1] and time.monotonic() - start < 5


# ---- what is refused: the pickle | what the line names


class Runs:
    """A pickle of this calls a function of the reader's machine."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


HOSTILE = {
    "shell": (Runs(os.system, "touch OWNED"), r"(posix|nt)\.system"),
    "eval": (Runs(eval, "open('OWNED', 'w')"), r"(builtins|__builtin__)\.eval"),
    "exec": (Runs(exec, "open('OWNED', 'w')"), r"(builtins|__builtin__)\.exec"),
    "open": (Runs(open, "OWNED", "w"), r"(io|_io)\.open"),
    "getattr": (Runs(getattr, "x", "upper"), r"(builtins|__builtin__)\.getattr"),
    "a class of numpy": (Runs(np.load, "x.npy"), r"numpy\.load"),
    "a path": ({"a": os.PathLike}, r"os\.PathLike"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_does_not_run(case, protocol, place, monkeypatch):
    monkeypatch.chdir(place.parent)
    value, name = HOSTILE[case]
    write_pickle(place, pickle.dumps({"a": {"emo": value}}, protocol))
    with pytest.raises(EcmfError, match=rf"label-6way\.npz: train_corpus asks for {name}; this was refused") as caught:
        load_npz(place)
    assert "\n" not in str(caught.value) and not (place.parent / "OWNED").exists()


# each line of these is an opcode of the pickle machine
MISUSE = {
    "a dtype with fields": pickle.dumps(np.zeros(1, [("a", "i4")]), 2),
    "a dtype of objects in a scalar": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO\ntRVx\ntR.",
    "another array class": b"cnumpy.core.multiarray\n_reconstruct\n(VX\n(I0\ntVb\ntR(I1\n(I1\ntVO\nI0\n(ltb.",
    "a function as a value": b"(lcnumpy\nndarray\na.",
    "bytes of a size": b"cbuiltins\nbytes\n(I1000000000000\ntR.",
    "another codec": b"c_codecs\nencode\n(Vx\nVhex\ntR.",
    "a memo that fills the machine": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a persistent object": b"Px\n.",
    "an array of a size": b"cnumpy\nndarray\n((I1000000000000\nttR.",
    "a whole number of many digits": pickle.dumps(np.array({"a": 10**200}, object), 2),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_of_what_is_admitted_is_refused(case, place):
    with pytest.raises(EcmfError, match=r"train_corpus .*refused"):
        load_npz(write_pickle(place, MISUSE[case]))


def test_setting_attributes_on_what_is_admitted_leaves_the_reader_as_it_was(place):
    build = b"cnumpy.core.multiarray\nscalar\n(N(dVname\nVeval\nstb."  # BUILD with a state for slots
    with pytest.raises(EcmfError):
        load_npz(write_pickle(place, build))
    assert load_npz(write_pickle(place, object_array(LABELS, 2)))["train_corpus"] == LABELS


# ---- what is damaged: the file | the line


def damaged(place, how):
    np.savez_compressed(place, train_corpus=LABELS)
    data = place.read_bytes()
    place.write_bytes(how(data))
    return place


BROKEN = {
    "empty": (lambda data: b"", "not an npz archive (the file is empty)"),
    "cut short": (lambda data: data[: len(data) // 2], "not an npz archive"),
    "a page": (lambda data: b"<html>not found</html>", "not an npz archive"),
    "a bit that flipped": (lambda data: data[:120] + bytes([data[120] ^ 255]) + data[121:], "train_corpus is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_archive_is_one_line(case, place):
    how, line = BROKEN[case]
    with pytest.raises(EcmfError) as caught:
        load_npz(damaged(place, how))
    assert line in str(caught.value) and "label-6way.npz" in str(caught.value) and "\n" not in str(caught.value)


def nest(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


DAMAGED = {
    "a pickle cut short": object_array(LABELS, 4)[:-20],
    "not a pickle": b"hello",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a number where an array should be": pickle.dumps(5),
    "too few objects for the shape": object_array(["a", "b"], 2),
    "fewer objects than an array inside says": object_array({"a": np.array([1, "b"], object)}, 2).replace(
        b"K\x02\x85", b"K\x09\x85"
    ),
    # numpy itself would take the address from the bytes and end the process
    "a dtype of objects that says it has none": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI00\nI01\ntR"
        b"(I3\nV|\nNNNI-1\nI-1\nI0\ntbI00\nC\x08AAAAAAAAtb."
    ),
    "values in values without end": object_array({"a": nest(101)}, 4),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_member_is_one_line(case, place):
    with pytest.raises(EcmfError, match=r"label-6way\.npz: train_corpus (is damaged|cannot be unpacked)") as caught:
        load_npz(write_pickle(place, DAMAGED[case]))
    assert "\n" not in str(caught.value)


def test_a_shape_that_its_bytes_do_not_fill_is_refused_before_it_takes_memory(place):
    np.savez(place, x=np.zeros(4))
    with zipfile.ZipFile(place) as archive:
        data = archive.read("x.npy").replace(b"(4,), }         ", b"(99999999999,), }"[:16])
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(EcmfError, match="x is damaged"):
        load_npz(place)


def test_an_archive_that_unpacks_to_an_absurd_size_is_refused(place, monkeypatch):
    monkeypatch.setattr("ecmf_utils.corpus.readers.label_npz.MAX_BYTES", 1000)
    np.savez_compressed(place, x=np.zeros(1000))
    with pytest.raises(EcmfError, match=r"label-6way\.npz: unpacks to .* at most"):
        load_npz(place)


def test_a_pickle_of_too_many_steps_is_refused(place, monkeypatch):
    monkeypatch.setattr("ecmf_utils.corpus.readers.label_npz.MAX_STEPS", 100)
    with pytest.raises(EcmfError, match="train_corpus asks for more than 100 steps; this was refused"):
        load_npz(write_pickle(place, object_array(dict.fromkeys(map(str, range(100)), 1), 4)))


@pytest.mark.parametrize("kind", [np.array, set])
def test_a_small_pickle_that_fills_the_memory_is_refused(kind, place, monkeypatch):
    """Each array and each set is made anew from one list."""
    monkeypatch.setattr("ecmf_utils.corpus.readers.label_npz.MAX_BYTES", 10**6)
    items = pickle.dumps(list(range(1000)), 2)[2:-1]
    if kind is set:
        again = b"cbuiltins\nset\n(h\xfetR"
    else:
        dtype = b"cnumpy\ndtype\n(VO8\ntR"
        array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
        again = array + b"(I1\n(I1000\nt" + dtype + b"I00\nh\xfetb"
    with pytest.raises(EcmfError, match="asks for more than 1,000,000 bytes of memory; this was refused"):
        load_npz(write_pickle(place, b"\x80\x02(" + items + b"q\xfe" + again * 500 + b"l."))


def test_a_missing_file_is_one_line(place):
    with pytest.raises(EcmfError, match=r"label-6way\.npz: no such file"):
        load_npz(place)


# ---- labels


def test_labels_are_words_or_indices_and_minus_ten_is_no_valence():
    table = tabulate_labels({"train_corpus": LABELS}, "train_corpus", Findings(), "l.npz")
    assert list(table["name"]) == ["a", "b", "c"] and list(table["label"]) == ["happy", "sad", "sad"]
    assert table["valence"][1] == 2.5 and table["valence"].isna().sum() == 2


def test_a_bad_entry_loses_its_label_and_the_others_go_on():
    entries = {
        "a": {"emo": 9},
        "b": "happy",
        "c": {"val": 1.0},
        "d": {"emo": ["x"]},
        5: {"emo": "sad"},
        "e": {"emo": 0},
        "f": {"emo": np.array([1, 2])},
    }
    found = Findings()
    table = tabulate_labels({"k": entries}, "k", found, "l.npz")
    assert list(table["label"].isna()) == [True, True, True, True, False, False, True]
    assert found.lines(9)[:2] == [
        "l.npz row 1: k: entry 'a' has 9 as 'emo'; expected {'emo': a label, or a number from 0 to 5}",
        "l.npz row 2: k: entry 'b' is 'happy'; expected {'emo': a label, or a number from 0 to 5}",
    ]
    assert [f.row for f in found] == [1, 2, 4, 5, 7] and table["name"].isna()[5] and table["label"][6] == "neutral"


def test_an_entry_without_end_is_described_in_few_words():
    nested = ["x"]
    for _ in range(60):  # 2**60 items in print
        nested = [nested, nested]
    found = Findings()
    tabulate_labels({"k": {"a": {"emo": nested}, "b": np.array(nested[:0], object)}}, "k", found, "l.npz")
    assert [line.split(";")[0] for line in found.lines()] == [
        "l.npz row 1: k: entry 'a' has a list as 'emo'",
        "l.npz row 2: k: entry 'b' is an array of shape (0,)",
    ]


def test_a_key_that_is_not_there_is_one_line():
    with pytest.raises(EcmfError, match=r"l\.npz: no key 'train_corpus'; the file has a, b"):
        tabulate_labels({"a": {}, "b": {}}, "train_corpus", Findings(), "l.npz")


def test_a_key_that_holds_no_dict_is_one_line():
    with pytest.raises(EcmfError, match=r"l\.npz: a is an array of shape \(3,\); expected a dict"):
        tabulate_labels({"a": np.zeros(3)}, "a", Findings(), "l.npz")


def test_labels_of_a_whole_corpus_are_read_in_seconds(place):
    np.savez_compressed(place, train_corpus={f"sample_{i:08d}": {"emo": "happy", "val": 1.5} for i in range(27000)})
    start = time.monotonic()
    assert len(tabulate_labels(load_npz(place), "train_corpus", Findings(), "l.npz")) == 27000
    assert time.monotonic() - start < 10
