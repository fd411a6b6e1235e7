"""Tables as people send them: any encoding and delimiter, read as text with the row of each value."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from .charset import read_text
from .findings import Findings
from .paths import EcmfError, show

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
