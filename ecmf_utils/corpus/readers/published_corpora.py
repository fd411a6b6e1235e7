"""From the layout that a corpus is published in to the rows of a manifest, one function a corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from ecmf_utils.corpus.findings import Findings

from .media_files import Medium, attach, by_name, finish, foreign, inside, list_media, root_of, stem
from .own import scan_folder
from .tables import read_table, unique_names

# ---- RAVDESS: Livingstone and Russo 2018, doi 10.1371/journal.pone.0196391

RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS_STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
RAVDESS_NAME = re.compile(r"0([123])-0([12])-0([1-8])-0([12])-0([12])-0([12])-(0[1-9]|1\d|2[0-4])")
RAVDESS_KINDS = {
    ("1", "1"): "speech with picture and sound", ("2", "1"): "speech without sound",
    ("3", "1"): "speech without picture", ("1", "2"): "song with picture and sound",
    ("2", "2"): "song without sound", ("3", "2"): "song without picture",
}  # fmt: skip


def ravdess(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of RAVDESS: `Actor_XX/MM-VC-EE-II-SS-RR-AA.mp4`, or the files side by side.

    Speech with picture and sound counts. The same takes are published without picture and without sound
    too, and songs: these are counted and left out; where there is no speech with both, speech with sound
    alone is used. There is no official split: all clips are training clips, actors are the groups.

    Parameters, errors
        As `mer.mer2025`; there are no tables.

    Returns
    -------
    DataFrame
        `media_files.COLUMNS`, and `intensity` (normal, strong), `statement` and `repetition` (1, 2).
    """
    root = root_of(source)
    media = by_name(list_media(root, root, found, follow_links), found, root.name)
    parsed = {name: RAVDESS_NAME.fullmatch(name) for name in media}
    kinds = pd.Series({name: match.group(1, 2) for name, match in parsed.items() if match}, dtype=object)
    used = next((kind for kind in (("1", "1"), ("3", "1")) if (kinds == kind).any()), None)
    if used is None:
        raise foreign(root, "RAVDESS", "clips such as Actor_01/01-01-03-01-02-01-01.mp4")
    for kind, n in kinds.value_counts().items():
        if kind != used:
            found.add("ignored_file", root.name, f"{RAVDESS_KINDS[kind]}, not used: {n:,}")
    names = [name for name, match in parsed.items() if match is None or match.group(1, 2) == used]
    rows = pd.DataFrame([_ravdess_row(name, parsed[name], media[name]) for name in names])
    _note_names(rows, found, "MM-VC-EE-II-SS-RR-AA", root.name)
    return _from_media(rows, media, {}, found, root.name)


def _ravdess_row(name: str, match: re.Match | None, medium: Medium) -> dict:
    if match is None:
        actor = re.fullmatch(r"Actor_(\d\d)", Path(medium.path).parent.name)
        return {"name": name, "split": "unlabelled", "group": actor and f"actor-{actor[1]}"}
    _, _, emotion, intensity, statement, repetition, actor = match.groups()
    return {
        "name": name,
        "label": RAVDESS_EMOTIONS[int(emotion) - 1],
        "split": "train",
        "group": f"actor-{actor}",
        "text": RAVDESS_STATEMENTS[int(statement) - 1],
        "intensity": ("normal", "strong")[int(intensity) - 1],
        "statement": statement,
        "repetition": repetition,
    }


# ---- CREMA-D: Cao et al. 2014, doi 10.1109/TAFFC.2014.2336244

CREMAD_NAME = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX|X)")
CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}
CREMAD_SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.", "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.", "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.", "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.", "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.", "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}  # fmt: skip


def cremad(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of CREMA-D: `VideoFlash/*.flv` or `VideoMP4/*.mp4`, and `AudioWAV/*.wav`.

    Labels are the codes of the file names (ANG, DIS, FEA, HAP, NEU, SAD): what the actor was asked for.
    There is no official split: all clips are training clips, actors are the groups.

    Parameters, errors
        As `mer.mer2025`; there are no tables.

    Returns
    -------
    DataFrame
        `media_files.COLUMNS`, and `intensity` (low, medium, high, or none), `statement` (the sentence's code).
    """
    root = root_of(source)
    video = inside(root, ("VideoFlash", "VideoMP4"), follow_links)
    audio = inside(root, ("AudioWAV", "AudioMP3"), follow_links)
    if video is None and audio is None:
        raise foreign(root, "CREMA-D", "VideoFlash/ or VideoMP4/, and AudioWAV/")
    videos, audios = (
        by_name(list_media(place, root, found, follow_links), found, place.name) if place else {}
        for place in (video, audio)
    )
    names = sorted(videos.keys() | audios.keys())
    rows = pd.DataFrame([_cremad_row(name, CREMAD_NAME.fullmatch(name)) for name in names])
    if not len(rows) or not (rows["split"] == "train").any():
        raise foreign(root, "CREMA-D", "clips such as VideoFlash/1001_DFA_ANG_XX.flv")
    _note_names(rows, found, "ActorID_Sentence_EMO_Level", root.name)
    if mute := [name for name in videos if name not in audios]:
        text = f"{len(mute):,} clips (first {mute[0]!r}) have no sound file; the sound stream of the video is used"
        found.add("sound_in_video", "AudioWAV/", text)
    return _from_media(rows, videos, audios, found, root.name)


def _cremad_row(name: str, match: re.Match | None) -> dict:
    if match is None:
        return {"name": name, "split": "unlabelled"}
    actor, sentence, emotion, level = match.groups()
    return {
        "name": name,
        "label": emotion,
        "split": "train",
        "group": actor,
        "statement": sentence,
        "text": CREMAD_SENTENCES.get(sentence),
        "intensity": CREMAD_LEVELS.get(level),
    }


# ---- MELD: Poria et al. 2019, arXiv 1810.02508

MELD_PARTS = {  # part: split, and where its clips may lie
    "train": ("train", ("train_splits", "train/train_splits", "train")),
    "dev": ("train", ("dev_splits_complete", "dev/dev_splits_complete", "dev")),
    "test": ("test", ("output_repeated_splits_test", "test/output_repeated_splits_test", "test")),
}
MELD_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
MELD_REPAIRED = "final_videos_test"  # the publishers' second try at a clip of the test part
CONTROLS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}


def meld(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of MELD: `train_sent_emo.csv`, `dev_…`, `test_…` and their folders of clips.

    The official test split is kept, dev joins train, dialogues are the groups. Names repeat between the
    splits, so a clip is called `train_dia0_utt0`.

    Parameters, errors
        As `mer.mer2025`.

    Returns
    -------
    DataFrame
        `media_files.COLUMNS`, and `official_split` (train, dev, test), `sentiment`.
    """
    root = root_of(source)
    parts = [_meld_part(part, root, found, encoding, follow_links) for part in MELD_PARTS]
    if not any(len(rows) for rows, _ in parts) or not any(media for _, media in parts):
        raise foreign(
            root, "MELD", "train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv and their folders of clips"
        )
    rows = pd.concat([rows for rows, _ in parts], ignore_index=True)
    media = {name: medium for _, named in parts for name, medium in named.items()}
    return _from_media(rows, media, {}, found, root.name)


def _meld_part(
    part: str, root: Path, found: Findings, encoding: str, follow_links: bool
) -> tuple[pd.DataFrame, dict[str, Medium]]:
    split, folders = MELD_PARTS[part]
    file = f"{part}_sent_emo.csv"
    path = inside(root, (file, f"{part}/{file}"), follow_links)
    place = inside(root, folders, follow_links)
    media = list_media(place, root, found, follow_links) if place else []
    named = by_name(_repaired(media, found), found, folders[0], lambda path: f"{part}_{_meld_name(path)}")
    if path is None:
        found.add("missing_table", file, f"it is not there; the {len(named):,} clips of {part} have no labels")
        rows = pd.DataFrame({"name": [], "row": []}, dtype=object)
    else:
        rows = _meld_rows(path, part, found, encoding).assign(split=split)
    rest = sorted(named.keys() - set(rows["name"]))
    if rest:
        found.add("unlisted_media", folders[0], f"{len(rest):,} clips that no table names; they count as unlabelled")
    facts = {"file": folders[0], "split": "unlabelled", "group": [name.rsplit("_utt", 1)[0] for name in rest]}
    rest = pd.DataFrame({"name": rest, **facts}, dtype=object)
    return pd.concat([rows, rest], ignore_index=True).assign(official_split=part), named


def _meld_name(path: str) -> str:
    return stem(path).removeprefix(MELD_REPAIRED)


def _repaired(media: list[Medium], found: Findings) -> list[Medium]:
    """Media without those that a repaired copy replaces."""
    mended = {_meld_name(medium.path) for medium in media if stem(medium.path).startswith(MELD_REPAIRED)}
    kept = [medium for medium in media if stem(medium.path) not in mended]
    if n := len(media) - len(kept):
        text = f"{MELD_REPAIRED}… replaces the file of the same name without it, the repaired clip counts: {n:,}"
        found.add("layout", MELD_PARTS["test"][1][0], text)
    return kept


def _meld_rows(path: Path, part: str, found: Findings, encoding: str) -> pd.DataFrame:
    table = read_table(path, found, MELD_COLUMNS, encoding=encoding)
    ids = table[["Dialogue_ID", "Utterance_ID"]]
    name = f"{part}_dia" + ids["Dialogue_ID"].astype("str") + "_utt" + ids["Utterance_ID"].astype("str")
    table["name"] = name.where(ids.notna().all(axis=1), None)
    table = unique_names(table, "name", found, path.name, "Emotion")
    text = table["Utterance"].map(lambda words: words.translate(CONTROLS) if isinstance(words, str) else words)
    if n := int((text.notna() & (text != table["Utterance"])).sum()):
        found.add("mended_text", path, f"{n:,} transcripts with characters of Windows-1252 read as Latin-1, mended")
    rows = pd.DataFrame({"name": table["name"], "row": table.index, "file": path.name, "label": table["Emotion"]})
    group = f"{part}_dia" + table["Dialogue_ID"].astype("str")
    return rows.assign(text=text, group=group, speaker=table["Speaker"], sentiment=table["Sentiment"])


# ---- any folder


def folder(source: Path, found: Findings, *, encoding: str = "", follow_links: bool = False) -> pd.DataFrame:
    """The manifest of any folder of clips; for labels and groups of your own see `own.read_manifest`."""
    return scan_folder(source, found, encoding=encoding, follow_links=follow_links)


# ---- steps


def _note_names(rows: pd.DataFrame, found: Findings, pattern: str, where: str) -> None:
    for name in rows.loc[rows["split"] == "unlabelled", "name"]:
        found.add("bad_name", where, f"{name!r} is not {pattern}; the clip has no label", clip_id=name)


def _from_media(
    rows: pd.DataFrame, videos: dict[str, Medium], audios: dict[str, Medium], found: Findings, where: str
) -> pd.DataFrame:
    for column in ("file", "row", "label"):
        rows[column] = rows[column] if column in rows else None
    rows["file"] = rows["file"].where(rows["file"].notna(), where)
    rows = attach(rows.astype(object).where(rows.notna(), None), videos, audios, found)
    no_label = rows["label"].isna() & (rows["split"] == "train")
    rows.loc[no_label, "split"] = "unlabelled"  # nothing to learn from, but still predicted
    return finish(rows.assign(language="en"), found, where)
