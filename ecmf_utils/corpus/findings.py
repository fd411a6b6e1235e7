"""What was found while a corpus was read: one line for each fault, a summary where it is systematic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

QUOTE = 60  # characters of a quote that are shown
COLUMNS = ("code", "file", "row", "clip_id", "text")
# every code of a finding, with the sentence that a report shows
FINDINGS = {
    # tables
    "encoding": "the file is not UTF-8; it was read in the encoding that is named",
    "bad_encoding": "a few bytes of a UTF-8 file are damaged; they are shown as a replacement character",
    "missing_value": "the cell is empty or says nan, None or NULL; the value counts as missing",
    "bad_number": "the value is no number; it counts as missing",
    "empty_table": "the table has a header and no rows",
    "stray_quote": "a quotation mark is not closed or out of place; the line was read by itself",
    "ragged_row": "the row has more or fewer cells than the header; the cells it has are used",
    "duplicate_id": "the name occurred in an earlier row; the first one is kept",
    "bad_id": "the name is empty or has a path separator; the row is not used",
    "case_clash": "names differ only in upper and lower case; all are kept",
    "mended_text": "characters of a known wrong encoding in the published file were mended",
    "missing_table": "a table of the published layout is not there",
    # tables and media together
    "missing_file": "the table names a clip without any media file; the row is kept as failed",
    "missing_video": "there is sound and no video; the sound is used alone",
    "unlisted_media": "there is media that no table names",
    "duplicate_media": "two files have the same name or end in the same clip_id; the text says what became of them",
    "outside_source": "a link leads out of the source folder; it is not followed",
    "sound_in_video": "there is no sound file of that name; the sound stream of the video is used",
    "bad_name": "the file name is not of the published pattern; the clip has no label",
    "ignored_file": "files of another kind or modality are there; they are no clips of their own",
    "no_transcript": "the transcript table is not there, or does not have the clip",
    "unused_row": "the transcript table has rows of clips that are not there",
    # labels and splits
    "unknown_label": "the label is not in the profile's label set; the clip counts as unlabelled",
    "unknown_split": "the split is none of train, test, unlabelled; a default was taken",
    "dropped_label": "the label has no counterpart in the profile's label set; its clips are counted",
    "bad_label": "the entry of the label file is not of the published form; the clip is unlabelled",
    "placeholder_labels": "the labels of the test clips are placeholders; they count as missing",
    "split_overlap": "a clip is named in two splits; which one counts is told",
    # published features
    "no_features": "the published features do not have the clip; it is a missing branch",
    "unlisted_features": "there are published features of clips that the manifest does not have",
    "empty_file": "the file has no bytes",
    "not_npy": "the file is not an .npy file",
    "pickled": "the .npy file holds a pickle, which may run code; it is not opened",
    "truncated": "the file ends before its announced end",
    "unreadable": "the file is damaged: nothing could be read",
    "wrong_dim": "the vector has another number of numbers than most",
    "wrong_dtype": "the values are not of the type that most have",
    "not_finite": "there are numbers that are not finite",
    "zero_vectors": "the published vectors are all zero; toolkits write that for a missing stream",
    # what the layout is
    "layout": "which published layout the folder has, and what was taken from where",
}
INFO = {
    "missing_value", "unlisted_media", "sound_in_video", "ignored_file", "unused_row", "mended_text",
    "placeholder_labels", "layout",
}  # fmt: skip


class Finding(NamedTuple):
    """One fault or remark; `row` counts the header as row 1, `quote` is a piece of the corpus itself."""

    code: str
    file: str
    row: int | None
    clip_id: str | None
    text: str
    quote: str = ""


class Findings:
    """Collects what is worth telling about a corpus while its files are read.

    Nothing is printed or raised here: a reader of many files goes on, and the caller shows `lines()`.
    """

    def __init__(self) -> None:
        self._all: list[Finding] = []

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self):
        return iter(self._all)

    def add(
        self,
        code: str,
        file: Path | str,
        text: str,
        row: int | None = None,
        clip_id: str | None = None,
        quote: str = "",
    ) -> None:
        """Note one finding.

        Parameters
        ----------
        code : str
            One of `FINDINGS`.
        file : path
            The file or folder it is about; a path is shortened to its name.
        text : str
            One sentence for a reader.
        row : int, optional
            Row of the file, where the header is row 1.
        quote : str, optional
            Words of the corpus that show the finding, such as a line of a transcript. They are for the
            terminal only: neither `frame` nor, by default, `lines` gives them away.
        """
        name = escaped(file.name if isinstance(file, Path) else str(file))
        clip_id = escaped(clip_id) if isinstance(clip_id, str) else clip_id
        number = None if row is None else int(row)
        self._all.append(Finding(code, name, number, clip_id, _one_line(text), _one_line(quote)))

    def extend(self, others: Iterable[Finding]) -> None:
        """Take in what another reader has found."""
        self._all.extend(others)

    def frame(self) -> pd.DataFrame:
        """All findings in the order they were made: columns `code`, `file`, `row`, `clip_id`, `text`."""
        frame = pd.DataFrame([finding[:5] for finding in self._all], columns=list(COLUMNS))
        return frame.astype({name: "Int64" if name == "row" else "str" for name in COLUMNS})

    def counts(self) -> pd.DataFrame:
        """How often each code occurs: columns `code`, `severity`, `meaning`, `findings`."""
        counts = self.frame()["code"].value_counts()
        return pd.DataFrame(
            {
                "code": counts.index,
                "severity": [severity(code) for code in counts.index],
                "meaning": [FINDINGS.get(code, "") for code in counts.index],
                "findings": counts.to_numpy(),
            }
        )

    def lines(self, limit: int = 3, quotes: bool = False) -> list[str]:
        """The findings as readable lines, warnings first.

        Parameters
        ----------
        limit : int
            Lines for each code and file; what is beyond is told in one line with its number and rows.
        quotes : bool
            Whether words of the corpus may be shown: on a terminal, never on a page.
        """
        kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self._all:
            kinds[finding.code, finding.file].append(finding)
        ordered = sorted(kinds.values(), key=lambda kind: kind[0].code in INFO)
        return [line for kind in ordered for line in _told(kind, limit, quotes)]


def severity(code: str) -> str:
    """`info` for a remark, `warning` for what costs data or needs a look."""
    return "info" if code in INFO else "warning"


def _told(kind: list[Finding], limit: int, quotes: bool) -> list[str]:
    lines = [_line(finding, quotes) for finding in kind[:limit]]
    rest = kind[limit:]
    if not rest:
        return lines
    rows = [finding.row for finding in rest if finding.row is not None]
    where = f" (rows {min(rows):,} to {max(rows):,})" if len(rows) > 1 else f" (row {rows[0]:,})" if rows else ""
    return [*lines, f"{kind[0].file}: … and {len(rest):,} more like it{where}"]


def _line(finding: Finding, quotes: bool) -> str:
    row = "" if finding.row is None else f" row {finding.row:,}"
    quote = f" [{finding.quote[:QUOTE]}]" if quotes and finding.quote else ""
    return f"{finding.file}{row}: {finding.text}{quote}"


def _one_line(text: str) -> str:
    return " ".join(escaped(text).split())


def escaped(text: str) -> str:
    """Text that any file and terminal takes: half characters, as bad bytes of a file name give, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


# ---- names of clips: which can be one, and what becomes of rows that have another


def mark_bad_names(rows: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """Keep rows whose name cannot be a clip_id as failed ones, under a safe one."""
    numbers = [None if pd.isna(row) else int(row) for row in rows["row"]]  # a column with gaps is one of floats
    rows = rows.assign(clip_id=rows["name"], row=pd.Series(numbers, rows.index, object))
    rows = rows.assign(status=None, problem=None, detail=None)
    rows = rows.astype({name: object for name in ("clip_id", "status", "problem", "detail")})
    good = rows["name"].map(is_usable)
    for i in rows.index[~good.astype(bool)]:
        name, file, row = rows.at[i, "name"], rows.at[i, "file"], rows.at[i, "row"]
        odd = "a path separator" if set(str(name)) & set("/\\") else "characters that cannot be shown"
        why = f"the name {name!r} has {odd}" if isinstance(name, str) else "the name is empty"
        found.add("bad_id", file, f"{why}; the row is not used", row=row)
        rows.loc[i, ["clip_id", "status", "problem", "detail"]] = [
            safe_name(name, row),
            "failed",
            "bad_id",
            place(file, row, why),
        ]
    return rows


def is_usable(name: Any) -> bool:
    """Whether a name can be a clip_id."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\") and name.isprintable()


def safe_name(name: Any, row: int | None) -> str:
    """A clip_id for a row whose own name is none, or was used before."""
    plain = name if isinstance(name, str) else ""
    plain = "".join("_" if char in "/\\" or not char.isprintable() else char for char in plain).strip(". ")
    return f"{plain or 'unnamed'} (row {row})"


def place(file: Any, row: Any, why: str) -> str:
    """A sentence about a row with where the row stands."""
    return f"{file}{f' row {row:,}' if isinstance(row, int) else ''}: {why}"
