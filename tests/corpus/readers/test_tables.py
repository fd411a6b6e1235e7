"""Tables as people send them: encodings, delimiters, quotes, and one clear line for each fault."""

import pytest

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.corpus.readers.tables import read_table, unique_names
from ecmf_utils.files import EcmfError

CHINESE = ("你怎么来了，我不知道该说什么。", "他们都走了吗？", "没有，我还在这里等你。")
TABLE = "name,chinese\n" + "".join(f"c{i},{text}\n" for i, text in enumerate(CHINESE))


@pytest.fixture
def write(tmp_path):
    """Writes a table and gives its path."""

    def made(content, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return made


def codes(found):
    return [finding.code for finding in found]


# ---- what is read


def test_rows_are_numbered_as_the_file_has_them(write):
    table = read_table(write("name,discrete\na,happy\n\nb,sad\n"), Findings())
    assert list(table.index) == [2, 4] and table.index.name == "row"
    assert table.to_dict("list") == {"name": ["a", "b"], "discrete": ["happy", "sad"]}


def test_a_cell_of_several_lines_moves_the_rows_after_it(write):
    table = read_table(write('name,text\na,"one\ntwo, ""three"""\nb,four\n'), Findings())
    assert list(table.index) == [2, 4] and table["text"][2] == 'one\ntwo, "three"'


@pytest.mark.parametrize("delimiter", ",;\t")
def test_the_delimiter_is_taken_from_the_header(write, delimiter):
    content = (
        f"name{delimiter}text\na{delimiter}x;y,z\n" if delimiter == "\t" else f"name{delimiter}text\na{delimiter}x\n"
    )
    table = read_table(write(content), Findings(), ("name", "text"))
    assert table["text"][2] == ("x;y,z" if delimiter == "\t" else "x")


def test_one_column_needs_no_delimiter(write):
    assert list(read_table(write("name\na\nb\n"), Findings(), ("name",))["name"]) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_byte_order_mark_and_line_ends_change_nothing(write, encoding, end):
    found = Findings()
    table = read_table(write(TABLE.replace("\n", end), encoding), found, ("name", "chinese"))
    assert tuple(table["chinese"]) == CHINESE and list(table.index) == [2, 3, 4] and not len(found)


def test_columns_are_renamed_and_the_files_own_of_that_name_gives_way(write):
    path = write("file,label,emotion\na,7,happy\n")
    table = read_table(path, Findings(), ("clip_id", "label"), {"clip_id": "file", "label": "emotion"})
    assert table.to_dict("records") == [{"clip_id": "a", "label": "happy"}]


def test_an_index_column_without_a_name_is_no_fault(write):
    found = Findings()
    assert list(read_table(write(",name\n0,a\n"), found, ("name",)).columns) == ["column 1", "name"] and not len(found)


def test_what_stands_for_nothing_is_missing_and_told_once(write):
    found = Findings()
    table = read_table(write("name,discrete\na,nan\nb,\nc,None\nd, NULL \ne,none of it\n"), found)
    assert list(table["discrete"]) == [None, None, None, None, "none of it"]
    assert found.lines() == ["table.csv: missing values: discrete 1 nan, 1 empty, 1 None, 1 NULL"]


# ---- encodings: detected, told, never silent


@pytest.mark.parametrize("encoding, name", [("gbk", "gb18030"), ("gb18030", "gb18030"), ("utf-16", "utf-16")])
def test_a_chinese_encoding_is_detected_and_told_with_a_sample(write, encoding, name):
    found = Findings()
    table = read_table(write(TABLE, encoding), found)
    assert tuple(table["chinese"]) == CHINESE and codes(found) == ["encoding"]
    line = found.lines(quotes=True)[0]
    assert line.startswith(f"table.csv row 2: not UTF-8, read as {name};") and CHINESE[0] in line
    assert CHINESE[0] not in found.lines()[0] + found.frame().to_string()


@pytest.mark.parametrize(
    "encoding, text",
    [
        ("big5", "你怎麼來了，我不知道該說什麼。"),
        ("euc-kr", "안녕하세요 저는 학생입니다."),
        ("cp1251", "Привет как дела"),
    ],
)
def test_other_encodings_are_not_taken_for_chinese(write, encoding, text):
    found = Findings()
    table = read_table(write(f"name,text\na,{text}\n", encoding), found)
    assert table["text"][2] == text and "gb18030" not in found.lines()[0]


def test_an_encoding_that_is_given_is_used_and_not_told(write):
    found = Findings()
    assert tuple(read_table(write(TABLE, "gbk"), found, encoding="gbk")["chinese"]) == CHINESE and not len(found)


def test_a_few_damaged_bytes_cost_a_few_characters(write):
    lines = [f"c{i},{CHINESE[0]}".encode() for i in range(20)]
    lines[7] = lines[7][:-1]  # the last character is cut
    found = Findings()
    table = read_table(write(b"\n".join([b"name,chinese", *lines])), found)
    assert table["chinese"][2] == CHINESE[0] and table["chinese"][9] == CHINESE[0][:-1] + "\ufffd"
    assert found.lines() == ["table.csv row 9: bytes that are not UTF-8, shown as \ufffd"]


# ---- rows that are odd


def test_a_row_with_a_cell_too_many_or_too_few_is_told_and_kept(write):
    found = Findings()
    table = read_table(write("name,text\na,hello, world\nb\nc,bye,,\n"), found)
    assert list(table["text"]) == ["hello", None, "bye"]
    assert [(f.code, f.row) for f in found if f.code == "ragged_row"] == [("ragged_row", 2), ("ragged_row", 3)]


def test_a_quotation_mark_that_is_never_closed_costs_no_other_row(write):
    found = Findings()
    rows = ['a,"hello', "b,two", 'c,"by""e"', 'd,"there', "e,five", 'f,5" wide']
    table = read_table(write("name,text\n" + "\n".join(rows) + "\n"), found)
    assert list(table["name"]) == list("abcdef") and table["text"][4] == 'by"e' and table["text"][7] == '5" wide'
    assert [(f.code, f.row) for f in found] == [("stray_quote", 2), ("stray_quote", 5)]


def test_a_header_without_rows_is_told(write):
    found = Findings()
    assert not len(read_table(write("name,text\n"), found)) and codes(found) == ["empty_table"]


# ---- files that cannot be used | the line

REFUSED = {
    b"": "table.csv: the file has no bytes; copy it again from its source",
    b"\xef\xbb\xbf \r\n": "table.csv: not a CSV table (there is nothing but blank space in it)",
    b"name,label\ra,happy\rb,sad\r": "table.csv: its lines end in a carriage return alone (old Mac); save it",
    b"name,discrete\na,ha\0ppy\n": "table.csv: line 2 has a NUL byte, so this is not a text table",
    "name,discrete\na,happy\n".encode("utf-16-le"): "table.csv: line 1 has a NUL byte, so this is not a text table",
    b"name,emotion\na,happy\n": "table.csv: column discrete missing; expected name, discrete, found name, emotion",
    b"Name,Discrete\na,happy\n": "found Name, Discrete; is 'Name' meant for name?; is 'Discrete' meant for discrete?",
    b"<html><body>Sign in</body></html>": "column name, discrete missing; expected name, discrete, found <html>",
    b"name,discrete,name\na,b,c\n": "table.csv: column 'name' is there twice; rename or remove one",
}


@pytest.mark.parametrize("content", REFUSED)
def test_a_file_that_cannot_be_used_is_one_line(content, write):
    with pytest.raises(EcmfError) as caught:
        read_table(write(content), Findings(), ("name", "discrete"))
    assert REFUSED[content] in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(EcmfError, match=r"gone\.csv: no such manifest; give an existing CSV file"):
        read_table(tmp_path / "gone.csv", Findings(), what="manifest")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(EcmfError, match="cannot be read"):
        read_table(tmp_path, Findings())


def test_an_encoding_that_does_not_fit_names_the_line(write):
    with pytest.raises(EcmfError, match=r"table\.csv: line 2 is not UTF-8; save it as UTF-8 or say encoding="):
        read_table(write(TABLE, "gbk"), Findings(), encoding="utf-8")
    with pytest.raises(EcmfError, match=r"table\.csv: line 2 is not ASCII"):
        read_table(write(TABLE), Findings(), encoding="ascii")


def test_utf_16_with_nothing_but_ascii_is_read(write):
    found = Findings()
    assert list(read_table(write("name,text\na,hello\n", "utf-16"), found)["text"]) == ["hello"]
    assert found.lines()[0].startswith("table.csv row 1: not UTF-8, read as utf-16")


def test_utf_16_with_half_a_character_is_one_line(write):
    with pytest.raises(EcmfError, match=r"table\.csv: line 3 is not UTF-16; save it as UTF-8"):
        read_table(write("name,text\na,hello\n".encode("utf-16") + b"x"), Findings())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-8", "U8", "utf-32-be"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(write, encoding):
    path = write("\ufeffname,text\na,hello\n", encoding)
    assert list(read_table(path, Findings(), encoding=encoding).columns) == ["name", "text"]


@pytest.mark.parametrize("encoding", ["klingon", "hex", "punycode", "undefined", "idna", "unicode_escape"])
def test_an_encoding_that_nobody_knows_is_one_line(write, encoding):
    with pytest.raises(EcmfError, match=rf"unknown encoding: encoding '{encoding}' is not known; expected"):
        read_table(write(TABLE), Findings(), encoding=encoding)


def test_nothing_is_guessed_where_nobody_is_told(write):
    with pytest.raises(EcmfError, match="line 2 is not UTF-8"):
        read_table(write(TABLE, "gbk"))


def test_a_mapping_to_a_column_that_is_not_there_is_one_line(write):
    with pytest.raises(EcmfError, match=r"no column 'emotions' for label; found file, emotion; is 'emotion' meant"):
        read_table(write("file,emotion\na,happy\n"), Findings(), columns={"label": "emotions"})


# ---- names


def test_the_first_of_a_name_counts_and_both_rows_are_told(write):
    found = Findings()
    table = read_table(write("name,discrete\na,happy\nb,sad\na,happy\nb,angry\n,x\n,y\n"), Findings())
    kept = unique_names(table, "name", found, "l.csv", "discrete")
    assert list(kept.index) == [2, 3, 6, 7]
    assert found.lines() == [
        "l.csv row 4: 'a' occurred in row 2 already; the first row counts",
        "l.csv row 5: 'b' occurred in row 3 already; the first row counts, and the labels differ (sad, here angry)",
    ]
