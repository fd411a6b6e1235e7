"""Names of clips: which can be one, and what becomes of rows that have another."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .findings import Findings


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
