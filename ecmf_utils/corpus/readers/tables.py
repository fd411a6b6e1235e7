"""Tables as people send them: any encoding and delimiter, read as text with the row of each value."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from ecmf_utils.corpus.findings import Findings, escaped
from ecmf_utils.files import EcmfError, show

MISSING = ("", "nan", "NaN", "None", "NULL", "null")  # what stands for no value
DELIMITERS = ",;\t"
MAX_LINES = 50  # of one quoted cell; more is a quotation mark that nobody closed


def read_table(
    path: Path | str,
    found: Findings | None = None,
    required: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    encoding: str = "",
    what: str = "table",
) -> pd.DataFrame:
    """A CSV file as text; what is odd about it goes to `found`, what makes it unusable is raised.

    UTF-8 with or without a byte order mark, line ends LF or CRLF, delimiter comma, semicolon or tab (the
    one that splits the header best). Another encoding is detected only when `found` can report it.

    Parameters
    ----------
    path : path
        The file.
    found : Findings, optional
        Gets the encoding when it is not UTF-8, the number of missing values, and rows with a wrong
        number of cells.
    required : sequence of str
        Columns that must be there, after renaming.
    columns : mapping, optional
        Our name -> the file's name, for files whose columns are called otherwise.
    encoding : str
        Forces one, for example `gb18030`; nothing is detected then.
    what : str
        What the error calls a file that is not there.

    Returns
    -------
    DataFrame
        Values are str, missing ones None. The index `row` is the line of the file where the row starts;
        the header is row 1, so a cell of three lines moves the rows after it by two.

    Raises
    ------
    EcmfError
        The file is missing, empty, not text, not decodable, or lacks a column.
    """
    path = Path(path)
    lines = read_text(path, found, encoding, what).split("\n")
    head = next(i for i, line in enumerate(lines) if line.strip())
    delimiter = _delimiter(lines[head], [*required, *(columns or {}).values()])
    names = _header(lines[head], delimiter, path)
    numbers, cells = _cells(lines[head + 1 :], head + 2, delimiter, len(names), path, found)
    table = pd.DataFrame(cells, columns=names, index=pd.Index(numbers, name="row"), dtype=object)
    table = _renamed(_without_missing(table, path, found), columns or {}, path)
    require(table, required, path)
    if not len(table) and found is not None:
        found.add("empty_table", path, "there is a header and no row below it")
    return table


def unique_names(rows: pd.DataFrame, name: str, found: Findings, file: Path | str, label: str = "") -> pd.DataFrame:
    """Keep the first row of each name; the others are findings, which say whether the labels differ.

    Parameters
    ----------
    rows : DataFrame
        As `read_table` gives it; rows without a name are left alone.
    name, label : str
        Columns.
    """
    again = rows[name].notna() & rows[name].duplicated()
    first = rows[~again].reset_index().dropna(subset=[name]).set_index(name)
    for row in rows[again].reset_index().to_dict("records"):
        before = first.loc[row[name]]
        text = f"{row[name]!r} occurred in row {before['row']:,} already; the first row counts"
        if label and before[label] != row[label]:
            text += f", and the labels differ ({before[label]}, here {row[label]})"
        found.add("duplicate_id", file, text, row=row["row"], clip_id=row[name])
    return rows[~again]


# ---- text to cells


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """The delimiter that gives most of the wanted columns, then the most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        return len(set(names) & set(wanted)), len(names)

    return max(DELIMITERS, key=score)


def _header(line: str, delimiter: str, path: Path) -> list[str]:
    names = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    names = [name or f"column {i}" for i, name in enumerate(names, 1)]  # an index without a name
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise EcmfError(f"{show(path)}: column {twice[0]!r} is there twice; rename or remove one")
    return names


def _cells(
    lines: list[str], start: int, delimiter: str, width: int, path: Path, found: Findings | None
) -> tuple[list[int], list[list[str]]]:
    """Line numbers and cells of all rows, each of `width` cells."""
    numbers, rows = [], []
    for number, cells, closed in _records(lines, start, delimiter, width):
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if found is not None and not closed:
            text = "a quotation mark is not closed or out of place; the line was read by itself"
            found.add("stray_quote", path, text, row=number)
        if found is not None and len(cells) != width:
            text = f"{len(cells)} cells, expected {width}; is a cell with {delimiter!r} in it not in quotes?"
            found.add("ragged_row", path, text, row=number)
        numbers.append(number)
        rows.append(cells[:width] + [""] * (width - len(cells)))
    return numbers, rows


def _records(lines: list[str], start: int, delimiter: str, width: int) -> Iterator[tuple[int, list[str], bool]]:
    """Each row with its first line and whether its quotation marks are closed."""
    i = 0
    while i < len(lines):
        line = lines[i]
        if '"' not in line:
            yield start + i, line.split(delimiter), True
            i += 1
            continue
        n, cells, closed = _quoted(lines, i, delimiter, width)
        yield start + i, cells, closed
        i += n


def _quoted(lines: list[str], i: int, delimiter: str, width: int) -> tuple[int, list[str], bool]:
    """How many lines a row with quotation marks takes, its cells, and whether the marks are in order."""
    for n in range(1, MAX_LINES + 1):
        record = [line + "\n" for line in lines[i : i + n]]
        if len(record) < n or (n > 1 and sum(line.count('"') for line in record) % 2):
            continue
        try:  # strict: the mark that closes is followed by a delimiter, one that opens is not
            cells = next(csv.reader(record, delimiter=delimiter, strict=True))
        except csv.Error:  # or the last line has not come yet
            if n > 1 or lines[i].count('"') % 2 == 0:
                break
            continue
        if n == 1 or len(cells) == width:
            return n, cells, True
        break
    return 1, lines[i].split(delimiter), False


# ---- columns and missing values


def _renamed(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    """The table under our names; a column of the file that has one of them already gives way."""
    for ours, theirs in columns.items():
        if theirs not in table:
            raise EcmfError(
                f"{show(path)}: no column {theirs!r} for {ours}; found {', '.join(table.columns)}"
                + _hint([theirs], table.columns)
            )
    taken = [ours for ours, theirs in columns.items() if ours in table and ours not in columns.values()]
    named = {ours: table[theirs] for ours, theirs in columns.items()}
    return table.drop(columns=[*taken, *set(columns.values())]).assign(**named)


def require(table: pd.DataFrame, required: Sequence[str], path: Path) -> None:
    """Refuse a table that lacks columns, naming them, what is there, and what may be meant."""
    missing = [name for name in required if name not in table]
    if missing:
        raise EcmfError(
            f"{show(path)}: column {', '.join(missing)} missing; expected {', '.join(required)}, "
            f"found {', '.join(name[:40] for name in table.columns[:12])}" + _hint(missing, table.columns)
        )


def _hint(wanted: Sequence[str], there: Sequence[str]) -> str:
    close = {}
    for name in wanted:
        lower = {other.lower(): other for other in there}
        if match := get_close_matches(name.lower(), lower, n=1):
            close[name] = lower[match[0]]
    return "".join(f"; is {theirs!r} meant for {name}?" for name, theirs in close.items())


def _without_missing(table: pd.DataFrame, path: Path, found: Findings | None) -> pd.DataFrame:
    """None for every value that stands for nothing; how many there are is one finding."""
    told = []
    for name in table.columns:
        gone = table[name].isin(MISSING)
        if gone.any():
            kinds = table.loc[gone, name].value_counts().items()
            told.append(f"{name} " + ", ".join(f"{n:,} {kind or 'empty'}" for kind, n in kinds))
            table[name] = table[name].where(~gone, None)
    if told and found is not None:
        found.add("missing_value", path, f"missing values: {'; '.join(told)}")
    return table


# ---- text of a file whose encoding is not known: UTF-8, or what is detected and told


SAMPLE_BYTES = 200_000  # enough lines to tell encodings apart
# about a third of any modern Chinese text; Korean and Traditional Chinese bytes do not decode to them
FREQUENT = frozenset(
    "的一是了我不人在他有这个上们来到时大为子中你说着就那和要她出也得里后自以会家可下过天去能对小多然心么"
    "之都好看起没成只事把还用样想吗啊吧呢谁什知道让给真很怎"
)
DAMAGED = "\ufffd"
DAMAGED_SHARE = 0.05  # of the characters beyond ASCII, at most; more is another encoding
NO_FILE = ("punycode", "idna", "unicode-escape", "raw-unicode-escape")  # codecs of domain names and source text
FREQUENT_SHARE = 0.12  # of the hanzi of a Chinese text, at least


def read_text(path: Path, found: Findings | None, encoding: str = "", what: str = "table") -> str:
    """The text of a file, with line ends LF.

    Parameters
    ----------
    found : Findings, optional
        Gets the encoding when it is not UTF-8; without it only UTF-8 is read.
    encoding : str
        Forces one; nothing is detected then.
    what : str
        What the error calls a file that is not there.

    Raises
    ------
    EcmfError
        The file is missing, empty, not text, or not in the encoding; the line is named.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise EcmfError(f"{show(path)}: no such {what}; give an existing CSV file") from None
    except OSError as error:
        raise EcmfError(f"{show(path)}: cannot be read ({error.strerror}); give a readable CSV file") from None
    if not data:
        raise EcmfError(f"{show(path)}: the file has no bytes; copy it again from its source")
    text = escaped(_decoded(data, path, encoding)) if encoding else _detected(data, path, found)
    if not text.strip():
        raise EcmfError(f"{show(path)}: not a CSV table (there is nothing but blank space in it)")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise EcmfError(
            f"{show(path)}: line {line} has a NUL byte, so this is not a text table; save it as CSV in UTF-8 "
            "(or say encoding=utf-16-le if it is UTF-16)"
        )
    if "\r" in text and "\n" not in text:
        raise EcmfError(
            f"{show(path)}: its lines end in a carriage return alone (old Mac); save it with line ends LF or CRLF"
        )
    return re.sub(r"\r+\n", "\n", text).replace("\r", " ")


def _decoded(data: bytes, path: Path, encoding: str) -> str:
    """The text in a given encoding, or an error that names the first line where it does not fit."""
    check_encoding(encoding)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise EcmfError(
            f"{show(path)}: line {line} is not {encoding.upper()}; save it as UTF-8 or say encoding=NAME (such as "
            "gb18030)"
        ) from None


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know, or that no text file has."""
    try:
        "".encode(encoding)
        known = codecs.lookup(encoding).name.replace("_", "-") not in NO_FILE
    except (LookupError, ValueError):
        known = False
    if not known:
        examples = "utf-8, gb18030, big5, shift-jis"
        raise EcmfError(f"unknown encoding: encoding {encoding!r} is not known; expected a name such as {examples}")


def _detected(data: bytes, path: Path, found: Findings | None) -> str:
    """UTF-8, or what the bytes look like, which is told with a sample."""
    try:
        return _decoded(data, path, "utf-8")
    except EcmfError:
        if found is None:
            raise
        if text := _almost_utf8(data, path, found):
            return text
        if (guess := _guess(data)) is None:
            raise
    text = _decoded(data, path, guess)
    lines = enumerate(text.split("\n"), 1)
    line, sample = next(((i, line) for i, line in lines if not line.isascii()), (1, ""))
    advice = f"not UTF-8, read as {guess}; if the transcripts look wrong, say encoding=NAME"
    found.add("encoding", path, advice, row=line, quote=sample)
    return text


def _almost_utf8(data: bytes, path: Path, found: Findings) -> str:
    """The text where only a few characters are damaged, each line of which is told; empty otherwise."""
    text = data.decode("utf-8-sig", "replace")
    if text.count(DAMAGED) > DAMAGED_SHARE * sum(not char.isascii() for char in text):
        return ""
    for number, line in enumerate(text.split("\n"), 1):
        if DAMAGED in line:
            found.add("bad_encoding", path, f"bytes that are not UTF-8, shown as {DAMAGED}", row=number, quote=line)
    return text


def _guess(data: bytes) -> str | None:
    """The encoding that bytes look like, None when none fits all of them."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    from charset_normalizer import from_bytes

    odd = b"\n".join(line for line in data.split(b"\n") if not line.isascii())
    odd = odd if len(odd) <= SAMPLE_BYTES else odd[: odd.rindex(b"\n", 0, SAMPLE_BYTES)]
    best = from_bytes(odd).best()
    guesses = ["gb18030"] if _is_chinese(odd) else [best.encoding] if best else []
    guesses = ["gb18030" if guess in ("gb2312", "gbk", "hz") else guess for guess in guesses]
    return next((guess for guess in guesses if _fits(data, guess)), None)


def _is_chinese(data: bytes) -> bool:
    """Whether bytes read as GB18030 give the characters that Chinese text is made of."""
    if not _fits(data, "gb18030"):
        return False
    hanzi = [char for char in data.decode("gb18030") if "\u3400" <= char <= "\u9fff"]
    return len(hanzi) >= 4 and sum(char in FREQUENT for char in hanzi) >= FREQUENT_SHARE * len(hanzi)


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True
