"""The MER corpora as they are published: raw folders, or the folder that the official toolkit makes.

Layouts follow the data sets' own pages and the preprocessing of the official baselines
(github.com/zeroQiaoba/MERTools). No speakers are published: every clip is a group of its own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ecmf_utils.corpus.findings import Findings, escaped

from .label_npz import load_npz, tabulate_labels
from .media_files import Medium, attach, by_name, finish, foreign, inside, list_media, root_of, stem
from .tables import read_table, unique_names


class Part(NamedTuple):
    """A part of a corpus: what it is called, and where its clips and labels are named."""

    name: str
    split: str  # of clips with a label, or in a table of the part
    bare: str  # of clips that only a folder or a placeholder label names
    tables: tuple[str, ...]  # of labels; all that are there count, the first one first
    key: str  # in the label npz of the official toolkit, for when there is no table
    folders: tuple[str, ...] = ()  # of its own, in the raw layout
    candidates: tuple[str, ...] = ()  # tables of clips to predict; what else is in them is no label


class Layout(NamedTuple):
    """What a corpus is made of; of several names the first that is there counts."""

    corpus: str
    parts: tuple[Part, ...]
    subtitles: dict[str, dict[str, str]]  # file -> our columns and theirs
    npz: str
    expected: str
    videos: tuple[str, ...] = ("video",)
    audios: tuple[str, ...] = ("audio",)


def read_layout(layout: Layout, source: Path, found: Findings, encoding: str, follow_links: bool) -> pd.DataFrame:
    """The manifest of a corpus that lies in a layout; see `mer.mer2025`."""
    root = root_of(source)
    places = [(part, inside(root, part.folders, follow_links)) for part in layout.parts]
    places = [(part, place) for part, place in (*places, (None, inside(root, layout.videos, follow_links))) if place]
    named = _named(layout, root, found, encoding, follow_links)
    if not places or not named:
        raise foreign(root, layout.corpus, layout.expected)
    media = [(part, list_media(place, root, found, follow_links)) for part, place in places]
    videos = by_name([medium for _, files in media for medium in files], found, layout.corpus)
    audios = _audios(layout, root, found, follow_links)
    files = dict.fromkeys(file for table in named for file in table["file"].iloc[:1])
    found.add("layout", root.name, f"{layout.corpus}, names and labels from {', '.join(files)}")
    rows = _once(pd.concat(named, ignore_index=True), found)
    rows = pd.concat([rows, *_unnamed(media, set(rows["name"]), root, found)], ignore_index=True)
    if n := len(audios.keys() - set(rows["name"])):
        found.add("unlisted_media", layout.audios[0], f"{n:,} sound files without a video or a row; they are not used")
    rows = attach(rows.astype(object).where(rows.notna(), None), videos, audios, found)
    _note_sound(rows, audios, layout, found)
    rows = _with_texts(rows, layout, root, found, encoding, follow_links)
    rows = rows.assign(language="zh").astype({"valence": float, "candidate": bool})
    return finish(rows, found, layout.corpus)


def _named(layout: Layout, root: Path, found: Findings, encoding: str, follow_links: bool) -> list[pd.DataFrame]:
    """The rows of every label table, or of the toolkit's label file where a part has no table."""
    tables = [_tables(part, root, follow_links) for part in layout.parts]
    archive = inside(root, [layout.npz], follow_links) if not all(tables) else None
    npz = load_npz(archive) if archive else {}
    rows = []
    for part, paths in zip(layout.parts, tables, strict=True):
        train = part.split == "train"
        if paths:
            rows += [_from_table(path, part, asked, found, encoding) for path, asked in paths]
        elif part.key in npz or (npz and train):
            rows.append(_from_npz(npz, part, found, layout.npz))
        elif train:
            return []  # nothing says what there is to learn
        elif part.tables and not npz:
            what = f"clips in {part.folders[0]}/ count as {part.bare}" if part.folders else "there are no test clips"
            found.add("missing_table", (part.candidates or part.tables)[0], f"it is not there; {what}")
    return rows


def _tables(part: Part, root: Path, follow_links: bool) -> list[tuple[Path, bool]]:
    """The tables of a part that are there, and whether they name clips to predict."""
    kinds = [(name, False) for name in part.tables] + [(name, True) for name in part.candidates]
    return [(path, asked) for name, asked in kinds if (path := _somewhere(root, name, follow_links))]


def _somewhere(root: Path, pattern: str, follow_links: bool) -> Path | None:
    """A file in the source or in a folder of it."""
    paths = [*sorted(root.glob(pattern)), *sorted(root.glob(f"*/{pattern}"))]
    return inside(root, [str(path.relative_to(root)) for path in paths], follow_links)


def _from_table(path: Path, part: Part, asked: bool, found: Findings, encoding: str) -> pd.DataFrame:
    table = read_table(path, found, ("name",) if asked else ("name", "discrete"), encoding=encoding)
    table = unique_names(table, "name", found, path.name, "" if asked else "discrete")
    label = None if asked else table["discrete"]
    valence = _numbers(table["valence"], path, found) if "valence" in table and not asked else math.nan
    rows = pd.DataFrame({"name": table["name"], "label": label, "valence": valence, "row": table.index})
    return _in_part(rows, part, path.name, asked)


def _numbers(values: pd.Series, path: Path, found: Findings) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    for row, value in values[values.notna() & numbers.isna()].items():
        found.add("bad_number", path, f"valence {value!r} is no number; it counts as missing", row=row)
    return numbers.astype(float)


def _from_npz(npz: dict, part: Part, found: Findings, file: str) -> pd.DataFrame:
    table = tabulate_labels(npz, part.key, found, file)
    table = _mended(table.reset_index(), part.key, found, file)
    kinds = table["label"].dropna().unique()
    placeholders = part.split != "train" and len(kinds) == 1
    if placeholders:
        text = f"{part.key}: all {len(table):,} labels are {kinds[0]!r}: placeholders, which count as missing"
        found.add("placeholder_labels", file, text)
        table["label"], part = None, part._replace(split=part.bare)
    return _in_part(table, part, file, placeholders and part.bare == "test")


def _mended(table: pd.DataFrame, key: str, found: Findings, file: str) -> pd.DataFrame:
    """Half characters, which a pickle may hold and no table can, spelled out."""
    for name in ("name", "label"):
        plain = table[name].map(lambda text: escaped(text) if isinstance(text, str) else text)
        odd = [old != new for old, new in zip(table[name], plain, strict=True) if isinstance(old, str)]
        if n := sum(odd):
            found.add("bad_label", file, f"{key}: {n:,} entries with a {name} of no valid characters")
        table[name] = plain.astype(object)
    return table


def _in_part(rows: pd.DataFrame, part: Part, file: str, candidate: bool) -> pd.DataFrame:
    rows = rows.assign(file=file, official_split=part.name, candidate=candidate, split=part.split)
    if part.split == "train":  # nothing to learn from, but still predicted
        rows["split"] = rows["label"].notna().map({True: "train", False: "unlabelled"})
    return rows


def _once(rows: pd.DataFrame, found: Findings) -> pd.DataFrame:
    """One row a name: a test clip with a label is one, else a training clip stays one."""
    test = (rows["split"] == "test") & rows["label"].notna()
    rank = test.map({True: 0, False: 1}) + (~test & (rows["split"] != "train"))
    order = rows.assign(rank=rank).sort_values("rank", kind="stable")
    again = order["name"].notna() & order["name"].duplicated()
    kept = order[~again].dropna(subset=["name"]).set_index("name")
    for row in order[again].to_dict("records"):
        first = kept.loc[row["name"]]
        if first["split"] != row["split"]:
            text = f"{row['name']!r} is named in {first['file']} too; it counts as {first['split']}"
            found.add("split_overlap", row["file"], text, row=row["row"], clip_id=row["name"])
    asked = set(rows.loc[rows["candidate"].astype(bool), "name"])
    rows = order[~again].sort_index().drop(columns="rank")
    return rows.assign(candidate=rows["name"].isin(asked))


def _unnamed(
    media: list[tuple[Part | None, list[Medium]]], named: set[str], root: Path, found: Findings
) -> list[pd.DataFrame]:
    """Rows of the media that no table names."""
    rows, seen = [], set(named)
    for part, files in media:
        new = {stem(medium.path) for medium in files} - seen
        seen |= new
        if new:
            folder = Path(files[0].path).relative_to(root).parts[0]
            split = part.bare if part else "unlabelled"
            found.add("unlisted_media", folder, f"{len(new):,} clips that no table names; they count as {split}")
            facts = {"file": folder, "split": split, "official_split": part.name if part else None}
            rows.append(pd.DataFrame({"name": sorted(new), "candidate": False, **facts}, dtype=object))
    return rows


def _audios(layout: Layout, root: Path, found: Findings, follow_links: bool) -> dict[str, Medium]:
    places = [place for name in layout.audios if (place := inside(root, [name], follow_links))]
    return by_name([m for place in places for m in list_media(place, root, found, follow_links)], found, "audio")


def _note_sound(rows: pd.DataFrame, audios: dict[str, Medium], layout: Layout, found: Findings) -> None:
    mute = rows.loc[rows["video"].notna() & rows["audio"].isna(), "name"]
    if len(mute):
        which = f"{len(mute):,} clips (first {mute.iloc[0]!r}) have no sound file" if audios else "it is not there"
        found.add("sound_in_video", f"{layout.audios[0]}/", f"{which}; the sound stream of the video is used")


def _with_texts(
    rows: pd.DataFrame, layout: Layout, root: Path, found: Findings, encoding: str, follow_links: bool
) -> pd.DataFrame:
    """Transcripts of the first table that has the clip."""
    paths = {name: _somewhere(root, name, follow_links) for name in layout.subtitles}
    text: dict[str, str | None] = {}
    english: dict[str, str | None] = {}
    for name, path in paths.items():
        if path:
            table = read_table(path, found, ("name",), layout.subtitles[name], encoding)
            table = unique_names(table, "name", found, name)
            _note_unused(table["name"], set(rows["name"]), name, found)
            text = dict(zip(table["name"], table["text"], strict=True)) | text
            if "text_en" in table:
                english = dict(zip(table["name"], table["text_en"], strict=True)) | english
    _note_silent(rows["name"], text, next((n for n, path in paths.items() if path), ""), layout, found)
    return rows.assign(text=rows["name"].map(text), text_en=rows["name"].map(english))


def _note_unused(names: pd.Series, used: set[str], file: str, found: Findings) -> None:
    extra = names[names.notna() & ~names.isin(used)]
    for row in names.index[names.isna()]:
        found.add("bad_id", file, "the name is empty; the row is not used", row=row)
    if len(extra):
        text = f"{len(extra):,} rows name no clip that is there, the first one {extra.iloc[0]!r}"
        found.add("unused_row", file, text, row=extra.index[0])


def _note_silent(names: pd.Series, text: dict, file: str, layout: Layout, found: Findings) -> None:
    if not file:
        found.add("no_transcript", next(iter(layout.subtitles)), "it is not there; no clip has a transcript")
    elif len(without := [name for name in names.dropna() if name not in text]):
        found.add("no_transcript", file, f"{len(without):,} clips have no row, the first one {without[0]!r}")


# ---- the MER corpora as they are published: raw folders, or the folder that the official toolkit makes


BOTH = {"text": "chinese", "text_en": "english"}

MER2023 = Layout(
    "MER2023",
    (
        Part("train", "train", "unlabelled", ("train-label.csv",), "train_corpus", ("train",)),
        Part("test1", "test", "test", ("test1-label.csv",), "test1_corpus", ("test1",)),
        Part("test2", "test", "test", ("test2-label.csv",), "test2_corpus", ("test2",)),
        Part("test3", "test", "unlabelled", ("test3-label.csv",), "test3_corpus", ("test3",)),
    ),
    {
        "transcription-engchi-polish.csv": BOTH,
        "transcription.csv": {"text": "sentence"},
        "transcription-old.csv": {"text": "sentence"},
    },
    "label-6way.npz",
    "train/, test1/, test2/, test3/ and train-label.csv, or video/ and label-6way.npz",
)
MER2024 = Layout(
    "MER2024",
    (
        Part("train", "train", "unlabelled", ("label-disdim.csv",), "train_corpus", ("video-labeled",)),
        Part(
            "test1", "test", "unlabelled",
            ("reference-semi.csv", "reference-noise.csv"), "test1_corpus",
            ("video-unlabeled-with-test2noise", "video-unlabeled"), ("*candidate*.csv",),
        ),
        Part("test2", "test", "unlabelled", (), "test2_corpus"),
    ),
    {
        "transcription-merge.csv": {"text": "chinese"},
        "label-transcription.csv": BOTH,
        "transcription.csv": {"text": "sentence"},
    },
    "label-6way.npz",
    "video-labeled/ and label-disdim.csv, or video/ and label-6way.npz",
    audios=("audio", "audio-labeled", "audio-unlabeled"),
)  # fmt: skip
MER2025 = Layout(
    "MER2025",
    (
        Part("train", "train", "unlabelled", ("track1_train_disdim.csv",), "train_corpus"),
        Part(
            "test1", "test", "test", ("track1_test_dis.csv",), "test1_corpus",
            candidates=("track_all_candidates.csv",),
        ),
    ),
    {"subtitle_chieng.csv": BOTH, "track1_subtitle_chieng.csv": BOTH},
    "track1_label_6way.npz",
    "video/ and track1_train_disdim.csv, or video/ and track1_label_6way.npz",
)  # fmt: skip
MER2026 = Layout(
    "MER2026",
    (
        Part("train", "train", "unlabelled", ("track1_train.csv",), "train_corpus"),
        Part(
            "test1", "test", "test", ("track1_test.csv",), "test1_corpus",
            candidates=("track1_track2_candidate.csv",),
        ),
    ),
    {"subtitle_chieng.csv": BOTH, "track1_subtitle_chieng.csv": BOTH},
    "track1_label_6way.npz",
    "video/ and track1_train.csv, or video/ and track1_label_6way.npz",
)  # fmt: skip


def mer2023(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of MER2023, raw or processed.

    Training clips are those of `train-label.csv`. `test1` (MER-MULTI) and `test2` (MER-NOISE) are test
    clips, with or without labels. `test3` (MER-SEMI) is the pool of unlabelled clips; the few that
    `test3-label.csv` names are test clips. Label tables are found in the source or in a folder of it.

    See `mer2025` for the parameters, columns and errors.
    """
    return read_layout(MER2023, source, found, encoding, follow_links)


def mer2024(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of MER2024, raw or processed.

    Clips of `video-labeled` with a row in `label-disdim.csv` are training clips. The others are
    unlabelled, except those that a candidate or reference table names: they are test clips.

    See `mer2025` for the parameters, columns and errors.
    """
    return read_layout(MER2024, source, found, encoding, follow_links)


def mer2025(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of MER2025, raw or processed.

    Parameters
    ----------
    source : path
        The raw folder (`video/`, `audio/`, `track1_train_disdim.csv`, `track_all_candidates.csv`,
        `subtitle_chieng.csv`), or the one that the official toolkit makes of it (with
        `track1_label_6way.npz`, whose test labels are placeholders, and `track1_subtitle_chieng.csv`).
    found : Findings
        Gets what is odd, row by row.
    encoding : str
        Of the tables; detected and told when empty.
    follow_links : bool
        Whether links may leave the source folder.

    Returns
    -------
    DataFrame
        `media_files.COLUMNS`, and `valence`, `official_split` (the part's own name), `candidate` (whether a
        prediction is asked for). Clips that no table names are unlabelled. `text` is the Chinese
        transcript, `text_en` the English one.

    Raises
    ------
    EcmfError
        The folder has another layout, or one of its tables cannot be used.
    """
    return read_layout(MER2025, source, found, encoding, follow_links)


def mer2026(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of MER2026, raw or processed: the clips of MER2025 with other tables.

    See `mer2025` for the parameters, columns and errors.
    """
    return read_layout(MER2026, source, found, encoding, follow_links)
