"""Published features: what a set of them holds, and what makes the vectors of a clip unusable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ecmf_utils.corpus.findings import QUOTE, Findings
from ecmf_utils.files import EcmfError, show

UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
LONGEST_NAME = 240  # bytes; file systems allow 255


class Fault(NamedTuple):
    """Why a clip has no vectors: a problem code and a line that names the file."""

    code: str
    detail: str


Found = np.ndarray | Fault


@dataclass(frozen=True)
class Published:
    """A set of published features.

    Attributes
    ----------
    file, name : str
        Of the folder; of a file with and without its ending.
    level : str
        utterance or frame.
    dtype : str
        float16, float32 or float64: what most clips have.
    dim : int
        D: what most clips have.
    stamps : dict of clip to str
        Changes when the file changes; clips without features are not in it.
    read : callable
        Some of these clips to their vectors (T, D), T = 1 at utterance level, or to a `Fault`; in any order.
    """

    file: str
    name: str
    level: str
    dtype: str
    dim: int
    stamps: dict[str, str]
    read: Callable[[list[str]], Iterator[tuple[str, Found]]]


def majority(kinds: Iterable[tuple[str, int]], where: Path, first: Fault | None = None) -> tuple[str, int]:
    """The most frequent (dtype, D); the first of them where several are.

    Raises
    ------
    EcmfError
        There is none; the line tells the `first` fault.
    """
    counts = Counter(kinds)
    if not counts:
        refuse_set(where, first)
    return counts.most_common(1)[0][0]


def refuse_set(where: Path, first: Fault | None) -> NoReturn:
    """Raise the error of a set without one vector that can be used; the line tells the first fault."""
    why = f"; the first: {first.detail}" if first else ""
    raise EcmfError(f"{show(where)}: none of its features can be used{why}")


def float_of(dtype: np.dtype) -> str:
    """Numbers stay what they are; whole numbers get the smallest float type that holds them all."""
    return np.result_type(dtype, np.float16).name if dtype.kind in "iub" else dtype.name


def checked(values: np.ndarray, file: str, dtype: str, dim: int) -> Found:
    """The vectors (T, D) as they came, or what is wrong with them."""
    if values.dtype.kind in "iu" and values.size and np.abs(values.astype(float)).max() > 2**53:
        return Fault("wrong_dtype", f"{file}: whole numbers that no float type holds exactly")
    if float_of(values.dtype) != dtype:
        return Fault("wrong_dtype", f"{file}: {values.dtype.name}, most of the files are {dtype}")
    if values.shape[-1] != dim:
        return Fault("wrong_dim", f"{file}: {values.shape[-1]} numbers, most of the files have {dim}")
    values = values.reshape(-1, dim).astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        if np.isfinite(values.astype(np.float32, copy=False)).all():
            return values
    huge = np.isfinite(values).all()
    return Fault("not_finite", f"{file}: numbers beyond the range of float32" if huge else f"{file}: NaN or infinite")


def shorten(name: str) -> str:
    """As much of a foreign name as a line shows."""
    return name if len(name) <= QUOTE else f"{name[: QUOTE - 1]}…"


def match(names: Iterable[str], clip_ids: set[str], where: Path, findings: Findings) -> list[str]:
    """The names that are clips; the others are findings, and none at all is an error."""
    names = list(names)
    matched = [name for name in names if name in clip_ids]
    if not matched:
        there = f"the first name is {shorten(min(names))!r}" if names else "it is empty"
        wanted = f"the first clip is {min(clip_ids)!r}" if clip_ids else "the corpus has no clips"
        raise EcmfError(f"{show(where)}: no name in it is a clip of this corpus: {there}, {wanted}")
    folded = {clip_id.casefold(): clip_id for clip_id in clip_ids}
    for name in names:
        if name not in clip_ids:
            other = folded.get(name.casefold())
            hint = f"; clip {other!r} differs only in upper and lower case" if other else ""
            text = f"features of {shorten(name)!r}, which is not a clip of this corpus{hint}"
            findings.add("unlisted_features", where, text)
    return matched


def find_first_rows(ids: Iterable[tuple[Any, int]], path: Path, findings: Findings, first_line: int) -> dict[str, int]:
    """Name to its row; a name that comes again and a row without one are findings.

    first_line : what a person calls row 0.
    """
    rows: dict[str, int] = {}
    for cell, row in ids:
        name = "" if cell is None else str(cell).strip()
        if not name:
            findings.add("bad_id", path, "no name; the row is not used", row=row + first_line)
        elif name in rows:
            text = f"{shorten(name)!r} occurred in row {rows[name] + first_line:,} already; the first row counts"
            findings.add("duplicate_id", path, text, row=row + first_line, clip_id=name)
        else:
            rows[name] = row
    return rows


def check_names(names: list[str], where: str) -> None:
    """Refuse names that are no file names on every system."""
    for name in names:
        if UNSAFE.search(name) or len(name.encode()) > LONGEST_NAME:
            raise EcmfError(f"{where}: clip_id {name!r} is not safe as a file name; rename the clip")
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise EcmfError(
                f"{where}: clip_ids {other!r} and {name!r} differ only in upper and lower case; on some "
                "systems one file would replace the other; rename one of them"
            )
