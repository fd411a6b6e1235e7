"""Where clips come from: a folder as it is, or a CSV manifest; what is wrong stays, marked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ecmf_utils.corpus.findings import Findings, escaped, mark_bad_names, place, safe_name
from ecmf_utils.corpus.manifest import SPLITS
from ecmf_utils.files import ROOT, EcmfError, given_path, show

from .media_files import (
    ALLOW,
    EXTENSIONS,
    Medium,
    attach,
    by_name,
    finish,
    is_sound,
    leads_out,
    list_media,
    nowhere,
    root_of,
    stem,
)
from .tables import check_encoding, read_table, require

MANIFEST_COLUMNS = ("clip_id", "video", "audio", "text", "text_en", "language", "label", "split", "group", "speaker")


# ---- a folder


def scan_folder(
    source: str | Path, found: Findings | None = None, *, encoding: str = "", follow_links: bool = False
) -> pd.DataFrame:
    """One manifest row for each media file below a folder; labels are not needed.

    A transcript is taken from `<name>.txt` beside the clip. The first folder level is the group.

    Parameters
    ----------
    source : path
        Any directory of clips.
    found : Findings, optional
        Gets what is odd.
    encoding : str
        Of the transcripts; UTF-8 when empty.
    follow_links : bool
        Whether links may leave the folder; a clip behind such a link is a failed row otherwise.

    Raises
    ------
    EcmfError
        The folder does not exist, or no media file is in it.
    """
    found = Findings() if found is None else found
    check_encoding(encoding or "utf-8")
    source = given_path(source)
    root = root_of(source if source.is_absolute() else ROOT / source)
    media = list_media(root, root, found, follow_links)
    if not media:
        raise EcmfError(f"{show(root)}: no media file in it; expected one of {' '.join(EXTENSIONS)}")
    media = _without_sound_beside(media, found, root.name)
    ids = _clip_ids([os.path.relpath(medium.path, root) for medium in media], found, root.name)
    rows = pd.DataFrame({"name": ids, "file": root.name, "row": None, "split": "unlabelled"}, dtype=object)
    first = [os.path.relpath(medium.path, root).split(os.sep) for medium in media]
    rows["group"] = [parts[0] if len(parts) > 1 else name for parts, name in zip(first, ids, strict=True)]
    rows = attach(rows, dict(zip(ids, media, strict=True)), {}, found)
    words = sidecars([medium.path for medium in media], encoding, found, root, follow_links)
    rows["text"] = [text for text, _ in words]
    rows["problem"] = rows["problem"].where(rows["problem"].notna(), pd.Series([p for _, p in words], dtype=object))
    if n := sum(problem is not None for _, problem in words):
        found.add("bad_encoding", root.name, f"{n:,} transcripts are not UTF-8 and are left out; say encoding=NAME")
    return finish(rows, found, root.name)


def _without_sound_beside(media: list[Medium], found: Findings, where: str) -> list[Medium]:
    """Media without the sound files that lie beside a video of the same name."""
    videos = {os.path.splitext(medium.path)[0] for medium in media if not is_sound(medium.path)}
    beside = {medium for medium in media if is_sound(medium.path) and os.path.splitext(medium.path)[0] in videos}
    if beside:
        text = f"{len(beside):,} sound files beside a video of the same name, whose own sound counts"
        found.add("ignored_file", where, text)
    return [medium for medium in media if medium not in beside]


def _clip_ids(relative: list[str], found: Findings, where: str) -> pd.Series:
    """A name for each file: its path without ending, with it where two differ in nothing else, or numbered."""
    names = [_clip_id(path) for path in relative]
    plain = pd.Series([os.path.splitext(name)[0] for name in names], dtype=object)
    whole = pd.Series(names, dtype=object)
    wanted = plain.where(~plain.duplicated(keep=False) | whole.duplicated(keep=False), whole)
    ids, used = [], set(wanted)
    for path, name, again in zip(relative, wanted, wanted.duplicated(), strict=True):
        if again:
            fresh = next(new for i in count(2) if (new := f"{name} ({i})") not in used)
            text = f"{path!r} would be named {name!r} as another file is; it is kept as {fresh!r}"
            found.add("duplicate_media", where, text, clip_id=fresh)
            name = fresh
        used.add(name)
        ids.append(name)
    return pd.Series(ids, dtype=object)


def _clip_id(relative: str) -> str:
    name = "__".join(relative.split(os.sep)).replace("\\", "_")
    return "".join(char if char.isprintable() else "_" for char in name)


# ---- a manifest


def read_manifest(
    path: str | Path,
    source: str | Path = "",
    *,
    found: Findings | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "",
    media: bool = True,
    follow_links: bool = False,
) -> pd.DataFrame:
    """A user's CSV manifest; a bad row is kept, marked with its problem, and the others go on.

    Parameters
    ----------
    path : path
        CSV with `clip_id` or `video`, and as far as known `audio`, `text`, `text_en`, `language`, `label`,
        `split`, `group`, `speaker`. Where only `audio` names files, clips have sound and no video. Without
        either the media files of `source` are found by their names, and those that no row names are added
        as unlabelled clips.
    source : path
        Folder that relative media paths start from; the manifest's own folder when empty.
    found : Findings, optional
        Gets what is odd, row by row; without it only UTF-8 is read.
    columns : mapping, optional
        Our name -> the file's name, for example `{"clip_id": "file", "label": "emotion"}`.
    encoding : str
        Of the file; detected and told when empty.
    media : bool
        False where there are published features and no clips.
    follow_links : bool
        Whether links may leave the source folder; a clip behind such a link is a failed row otherwise.

    Returns
    -------
    DataFrame
        `media_files.COLUMNS`; labels are as the file writes them.

    Raises
    ------
    EcmfError
        The file is missing, not decodable, empty, or has neither `clip_id` nor a file's path.
    """
    path = given_path(path)
    base = root_of(source) if str(source) else path.parent
    table = read_table(path, found, columns=columns, encoding=encoding, what="manifest")
    if not len(table):
        raise EcmfError(f"{show(path)}: there is no row below the header; give one row for each clip")
    found = Findings() if found is None else found
    named = [name for name in ("video", "audio") if name in table]
    if "clip_id" not in table and not named:
        require(table, ("clip_id", "video"), path)
    by_path = media and bool(named)
    rows = _manifest_rows(table, path.name)
    first = ~(rows["name"].notna() & rows["name"].duplicated())
    if not media:
        good = mark_bad_names(rows[first], found)
    elif by_path:
        good = attach(rows[first], *_named(rows[first], base, follow_links), found, rows[named[0]])
        good = _note_sound(good, rows["audio"], base, found)
    else:
        good = _found_by_name(rows[first], base, found, follow_links)
    rows = pd.concat([good, _again(rows[~first], rows, path.name, found)]).sort_index(kind="stable")
    return finish(_with_split(rows, found), found, path.name)


def _manifest_rows(table: pd.DataFrame, file: str) -> pd.DataFrame:
    """All columns of a manifest, as text or None, with where each row stands."""
    rows = table.reindex(columns=list(MANIFEST_COLUMNS)).astype(object)
    if "clip_id" not in table:
        media = rows["video" if "video" in table else "audio"]
        rows["clip_id"] = [path and _clip_id(os.path.splitext(path)[0]) for path in media]
    rows = rows.where(rows.notna(), None).assign(file=file, row=list(table.index))
    return rows.rename(columns={"clip_id": "name"}).reset_index(drop=True)


def _again(again: pd.DataFrame, rows: pd.DataFrame, file: str, found: Findings) -> pd.DataFrame:
    """Rows whose name was used before: kept as failed ones, told with both rows."""
    made = []
    first = rows.dropna(subset=["name"]).drop_duplicates("name").set_index("name")
    for i, row in zip(again.index, again.to_dict("records"), strict=True):
        before = first.loc[row["name"]]
        why = f"{row['name']!r} occurred in row {before['row']:,} already; this row is not used"
        if before["label"] != row["label"]:
            why += f", and the labels differ ({before['label']}, here {row['label']})"
        found.add("duplicate_id", file, why, row=row["row"], clip_id=row["name"])
        fate = {"clip_id": safe_name(row["name"], row["row"]), "status": "failed", "problem": "duplicate_id"}
        made.append(row | fate | {"video": None, "audio": None, "detail": f"{file} row {row['row']:,}: {why}", "i": i})
    return pd.DataFrame(made).set_index("i") if made else again


def _with_split(rows: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """A known split for each row: what it says, else train where there is a label."""
    rows = rows.assign(split=rows["split"].map(lambda name: name.strip().lower() if isinstance(name, str) else name))
    known, names = rows["split"].isin(SPLITS), ", ".join(map(repr, rows["split"].dropna().unique()[:5]))
    if names and not known.any():
        raise EcmfError(f"{rows['file'].iloc[0]}: column split holds {names}: expected {', '.join(SPLITS)}")
    default = rows["label"].notna().map({True: "train", False: "unlabelled"})
    for i in rows.index[~known & rows["split"].notna()]:
        text = f"split {rows.at[i, 'split']!r}, expected one of {', '.join(SPLITS)}; taken as {default[i]}"
        found.add("unknown_split", rows.at[i, "file"], text, row=rows.at[i, "row"], clip_id=rows.at[i, "clip_id"])
        rows.at[i, "problem"] = ";".join(filter(None, [rows.at[i, "problem"], "unknown_split"]))
    split = rows["split"].where(known, default)
    split = split.where((split != "train") | rows["label"].notna(), "unlabelled")  # nothing to learn from
    return rows.assign(split=split, group=rows["group"].where(rows["group"].notna(), rows["speaker"]))


def _named(rows: pd.DataFrame, base: Path, follow_links: bool) -> tuple[dict[str, Medium], dict[str, Medium]]:
    """The files that rows name, by clip; each folder is listed once."""
    root, folders, made = str(base.resolve()), {}, []
    for column in ("video", "audio"):
        named = rows[["name", column]].dropna().itertuples(index=False, name=None)
        media = {name: _on_disk(os.path.join(root, path), root, follow_links, folders) for name, path in named}
        made.append({name: medium for name, medium in media.items() if medium})
    return made[0], made[1]


def _on_disk(path: str, root: str, follow_links: bool, folders: dict[str, _Folder]) -> Medium | None:
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = _listed(os.path.normpath(folder), root)
    place, within, linked, links = folders[folder]
    if name not in links:
        return None
    path = os.path.join(place, name)
    if links[name] and not os.path.exists(path):
        return Medium(path, dangling=True)
    asks = within and not follow_links and (linked or links[name])
    return Medium(path, leads_out(path, Path(root)) if asks else "")


def _note_sound(rows: pd.DataFrame, wanted: pd.Series, base: Path, found: Findings) -> pd.DataFrame:
    """Tell of each sound file that a row names and that is not there; the sound of the video is used."""
    lost = rows["status"].isna() & rows["video"].notna() & rows["audio"].isna() & rows["problem"].isna()
    for i in rows.index[lost & wanted.reindex(rows.index).notna()]:
        fate = "is a folder" if (base / wanted[i]).is_dir() else "is not there"
        why = f"{wanted[i]} {fate}; the sound of the video is used"
        found.add("missing_file", rows.at[i, "file"], why, row=rows.at[i, "row"], clip_id=rows.at[i, "clip_id"])
        rows.at[i, "problem"] = "missing_file"
        rows.at[i, "detail"] = place(rows.at[i, "file"], rows.at[i, "row"], why)
    return rows


class _Folder(NamedTuple):
    """A folder listed once: where, whether it is in the source, by a link, and which of its files are links."""

    place: str
    within: bool
    linked: bool
    links: dict[str, bool]


def _is_file(entry: os.DirEntry) -> bool:
    return not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir())


def _listed(folder: str, root: str) -> _Folder:
    within = folder == root or folder.startswith(os.path.join(root, ""))  # what is named as outside is meant
    try:
        with os.scandir(folder) as entries:
            links = {entry.name: entry.is_symlink() for entry in entries if _is_file(entry)}
    except OSError:
        links = {}
    return _Folder(folder, within, within and os.path.realpath(folder) != folder, links)


def _found_by_name(rows: pd.DataFrame, base: Path, found: Findings, follow_links: bool) -> pd.DataFrame:
    """Rows with the media of the source that have their names, and those that no row names."""
    root = base.resolve()
    media = list_media(root, root, found, follow_links)
    whole = {os.path.basename(medium.path): medium for medium in media}
    sound = {medium for medium in media if is_sound(medium.path)}
    videos = by_name([medium for medium in media if medium not in sound], found, root.name)
    audios = by_name(sorted(sound), found, root.name)
    exact = {name: whole[name] for name in rows["name"].dropna() if name in whole}
    rest = sorted((videos.keys() | audios.keys()) - set(rows["name"]) - {stem(m.path) for m in exact.values()})
    if rest:
        found.add("unlisted_media", root.name, f"{len(rest):,} clips that no row names; they count as unlabelled")
    facts: dict[str, Any] = {"file": root.name, "split": "unlabelled"}
    rows = pd.concat([rows, pd.DataFrame({"name": rest, **facts}, dtype=object)], ignore_index=False)
    rows.index = [*rows.index[: len(rows) - len(rest)], *range(10**9, 10**9 + len(rest))]
    return attach(rows.where(rows.notna(), None), {**videos, **exact}, audios, found)


# ---- transcripts in text files beside their clips


def sidecar_text(video: Path) -> str | None:
    """The transcript in `<name>.txt` beside a clip, None where there is none or it is not UTF-8."""
    return _sidecar(video.with_suffix(".txt"), "")[0] if video.with_suffix(".txt").is_file() else None


def sidecars(
    videos: list[str], encoding: str, found: Findings, root: Path, follow_links: bool
) -> list[tuple[str | None, str | None]]:
    """Transcript and problem of each clip; each folder is listed once."""
    names = {folder: set(os.listdir(folder)) for folder in {os.path.dirname(video) for video in videos}}
    made = []
    for video in videos:
        path = Path(os.path.splitext(video)[0] + ".txt")
        there = path.name in names[os.path.dirname(video)]
        if there and (fault := _sidecar_fault(path, root, follow_links)):
            found.add(*fault)
            there = False
        made.append(_sidecar(path, encoding) if there else (None, None))
    return made


def _sidecar_fault(path: Path, root: Path, follow_links: bool) -> tuple[str, str, str] | None:
    """The finding about a transcript that may not or cannot be read."""
    if path.is_symlink() and not path.exists():
        return "no_transcript", root.name, nowhere(str(path))
    if path.is_symlink() and not follow_links and (target := leads_out(path, root)):
        return "outside_source", root.name, f"{path.name} leads out of the source folder, to {target}; {ALLOW}"
    if not path.is_file() or not os.access(path, os.R_OK):
        return "no_transcript", root.name, f"{path.name} is no file that can be read; its clip has no transcript"
    return None


def _sidecar(path: Path, encoding: str) -> tuple[str | None, str | None]:
    try:
        text = path.read_text(encoding=encoding or "utf-8-sig")
        return escaped(text).removeprefix("\ufeff").strip() or None, None
    except UnicodeError:
        return None, "bad_encoding"
