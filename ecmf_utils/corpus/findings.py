"""What was found to be wrong while a corpus was read, and which names can be the clip_id of a clip.

A reader notes one finding for each fault. The user sees one line for each, and a sum where there are many of a kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

QUOTE = 60  # characters of a quote that are shown
COLUMNS = ("code", "file", "row", "clip_id", "text")
# every code of a finding, with the sentence that the user reads
FINDINGS = {
    # tables
    "encoding": "the file is not UTF-8, so it was read in the encoding that is named",
    "bad_encoding": "a few bytes of a UTF-8 file are damaged and are shown as a replacement character",
    "missing_value": "the cell is empty or says nan, None or NULL, so the value counts as missing",
    "bad_number": "the value is not a number, so it counts as missing",
    "empty_table": "the table has a header but no rows",
    "stray_quote": "a quotation mark is not closed or is out of place, so the line was read on its own",
    "ragged_row": "the row has more or fewer cells than the header, so only the cells it has are used",
    "duplicate_id": "the name occurred in an earlier row, and only the first row is used",
    "bad_id": "the name is empty or contains a path separator, so the row is not used",
    "case_clash": "some names differ only in upper and lower case, and all of them are kept",
    "mended_text": "the published file has characters of a known wrong encoding, which were corrected",
    "missing_table": "a table of the published layout is not there",
    # tables and media together
    "missing_file": "the table names a clip that has no media file, and the row is kept as failed",
    "missing_video": "the clip has sound but no video, so only the sound is used",
    "unlisted_media": "some media are named in no table",
    "duplicate_media": "two files have the same name or lead to the same clip_id, and the line says which one is used",
    "outside_source": "a link leads out of the source folder, so it is not followed",
    "sound_in_video": "there is no sound file of that name, so the sound stream of the video is used",
    "bad_name": "the file name does not have the published form, so the clip has no label",
    "ignored_file": "files of another kind or modality are there, and they are not used as clips",
    "no_transcript": "the transcript table is not there, or it does not include the clip",
    "unused_row": "the transcript table has rows of clips that are not there",
    # labels and splits
    "unknown_label": "the label is not in the profile's label set, so the clip counts as unlabelled",
    "unknown_split": "the split is not train, test or unlabelled, so a default was used",
    "bad_label": "the entry of the label file does not have the published form, so the clip is unlabelled",
    "placeholder_labels": "the labels of the test clips are placeholders, so they count as missing",
    "split_overlap": "a clip is named in two splits, and the line says which one counts",
    # published features
    "no_features": "the published features do not include the clip, so this branch is missing for it",
    "unlisted_features": "there are published features of clips that the manifest does not include",
    "empty_file": "the file has no bytes",
    "not_npy": "the file is not an .npy file",
    "pickled": "the .npy file contains pickled Python objects, which could run code, so it was not opened",
    "truncated": "the file was cut off before its end",
    "unreadable": "the file is damaged, and nothing in it could be read",
    "wrong_dim": "the vector has another length than most",
    "wrong_dtype": "the values are not of the type that most have",
    "not_finite": "some numbers are NaN or infinite",
    "zero_vectors": "the published vectors are all zero, which is how toolkits write a missing stream",
    # the layout
    "layout": "the line says which published layout the folder has, and where each part was read from",
}
# remarks; every other finding is a warning
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
    """Collects faults and remarks while the files of a corpus are read.

    It neither prints nor raises, so that a reader of many files can continue. The caller shows `lines()`.
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
            The file or folder that it is about; a path is shortened to its name.
        text : str
            One sentence for the user.
        row : int, optional
            Row of the file, where the header is row 1.
        quote : str, optional
            Words of the corpus that show the finding, such as a line of a transcript. Only a terminal shows
            them: they are not in `frame`, and in `lines` only on request.
        """
        name = escaped(file.name if isinstance(file, Path) else str(file))
        clip_id = escaped(clip_id) if isinstance(clip_id, str) else clip_id
        number = None if row is None else int(row)
        self._all.append(Finding(code, name, number, clip_id, _to_one_line(text), _to_one_line(quote)))

    def extend(self, others: Iterable[Finding]) -> None:
        """Add the findings of another reader."""
        self._all.extend(others)

    def frame(self) -> pd.DataFrame:
        """All findings in the order in which they were added: columns `code`, `file`, `row`, `clip_id`, `text`."""
        frame = pd.DataFrame([finding[:5] for finding in self._all], columns=list(COLUMNS))
        return frame.astype({name: "Int64" if name == "row" else "str" for name in COLUMNS})

    def lines(self, limit: int = 3, quotes: bool = False) -> list[str]:
        """The findings as lines for the user, warnings first.

        Parameters
        ----------
        limit : int
            Lines for each code and file; one more line gives the number and rows of the rest.
        quotes : bool
            Whether words of the corpus may be shown: yes on a terminal, no on a page.
        """
        kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self._all:
            kinds[finding.code, finding.file].append(finding)
        ordered = sorted(kinds.values(), key=lambda kind: kind[0].code in INFO)
        return [line for kind in ordered for line in _list_first(kind, limit, quotes)]


def rate_severity(code: str) -> str:
    """`info` for a remark, `warning` for what costs data or should be looked at."""
    return "info" if code in INFO else "warning"


def _list_first(kind: list[Finding], limit: int, quotes: bool) -> list[str]:
    """Lines of the first findings of a kind, and one line for the rest."""
    lines = [_format(finding, quotes) for finding in kind[:limit]]
    rest = kind[limit:]
    if not rest:
        return lines
    rows = [finding.row for finding in rest if finding.row is not None]
    where = f" (rows {min(rows):,} to {max(rows):,})" if len(rows) > 1 else f" (row {rows[0]:,})" if rows else ""
    return [*lines, f"{kind[0].file}: … and {len(rest):,} more like it{where}"]


def _format(finding: Finding, quotes: bool) -> str:
    row = "" if finding.row is None else f" row {finding.row:,}"
    quote = f" [{finding.quote[:QUOTE]}]" if quotes and finding.quote else ""
    return f"{finding.file}{row}: {finding.text}{quote}"


def _to_one_line(text: str) -> str:
    return " ".join(escaped(text).split())


def escaped(text: str) -> str:
    """Text that every file and terminal accepts: bytes of a file name that are not UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


# ---- names of clips


def mark_bad_names(rows: pd.DataFrame, findings: Findings) -> pd.DataFrame:
    """Keep a row whose name cannot be a clip_id, but as a failed one and under a safe name.

    Parameters
    ----------
    rows : DataFrame
        Columns `name`, `file`, `row`.
    findings : Findings
        A bad name is noted here.

    Returns
    -------
    DataFrame
        The rows with `clip_id`, `status`, `problem` and `detail`.
    """
    numbers = [None if pd.isna(row) else int(row) for row in rows["row"]]  # pandas makes a column with gaps float
    rows = rows.assign(clip_id=rows["name"], row=pd.Series(numbers, rows.index, object))
    rows = rows.assign(status=None, problem=None, detail=None)
    rows = rows.astype({name: object for name in ("clip_id", "status", "problem", "detail")})
    usable = rows["name"].map(_is_usable_name)
    for i in rows.index[~usable.astype(bool)]:
        name, file, row = rows.at[i, "name"], rows.at[i, "file"], rows.at[i, "row"]
        odd = "a path separator" if set(str(name)) & set("/\\") else "characters that cannot be shown"
        why = f"the name {name!r} has {odd}" if isinstance(name, str) else "the name is empty"
        findings.add("bad_id", file, f"{why}; the row is not used", row=row)
        fate = [safe_name(name, row), "failed", "bad_id", place(file, row, why)]
        rows.loc[i, ["clip_id", "status", "problem", "detail"]] = fate
    return rows


def _is_usable_name(name: Any) -> bool:
    """Whether a name can be a clip_id."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\") and name.isprintable()


def safe_name(name: Any, row: int | None) -> str:
    """A clip_id for a row whose own name cannot be one, or was used before."""
    plain = name if isinstance(name, str) else ""
    plain = "".join("_" if char in "/\\" or not char.isprintable() else char for char in plain).strip(". ")
    return f"{plain or 'unnamed'} (row {row})"


def place(file: Any, row: Any, why: str) -> str:
    """A sentence about a row, after the file and the number of the row."""
    return f"{file}{f' row {row:,}' if isinstance(row, int) else ''}: {why}"
