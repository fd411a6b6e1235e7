"""Media files of a source folder, listed once, and what becomes of the rows that name them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ecmf_utils.corpus.findings import Findings, escaped, mark_bad_names, place
from ecmf_utils.files import EcmfError, given_path, show

EXTENSIONS = (
    ".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".wav", ".flac", ".mp3",
)  # fmt: skip
SOUND_ONLY = (".wav", ".flac", ".mp3")
SILENT = (".txt", ".csv", ".npz", ".md", ".pdf")  # belong to a corpus and need no remark
# what every adapter gives, then what its corpus has besides
COLUMNS = (
    "clip_id", "video", "audio", "text", "text_en", "language", "label", "split", "group", "speaker",
    "status", "problem", "detail", "file", "row",
)  # fmt: skip
ALLOW = "follow_links=true allows it"


class Medium(NamedTuple):
    """A file, where it leads when it is a link out of the source folder, and whether it leads anywhere."""

    path: str
    outside: str = ""
    dangling: bool = False


# ---- places


def root_of(source: Path | str) -> Path:
    """The source folder with its own links resolved.

    Raises
    ------
    EcmfError
        It is not a folder.
    """
    source = given_path(source)
    if not source.is_dir():
        raise EcmfError(f"{escaped(str(source))}: not a folder; give the folder of the corpus with --set source=DIR")
    if escaped(str(source.resolve())) != str(source.resolve()):
        raise EcmfError(f"{escaped(str(source.resolve()))}: the name of the folder is not UTF-8; rename it")
    return source.resolve()


def inside(root: Path, names: Iterable[str], follow_links: bool) -> Path | None:
    """The first of some files or folders that is there.

    Raises
    ------
    EcmfError
        It is a link that leaves the source folder, and `follow_links` is off.
    """
    for name in names:
        path = root / name
        if path.exists():
            if not follow_links and (target := leads_out(path, root)):
                raise EcmfError(f"{show(path)}: leads out of the source folder, to {target}; {ALLOW}")
            return path
    return None


def foreign(root: Path, corpus: str, expected: str) -> EcmfError:
    """The error for a folder that has another layout."""
    there = sorted(map(escaped, os.listdir(root)))
    some = f"{', '.join(there[:8])}{f' and {len(there) - 8:,} more' if len(there) > 8 else ''}" or "nothing"
    return EcmfError(f"{show(root)}: not the layout of {corpus}: expected {expected}; found {some}")


def leads_out(path: Path | str, root: Path) -> str:
    """Where a path leads, if that is outside the root; empty otherwise."""
    target = os.path.realpath(path)
    return "" if target == str(root) or target.startswith(os.path.join(root, "")) else escaped(target)


# ---- media


def list_media(folder: Path, root: Path, found: Findings, follow_links: bool = False) -> list[Medium]:
    """Every media file below a folder, by one listing of each directory, in the order of their paths.

    Parameters
    ----------
    folder, root : Path
        What to list, and the source folder that links may not leave.
    follow_links : bool
        Whether links out of the source folder count as files of it. When off, a file behind one is
        listed as such and a folder behind one is told and left alone.
    """
    others: Counter[str] = Counter()
    media = sorted(_walk(str(folder), root, found, follow_links, others))
    told = [f"{n:,} {ending}" for ending, n in sorted(others.items()) if ending not in SILENT]
    if told:
        found.add("ignored_file", folder.name, f"files that are no clips: {', '.join(told)}")
    return media


def _walk(folder: str, root: Path, found: Findings, follow_links: bool, others: Counter[str]) -> Iterator[Medium]:
    waiting, seen = [folder], {os.path.realpath(folder)}
    while waiting:
        for entry in _entries(waiting.pop()):
            ending = os.path.splitext(entry.name)[1].lower()
            dangling = entry.is_symlink() and not os.path.exists(entry.path)
            outside = _outside(entry, root) if not follow_links and not dangling else ""
            if entry.name.startswith("."):  # macOS leaves ._name beside name
                others["hidden"] += ending in EXTENSIONS
            elif escaped(entry.name) != entry.name:
                found.add("bad_id", Path(folder).name, f"the name {escaped(entry.name)!r} is not UTF-8; it is not used")
            elif dangling and ending not in (*EXTENSIONS, *SILENT):
                found.add("missing_file", Path(folder).name, nowhere(entry.path))
            elif not dangling and entry.is_dir():
                if _is_new(entry, outside, seen, found, Path(folder).name):
                    waiting.append(entry.path)
            elif ending in EXTENSIONS:
                yield Medium(entry.path, outside, dangling)
            else:
                others[ending or "without ending"] += 1


def _outside(entry: os.DirEntry, root: Path) -> str:
    return leads_out(entry.path, root) if entry.is_symlink() else ""


def _is_new(entry: os.DirEntry, outside: str, seen: set[str], found: Findings, where: str) -> bool:
    """Whether a folder is to be listed: links may lead out, go round in circles or to what was listed."""
    place = os.path.realpath(entry.path)
    above = os.path.join(os.path.realpath(os.path.dirname(entry.path)), "")
    if outside:
        text = f"{entry.name} leads out of the source folder, to {outside}; {ALLOW}"
        found.add("outside_source", where, text)
    elif entry.is_symlink() and above.startswith(os.path.join(place, "")):
        found.add("ignored_file", where, f"{entry.name} is a link to a folder that it lies in; it is not followed")
    elif place not in seen:
        seen.add(place)
        return True
    return False


def _entries(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise EcmfError(f"{show(folder)}: cannot be listed ({error.strerror}); make it readable") from None


def stem(path: str) -> str:
    """The name of a file without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def by_name(
    media: Iterable[Medium], found: Findings, where: str, name: Callable[[str], str] = stem
) -> dict[str, Medium]:
    """Media under the name that tables use; of two files with one name the first counts, and video before sound."""
    named: dict[str, Medium] = {}
    for medium in sorted(media, key=lambda medium: is_sound(medium.path)):
        first = named.setdefault(name(medium.path), medium)
        if first is not medium:
            text = f"{_below(medium.path)} has the name of {_below(first.path)}, which counts"
            code = "ignored_file" if is_sound(medium.path) and not is_sound(first.path) else "duplicate_media"
            found.add(code, where, text, clip_id=name(medium.path))
    return named


def is_sound(path: str) -> bool:
    """Whether a file is one of sound by its ending."""
    return path.lower().endswith(SOUND_ONLY)


def nowhere(path: str) -> str:
    """A sentence about a link without a target."""
    return f"{os.path.basename(path)} is a link that leads nowhere, to {escaped(os.readlink(path))}"


def _below(path: str) -> str:
    """The end of a path, enough to find the file."""
    return os.path.join(*path.split(os.sep)[-2:])


# ---- rows


def attach(
    rows: pd.DataFrame,
    videos: Mapping[str, Medium],
    audios: Mapping[str, Medium],
    found: Findings,
    wanted: pd.Series | None = None,
) -> pd.DataFrame:
    """Give each row its files; a row without any is kept as failed.

    Parameters
    ----------
    rows : DataFrame
        `name` (the key of the media), `file` and `row` (where the name stands; None for media that
        no table names).
    wanted : Series, optional
        The path that each row asks for, where it is not the name that decides.
    """
    rows = mark_bad_names(rows, found)
    made = [
        _files(name, videos, audios) if status is None else (None,) * 5
        for name, status in zip(rows["name"], rows["status"], strict=True)
    ]
    new = pd.DataFrame(made, columns=["video", "audio", "failed", "fault", "why"], index=rows.index, dtype=object)
    faulty = new["fault"].notna()
    lower = {key.lower(): key for key in (*videos, *audios)} if faulty.any() else {}
    for i in rows.index[faulty]:
        name, code, why = rows.at[i, "name"], new.at[i, "fault"], new.at[i, "why"]
        if why is None and wanted is not None:
            why = f"{wanted[i]} is not there" if wanted[i] else f"no {wanted.name} is named"
        elif why is None:
            why = f"there is no media file of the name {name!r}"
            if name.lower() in lower:
                why += f"; there is {lower[name.lower()]!r}, in other upper and lower case"
        found.add(code, rows.at[i, "file"], why, row=rows.at[i, "row"], clip_id=name)
        rows.at[i, "detail"] = place(rows.at[i, "file"], rows.at[i, "row"], why)
        rows.at[i, "problem"] = None if code == "missing_video" else code
    failed = new["failed"].notna()
    rows.loc[failed, "status"] = "failed"
    return rows.assign(video=new["video"], audio=new["audio"])


def _files(
    name: str, videos: Mapping[str, Medium], audios: Mapping[str, Medium]
) -> tuple[str | None, str | None, str | None, str | None, str | None]:
    """Video, sound, whether that fails the row, the code of what is wrong, and a sentence about it."""
    video, audio = videos.get(name), audios.get(name)
    for medium in (video, audio):
        if medium and (medium.outside or medium.dangling):
            code = "missing_file" if medium.dangling else "outside_source"
            why = f"{os.path.basename(medium.path)} leads out of the source folder, to {medium.outside}; {ALLOW}"
            why = nowhere(medium.path) if medium.dangling else why
            failed = "failed" if medium is video or video is None else None
            return None if failed else video.path, None, failed, code, why
    if video is None and audio is None:
        return None, None, "failed", "missing_file", None
    if video is None:
        return audio.path, audio.path, None, "missing_video", f"{name!r} has sound and no video; the sound is used"
    return video.path, audio and audio.path, None, None, None


def finish(rows: pd.DataFrame, found: Findings, where: str) -> pd.DataFrame:
    """All columns of the contract in their order; names that differ only in case are told."""
    for name in COLUMNS:
        if name not in rows:
            rows[name] = None
    rows["group"] = rows["group"].where(rows["group"].notna(), rows["clip_id"])
    rows["speaker"] = rows["speaker"].where(rows["speaker"].notna(), rows["group"])
    lower = rows["clip_id"].str.lower()
    for _, clash in rows[lower.duplicated(keep=False)].groupby(lower):
        names = ", ".join(map(repr, clash["clip_id"]))
        found.add("case_clash", where, f"{names} differ only in upper and lower case; both are kept")
    texts = [name for name in COLUMNS if name != "row"]
    rows[texts] = rows[texts].astype(object).where(rows[texts].notna(), None)
    extras = [name for name in rows if name not in (*COLUMNS, "name")]
    return rows[[*COLUMNS, *extras]].reset_index(drop=True)
