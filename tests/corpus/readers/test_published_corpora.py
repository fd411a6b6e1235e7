"""Every published layout gives its manifest; every mistake in it gives one clear line and costs no good row."""

import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecmf_utils.corpus import label_map, probing
from ecmf_utils.corpus.building import READERS
from ecmf_utils.corpus.findings import Findings
from ecmf_utils.corpus.readers import own
from ecmf_utils.corpus.readers.media_files import COLUMNS
from ecmf_utils.files import EcmfError, import_function
from tests import miniatures
from tests.conftest import ROOT
from tests.miniatures import CHINESE, ENGLISH, SEVEN, SIX, names_of, write_table

TRAIN, CANDIDATES, SUBTITLES = "track1_train_disdim.csv", "track_all_candidates.csv", "subtitle_chieng.csv"


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return miniatures.cheap_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def mer2025(tmp_path, clips):
    return miniatures.make_mer2025(tmp_path / "mer2025", clips)


def read(corpus, folder, **how):
    """Rows by clip_id, and the findings."""
    found = Findings()
    return import_function(READERS[corpus])(folder, found, **how).set_index("clip_id"), found


# ---- each corpus

SPLITS = {
    "mer2023": {"train": 24, "test": 15, "unlabelled": 3},
    "mer2024": {"train": 24, "test": 6, "unlabelled": 6},
    "mer2025": {"train": 24, "test": 6, "unlabelled": 6},
    "mer2026": {"train": 24, "test": 6, "unlabelled": 6},
    "ravdess": {"train": 32},
    "cremad": {"train": 24},
    "meld": {"train": 28, "test": 7},
}


@pytest.mark.parametrize("corpus", SPLITS)
def test_the_published_layout_is_read_whole(corpus, tmp_path, clips):
    folder = miniatures.MAKERS[corpus](tmp_path / corpus, clips)
    rows, found = read(corpus, folder)
    assert rows["split"].value_counts().to_dict() == SPLITS[corpus]
    assert rows.index.is_unique and rows["status"].isna().all() and rows["problem"].isna().all()
    assert list(rows.reset_index().columns[: len(COLUMNS)]) == list(COLUMNS)
    assert all(os.path.isfile(path) for path in [*rows["video"], *rows["audio"].dropna()])
    train = rows[rows["split"] == "train"]
    assert train["label"].value_counts().min() >= 3 and train["group"].nunique() >= 3


@pytest.mark.parametrize("corpus", miniatures.PROCESSED)
def test_the_folder_of_the_official_toolkit_is_read_by_the_same_function(corpus, tmp_path, clips):
    rows, found = read(corpus, miniatures.PROCESSED[corpus](tmp_path / corpus, clips))
    assert (rows["split"] == "train").sum() == 24 and set(rows["label"].dropna()) == set(SIX)
    assert rows["text"].iloc[0] == CHINESE[0] and rows["status"].isna().all()
    assert "placeholder_labels" in {finding.code for finding in found}


def test_mer_rows_have_both_transcripts_and_sound_files_of_their_own(mer2025):
    rows, _ = read("mer2025", mer2025)
    row = rows.loc["sample_00000001"]
    assert (row["text"], row["text_en"], row["language"]) == (CHINESE[1], ENGLISH[1], "zh")
    assert row["video"].endswith("video/sample_00000001.mp4") and row["audio"].endswith("audio/sample_00000001.wav")
    assert (row["label"], row["valence"], row["group"], row["speaker"]) == ("angry", -3.5, *["sample_00000001"] * 2)
    assert (row["file"], row["row"], row["official_split"]) == (TRAIN, 3, "train")
    assert list(rows.index[rows["candidate"]]) == names_of(6, 24)


def test_placeholder_labels_of_the_toolkit_are_no_labels(tmp_path, clips):
    rows, found = read("mer2025", miniatures.make_mer2025_processed(tmp_path / "p", clips))
    test = rows[rows["split"] == "test"]
    assert len(test) == 6 and test["label"].isna().all() and test["candidate"].all()
    line = "track1_label_6way.npz: test1_corpus: all 6 labels are 'neutral': placeholders, which count as missing"
    assert line in found.lines()


def test_real_test_labels_are_kept_in_both_layouts(tmp_path, clips):
    folder = miniatures.make_mer2025(tmp_path / "raw", clips)
    write_table(folder / "track1_test_dis.csv", "name,discrete", [(name, "sad") for name in names_of(2, 24)])
    rows, _ = read("mer2025", folder)
    assert list(rows.loc[rows["split"] == "test", "label"].dropna()) == ["sad", "sad"] and rows["candidate"].sum() == 6
    rows, _ = read("mer2023", miniatures.make_mer2023_processed(tmp_path / "processed", clips))
    test = rows[rows["split"] == "test"]
    assert len(test) == 6 and test["label"].notna().all() and (test["valence"] == 0.5).all()


def test_mer2023_test_folders_without_labels_are_test_clips_and_the_pool_is_not(tmp_path, clips):
    folder = miniatures.make_mer2023(tmp_path / "m", clips)
    for part in ("test1", "test2", "test3"):
        (folder / f"{part}-label.csv").unlink()
    rows, found = read("mer2023", folder)
    fates = rows.groupby("official_split")["split"].agg(set).to_dict()
    assert fates == {"train": {"train"}, "test1": {"test"}, "test2": {"test"}, "test3": {"unlabelled"}}
    assert "test1-label.csv: it is not there; clips in test1/ count as test" in found.lines()


def test_label_tables_in_a_folder_of_their_own_are_found(tmp_path, clips):
    folder = miniatures.make_mer2023(tmp_path / "m", clips)
    (folder / "test-labels").mkdir()
    for part in ("test1", "test2", "test3"):
        shutil.move(folder / f"{part}-label.csv", folder / "test-labels")
    assert read("mer2023", folder)[0]["split"].value_counts().to_dict() == SPLITS["mer2023"]


def test_a_training_clip_among_the_candidates_stays_one_and_a_labelled_test_clip_is_no_training_clip(mer2025):
    write_table(mer2025 / CANDIDATES, "name", [(name,) for name in ("sample_00000000", *names_of(6, 24))])
    write_table(mer2025 / "track1_test_dis.csv", "name,discrete", [("sample_00000001", "sad")])
    rows, found = read("mer2025", mer2025)
    assert rows.loc["sample_00000000", ["split", "candidate"]].tolist() == ["train", True]
    assert rows.loc["sample_00000001", ["split", "label"]].tolist() == ["test", "sad"]
    told = [finding for finding in found if finding.code == "split_overlap"]
    assert {(f.clip_id, f.file, f.row) for f in told} == {
        ("sample_00000000", CANDIDATES, 2),
        ("sample_00000001", TRAIN, 3),
    }


def test_ravdess_uses_each_take_once_and_counts_the_rest(tmp_path, clips):
    rows, found = read("ravdess", miniatures.make_ravdess(tmp_path / "r", clips))
    row = rows.loc["01-01-03-01-02-01-02"]
    assert (row["label"], row["group"], row["text"]) == ("happy", "actor-02", "Dogs are sitting by the door.")
    assert (row["intensity"], row["statement"], row["repetition"]) == ("normal", "2", "1")
    assert sorted(f.text for f in found) == [
        "song with picture and sound, not used: 1",
        "speech without picture, not used: 1",
        "speech without sound, not used: 1",
    ]


def test_ravdess_side_by_side_is_the_same(tmp_path, clips):
    deep, _ = read("ravdess", miniatures.make_ravdess(tmp_path / "deep", clips))
    flat, _ = read("ravdess", miniatures.make_ravdess(tmp_path / "flat", clips, flat=True))
    pd.testing.assert_frame_equal(
        deep.drop(columns=["video", "file"]).sort_index(), flat.drop(columns=["video", "file"]).sort_index()
    )


def test_ravdess_with_sound_alone_uses_the_sound(tmp_path, clips):
    folder = miniatures.make_ravdess(tmp_path / "r", clips)
    for path in folder.rglob("0[12]-01-*.mp4"):
        path.unlink()
    rows, found = read("ravdess", folder)
    assert list(rows.index) == ["03-01-03-02-01-02-01"] and rows["intensity"].item() == "strong"


def test_the_real_ravdess_clips_are_read(realdata):
    rows, _ = read("ravdess", realdata / "clips" / "ravdess")
    assert rows["label"].tolist() == ["neutral", "neutral", "surprised", "surprised"]
    assert set(rows["group"]) == {"actor-01"} and rows["intensity"].tolist() == ["normal"] * 3 + ["strong"]


def test_cremad_names_its_sentence_and_finds_picture_and_sound(tmp_path, clips):
    folder = miniatures.make_cremad(tmp_path / "c", clips)
    row = read("cremad", folder)[0].loc["1001_DFA_DIS_MD"]
    assert row["video"].endswith("VideoFlash/1001_DFA_DIS_MD.flv") and row["audio"].endswith(
        "AudioWAV/1001_DFA_DIS_MD.wav"
    )
    assert (row["label"], row["group"], row["text"], row["intensity"]) == (
        "DIS",
        "1001",
        "Don't forget a jacket.",
        "medium",
    )
    probed = probing.probe_all(pd.DataFrame([row.rename(None)]).assign(clip_id="a"), n_workers=1).iloc[0]
    assert probed["status"] == "ok" and pd.isna(probed["problem"]) and probed["width"] == 128


def test_cremad_with_mp4_or_with_sound_alone_is_read(tmp_path, clips):
    folder = miniatures.make_cremad(tmp_path / "c", clips, videos="VideoMP4")
    assert read("cremad", folder)[0]["video"].str.endswith(".mp4").all()
    shutil.rmtree(folder / "VideoMP4")
    rows, found = read("cremad", folder)
    assert len(rows) == 24 and rows["video"].str.endswith(".wav").all() and rows["status"].isna().all()
    assert found.lines()[0].endswith("'1001_DFA_DIS_MD' has sound and no video; the sound is used")


def test_meld_keeps_its_splits_dialogues_and_repaired_clips(tmp_path, clips):
    rows, found = read("meld", miniatures.make_meld(tmp_path / "m", clips))
    counts = rows.groupby(["official_split", "split"]).size().to_dict()
    assert counts == {("train", "train"): 21, ("dev", "train"): 7, ("test", "test"): 7}
    row = rows.loc["train_dia1_utt3"]
    assert (row["label"], row["group"], row["speaker"], row["sentiment"]) == (
        "anger",
        "train_dia1",
        "Monica",
        "negative",
    )
    assert rows.loc["test_dia0_utt3", "video"].endswith("final_videos_testdia0_utt3.mp4")
    assert set(rows["label"]) == set(SEVEN) and not any("._" in path for path in rows["video"])
    assert [f.code for f in found] == ["ignored_file", "layout"]


def test_meld_mends_the_apostrophes_of_the_first_release(tmp_path, clips):
    folder = miniatures.make_meld(tmp_path / "m", clips)
    path = folder / "dev_sent_emo.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("\u2019", "\x92"), encoding="utf-8")
    rows, found = read("meld", folder)
    assert rows.loc["dev_dia0_utt1", "text"] == "I don\u2019t know what to say."
    assert any("dev_sent_emo.csv: 1 transcripts with characters of Windows-1252" in line for line in found.lines())


# ---- every bad input: the mistake in the corpus | the line | clips that it touches (all others stay as they were)

LOST = "sample_00000003"  # the clip that most mistakes are about: row 5 of the label and subtitle tables


def edit(name, change, encoding="utf-8"):
    """A mistake in a table: `change` gets its lines."""

    def made(folder):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        (folder / name).write_bytes(("\n".join(change(lines)) + "\n").encode(encoding))

    return made


def swap(name, old, new):
    return edit(name, lambda lines: [line.replace(old, new) for line in lines])


def add(name, *rows):
    return edit(name, lambda lines: [*lines, *rows])


def remove(name):
    return lambda folder: (folder / name).unlink()


def rewrite(name, change):
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def link_out(folder):
    """One clip and one folder of clips become links to another place."""
    other = folder.parent / "elsewhere"
    other.mkdir()
    path = folder / "video" / f"{LOST}.mp4"
    shutil.move(path, other / path.name)
    path.symlink_to(other / path.name)
    (folder / "video" / "more").symlink_to(other)


def dangle(path, to="gone"):
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def link_sound_out(folder):
    path = folder / "audio" / f"{LOST}.wav"
    shutil.move(path, folder.parent / path.name)
    path.symlink_to(folder.parent / path.name)


def case_names(folder):
    """A second clip of the same name in capitals."""
    shutil.copy(folder / "video" / "sample_00000009.mp4", folder / "video" / f"{LOST.upper()}.mp4")
    add(TRAIN, f"{LOST.upper()},happy,1.0")(folder)


def another_ending(folder):
    shutil.copy(folder / "video" / f"{LOST}.mp4", folder / "video" / f"{LOST}.mov")


BAD_INPUT = {
    # label file
    "label file: other columns": (
        swap(TRAIN, "discrete", "emotion"),
        r"track1_train_disdim\.csv: column discrete missing; expected name, discrete, found name, emotion, valence",
    ),
    "label file: a column in capitals": (swap(TRAIN, "discrete", "Discrete"), r"is 'Discrete' meant for discrete\?"),
    "label file: empty": (
        rewrite(TRAIN, lambda data: b""),
        r"track1_train_disdim\.csv: the file has no bytes",
    ),
    "label file: a web page": (rewrite(TRAIN, lambda data: b"<html>Sign in</html>"), r"found <html>Sign in</html>"),
    "label file: UTF-16 without a mark": (
        rewrite(TRAIN, lambda data: data.decode().encode("utf-16-le")),
        r"line 1 has a NUL byte, so this is not a text table",
    ),
    "label file: old Mac line ends": (
        rewrite(TRAIN, lambda data: data.replace(b"\n", b"\r")),
        r"its lines end in a carriage return alone \(old Mac\)",
    ),
    "label file: a name twice": (
        add(TRAIN, f"{LOST},sad,-0.5"),
        r"track1_train_disdim\.csv row 26: 'sample_00000003' occurred in row 5 already; the "
        r"first row counts$",
        set(),
    ),
    "label file: a name twice, with another label": (
        add(TRAIN, f"{LOST},happy,-0.5"),
        r"row 26: 'sample_00000003' occurred in row 5 already; the first row counts, and "
        r"the labels differ \(sad, here happy\)",
        set(),
    ),
    "label file: a name without media": (
        add(TRAIN, "sample_99999999,happy,1.0"),
        r"track1_train_disdim\.csv row 26: there is no media file of the name 'sample_99999999'",
        {"sample_99999999"},
    ),
    "label file: a name in other case than its media": (
        swap(TRAIN, LOST, LOST.upper()),
        r"row 5: there is no media file of the name 'SAMPLE_00000003'; there is 'sample_00000003', in other upper",
        {LOST, LOST.upper()},
    ),
    "label file: an unknown label": (
        swap(TRAIN, f"{LOST},sad", f"{LOST},bored"),
        r"track1_train_disdim\.csv row 5: clip sample_00000003 has label 'bored', expected one of neutral, angry",
        {LOST},
    ),
    "label file: a missing label": (
        swap(TRAIN, f"{LOST},sad", f"{LOST},"),
        r"track1_train_disdim\.csv: missing values: discrete 1 empty$",
        {LOST},
    ),
    "label file: NaN for a label": (
        swap(TRAIN, f"{LOST},sad", f"{LOST},NaN"),
        r"track1_train_disdim\.csv: missing values: discrete 1 NaN$",
        {LOST},
    ),
    "label file: a valence that is no number": (
        swap(TRAIN, f"{LOST},sad,-1.5", f"{LOST},sad,low"),
        r"row 5: valence 'low' is no number; it counts as missing",
        {LOST},
    ),
    "label file: a row without a name": (
        add(TRAIN, ",happy,1.0"),
        r"track1_train_disdim\.csv row 26: the name is empty; the row is not used",
        {"unnamed (row 26)"},
    ),
    "label file: a name with a separator": (
        add(TRAIN, "../sample_00000003,happy,1.0"),
        r"track1_train_disdim\.csv row 26: the name '\.\./sample_00000003' has a path separator; the row is not used",
        {"_sample_00000003 (row 26)"},
    ),
    "label file: a name with a Windows separator": (
        add(TRAIN, "a\\b,happy,1.0"),
        r"row 26: the name 'a\\\\b' has a path separator; the row is not used",
        {"a_b (row 26)"},
    ),
    "label file: a cell too many": (
        swap(TRAIN, f"{LOST},sad,-1.5", f"{LOST},sad,-1.5,x"),
        r"row 5: 4 cells, expected 3; is a cell with ',' in it",
        set(),
    ),
    "label file: a byte order mark": (rewrite(TRAIN, lambda data: b"\xef\xbb\xbf" + data), None, set()),
    "label file: Windows line ends": (rewrite(TRAIN, lambda data: data.replace(b"\n", b"\r\n")), None, set()),
    "label file: a training clip is a candidate too": (
        add(CANDIDATES, LOST),
        r"track_all_candidates\.csv row 8: 'sample_00000003' is named in track1_train_disdim\.csv too; "
        r"it counts as train",
        {LOST},
    ),
    "label file: not there": (
        remove(TRAIN),
        r"mer2025: not the layout of MER2025: expected video/ and track1_train_disdim\.csv, or video/ and "
        r"track1_label_6way\.npz; found audio, subtitle_chieng\.csv, track_all_candidates\.csv, video",
    ),
    # subtitle file
    "subtitles: not there": (
        remove(SUBTITLES),
        r"subtitle_chieng\.csv: it is not there; no clip has a transcript",
        "text",
    ),
    "subtitles: other columns": (
        swap(SUBTITLES, "chinese", "mandarin"),
        r"subtitle_chieng\.csv: no column 'chinese' for text; found name, mandarin, e",
    ),
    "subtitles: a name twice": (
        add(SUBTITLES, f"{LOST},x,y"),
        r"subtitle_chieng\.csv row 38: 'sample_00000003' occurred in row 5 already",
        set(),
    ),
    "subtitles: a name without media": (
        add(SUBTITLES, "sample_99999999,x,y"),
        r"subtitle_chieng\.csv row 38: 1 rows name no clip that is there, the first one 'sample_99999999'",
        set(),
    ),
    "subtitles: a clip without a row": (
        edit(SUBTITLES, lambda lines: [line for line in lines if LOST not in line]),
        r"subtitle_chieng\.csv: 1 clips have no row, the first one 'sample_00000003'",
        {LOST},
    ),
    "subtitles: NaN for a text": (
        swap(SUBTITLES, CHINESE[3], "nan"),
        r"subtitle_chieng\.csv: missing values: chinese 6 nan$",
        set(names_of(36)[3::6]),
    ),
    "subtitles: a row without a name": (
        add(SUBTITLES, ",x,y"),
        r"subtitle_chieng\.csv row 38: the name is empty; the row is not used",
        set(),
    ),
    "subtitles: GBK": (
        edit(SUBTITLES, list, "gbk"),
        r"subtitle_chieng\.csv row 2: not UTF-8, read as gb18030; if the transcripts look wrong",
        set(),
    ),
    "subtitles: a byte order mark": (rewrite(SUBTITLES, lambda data: b"\xef\xbb\xbf" + data), None, set()),
    "subtitles: Windows line ends": (rewrite(SUBTITLES, lambda data: data.replace(b"\n", b"\r\n")), None, set()),
    "subtitles: a damaged character": (
        rewrite(SUBTITLES, lambda data: data.replace("走了吗".encode(), "走了吗".encode()[:-1], 1)),
        r"subtitle_chieng\.csv row 4: bytes that are not UTF-8",
        {"sample_00000002"},
    ),
    "subtitles: a quotation mark that is never closed": (
        edit(
            SUBTITLES,
            lambda lines: [line.replace(CHINESE[3], f'"{CHINESE[3]}') if LOST in line else line for line in lines],
        ),
        r"subtitle_chieng\.csv row 5: a quotation mark is not closed or out of place",
        {LOST},
    ),
    # candidate file
    "candidates: not there": (
        remove(CANDIDATES),
        r"track_all_candidates\.csv: it is not there; there are no test clips",
        set(names_of(6, 24)),
    ),
    "candidates: other columns": (
        swap(CANDIDATES, "name", "clip"),
        r"track_all_candidates\.csv: column name missing; expected name, found clip",
    ),
    "candidates: a name twice": (
        add(CANDIDATES, "sample_00000024"),
        r"track_all_candidates\.csv row 8: 'sample_00000024' occurred in row 2",
        set(),
    ),
    "candidates: a name without media": (
        add(CANDIDATES, "sample_99999999"),
        r"track_all_candidates\.csv row 8: there is no media file of the name 'sample_99999999'",
        {"sample_99999999"},
    ),
    "candidates: no row": (
        edit(CANDIDATES, lambda lines: lines[:1]),
        r"track_all_candidates\.csv: there is a header and no row below it",
        set(names_of(6, 24)),
    ),
    # media
    "media: a clip that no table names": (
        lambda folder: shutil.copy(folder / "video" / f"{LOST}.mp4", folder / "video" / "new.mp4"),
        r"video: 7 clips that no table names; they count as unlabelled",
        {"new"},
    ),
    "media: names that differ only in case": (
        case_names,
        r"MER2025: 'sample_00000003', 'SAMPLE_00000003' differ only in upper and lower case; both are kept",
        {LOST.upper()},
    ),
    "media: two files of one name": (
        another_ending,
        r"MER2025: video/sample_00000003\.mp4 has the name of video/sample_00000003\.mov, which counts",
        {LOST},
    ),
    "media: a sound file is not there": (
        remove(f"audio/{LOST}.wav"),
        r"audio/: 1 clips \(first 'sample_00000003'\) have no sound file; the sound stream of",
        {LOST},
    ),
    "media: a video is not there": (
        remove(f"video/{LOST}.mp4"),
        r"track1_train_disdim\.csv row 5: 'sample_00000003' has sound and no video; the sound is used",
        {LOST},
    ),
    "media: a link out of the source": (
        link_out,
        r"track1_train_disdim\.csv row 5: sample_00000003\.mp4 leads out of the source folder, to .*elsewhere/"
        r"sample_00000003\.mp4; follow_links=true allows it",
        {LOST},
    ),
    "media: a folder that is a link out of the source": (
        link_out,
        r"video: more leads out of the source folder, to .*elsewhere; follow_links=true allows it",
        {LOST},
    ),
    "media: a sound file that is a link out of the source": (
        link_sound_out,
        r"row 5: sample_00000003\.wav leads out of the source folder, to .*; follow_links=true allows it",
        {LOST},
    ),
    "media: a link that leads nowhere": (
        lambda folder: dangle(folder / "video" / f"{LOST}.mp4"),
        r"track1_train_disdim\.csv row 5: sample_00000003\.mp4 is a link that leads nowhere, to gone$",
        {LOST},
    ),
    "media: a link that goes round in a circle": (
        lambda folder: (folder / "video" / "loop").symlink_to("loop"),
        r"video: loop is a link that leads nowhere, to loop",
        set(),
    ),
    "media: a clip that is a link in a circle": (
        lambda folder: dangle(folder / "video" / f"{LOST}.mp4", f"{LOST}.mp4"),
        r"row 5: sample_00000003\.mp4 is a link that leads nowhere, to sample_00000003\.mp4",
        {LOST},
    ),
    "media: a link to the folder above": (
        lambda folder: (folder / "video" / "loop").symlink_to(".."),
        r"video: loop is a link to a folder that it lies in; it is not followed",
        set(),
    ),
    "media: names that are not UTF-8": (
        lambda folder: [(folder / "video" / os.fsdecode(b"\xff\xfe" + end)).write_bytes(b"") for end in (b".mp4", b"")],
        r"video: the name '\\\\udcff\\\\udcfe\.mp4' is not UTF-8; it is not used",
        set(),
    ),
    "media: sound beside a video": (
        lambda folder: (folder / "video" / f"{LOST}.flac").write_bytes(b"x"),
        r"MER2025: video/sample_00000003\.flac has the name of video/sample_00000003\.mp4, which counts",
        set(),
    ),
    "media: sound that neither a table nor a video names": (
        lambda folder: [(folder / "audio" / name).write_bytes(b"x") for name in ("x.wav", "y.wav")],
        r"audio: 2 sound files without a video or a row; they are not used",
        set(),
    ),
    "media: files of another kind": (
        lambda folder: (folder / "video" / "a.npy").write_bytes(b"x"),
        r"video: files that are no clips: 1 \.npy",
        set(),
    ),
    "media: another folder altogether": (
        lambda folder: (shutil.rmtree(folder), shutil.copytree(ROOT / "workflow", folder)),
        r"mer2025: not the layout of MER2025: expected video/ and .*; found .*Snakefile",
    ),
}


def read_all(folder):
    """The rows after the labels were looked at, and the findings; an error counts as its line."""
    found = Findings()
    try:
        rows = import_function(READERS["mer2025"])(folder, found)
    except EcmfError as error:
        return None, [str(error)]
    rows, _ = label_map.apply(rows, SIX, {}, found, "profile mer2025")
    return rows.set_index("clip_id"), found.lines()


@pytest.mark.parametrize("case", BAD_INPUT)
def test_every_bad_input_gives_its_line_and_loses_no_good_row(case, mer2025):
    before, quiet = read_all(mer2025)
    spoil, line, *touched = BAD_INPUT[case]
    spoil(mer2025)
    after, lines = read_all(mer2025)
    new = [text for text in lines if text not in quiet]
    assert all("\n" not in text for text in new)
    if line is None:
        assert not new
    else:
        assert any(re.search(line, text) for text in new), new
    if not touched:
        assert after is None  # the file as a whole cannot be used
        return
    if touched == ["text"]:
        assert after["text"].isna().all()
        touched, before, after = [set()], before.drop(columns="text"), after.drop(columns="text")
    same = [name for name in before.index if name not in touched[0]]
    facts = [c for c in ("video", "audio", "text", "label", "split", "valence", "status", "candidate") if c in before]
    pd.testing.assert_frame_equal(after.loc[same, facts], before.loc[same, facts], check_dtype=False)
    assert set(after.index) <= set(before.index) | touched[0] and set(before.index) <= set(after.index) | touched[0]


def test_a_systematic_mistake_is_a_summary_and_not_five_hundred_lines(mer2025):
    add(TRAIN, *[f"wrong_{i:04d},happy,1.0" for i in range(500)])(mer2025)
    rows, found = read("mer2025", mer2025)
    lines = found.lines()
    assert len(lines) < 8 and (rows["status"] == "failed").sum() == 500
    assert f"{TRAIN}: … and 497 more like it (rows 29 to 525)" in lines


def test_all_names_wrong_is_a_summary_too(mer2025):
    edit(TRAIN, lambda lines: [line.replace(",", ".mp4,", 1) for line in lines])(mer2025)
    swap(TRAIN, "name.mp4", "name")(mer2025)
    rows, found = read("mer2025", mer2025)
    assert (rows["status"] == "failed").sum() == 24 and len(found.lines()) < 8 and len(rows) == 24 + 36


@pytest.mark.parametrize("make", [lambda p: p.write_bytes(b""), lambda p: p.write_text("<html>404</html>")])
def test_a_file_without_sound_or_picture_is_one_line_of_its_clip(make, mer2025):
    make(mer2025 / "audio" / f"{LOST}.wav")
    make(mer2025 / "video" / "sample_00000005.mp4")
    rows = probing.probe_all(read("mer2025", mer2025)[0].reset_index().iloc[:8], n_workers=1).set_index("clip_id")
    assert list(rows.index[rows["problem"].notna()]) == [LOST, "sample_00000005"]
    code = "empty_file" if not (mer2025 / "audio" / f"{LOST}.wav").stat().st_size else "not_media"
    assert rows.loc["sample_00000005", ["status", "problem"]].tolist() == ["failed", code]
    assert rows.loc[LOST, "problem"].startswith(code) and rows.loc[LOST, "status"] == "ok"
    assert "sample_00000005.mp4: the file" in rows.loc["sample_00000005", "detail"]


# ---- links, encodings and hostile files beyond one table


def test_links_are_followed_on_request(mer2025):
    link_out(mer2025)
    rows, _ = read("mer2025", mer2025, follow_links=True)
    assert rows["status"].isna().all() and rows.loc[LOST, "video"].endswith(f"{LOST}.mp4")


@pytest.mark.parametrize("name", ["video", TRAIN])
def test_a_link_in_place_of_the_whole_is_one_line(name, mer2025):
    shutil.move(mer2025 / name, mer2025.parent / f"other-{name}")
    (mer2025 / name).symlink_to(mer2025.parent / f"other-{name}")
    with pytest.raises(EcmfError, match=rf"{name}: leads out of the source folder, to .*; follow_links=true allows it"):
        read("mer2025", mer2025)
    assert len(read("mer2025", mer2025, follow_links=True)[0]) == 36


def test_links_inside_the_source_are_files_and_circles_end(mer2025):
    (mer2025 / "video" / "round").symlink_to(mer2025 / "video")
    path = mer2025 / "video" / f"{LOST}.mp4"
    shutil.move(path, mer2025 / "kept.mp4")
    path.symlink_to(mer2025 / "kept.mp4")
    rows, _ = read("mer2025", mer2025)
    assert rows["status"].isna().all() and len(rows) == 36


def test_a_source_that_is_itself_a_link_is_no_link_out_of_it(mer2025):
    (mer2025.parent / "short").symlink_to(mer2025)
    assert read("mer2025", mer2025.parent / "short")[0]["status"].isna().all()


def test_an_encoding_that_is_said_is_used_for_every_table(mer2025):
    edit(SUBTITLES, list, "gbk")(mer2025)
    rows, found = read("mer2025", mer2025, encoding="gbk")
    assert rows.loc[LOST, "text"] == CHINESE[3] and "encoding" not in {finding.code for finding in found}


def test_a_hostile_label_file_is_refused_by_name_and_runs_nothing(tmp_path, clips, monkeypatch):
    class Runs:
        def __reduce__(self):
            return os.system, ("touch OWNED",)

    folder = miniatures.make_mer2025_processed(tmp_path / "p", clips)
    monkeypatch.chdir(tmp_path)
    np.savez_compressed(folder / "track1_label_6way.npz", train_corpus={"a": {"emo": Runs()}}, test1_corpus={})
    with pytest.raises(EcmfError, match=r"6way\.npz: train_corpus asks for posix\.system; this was refused"):
        read("mer2025", folder)
    assert not (tmp_path / "OWNED").exists()


def test_a_label_file_without_its_split_is_one_line(tmp_path, clips):
    folder = miniatures.make_mer2025_processed(tmp_path / "p", clips)
    np.savez_compressed(folder / "track1_label_6way.npz", labels={})
    with pytest.raises(EcmfError, match=r"track1_label_6way\.npz: no key 'train_corpus'; the file has labels"):
        read("mer2025", folder)


@pytest.mark.parametrize("corpus", [name for name in READERS if name != "folder"])
def test_another_folder_is_refused_with_what_was_expected_and_what_is_there(corpus, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EcmfError, match=r"not the layout of [A-Z0-9-]+: expected .*; found notes\.txt") as caught:
        read(corpus, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("corpus", READERS)
def test_a_folder_that_is_not_there_is_refused(corpus, tmp_path):
    with pytest.raises(EcmfError, match="gone: not a folder"):
        read(corpus, tmp_path / "gone")


# ---- acted corpora and MELD: their own mistakes


@pytest.mark.parametrize(
    "corpus, path",
    [
        ("ravdess", "Actor_01/01-01-09-01-01-01-01.mp4"),
        ("ravdess", "Actor_01/take one.mp4"),
        ("cremad", "VideoMP4/1001_DFA_JOY_XX.mp4"),
    ],
)
def test_a_name_of_another_pattern_is_told_and_kept_without_a_label(corpus, path, tmp_path, clips):
    folder = miniatures.MAKERS[corpus](
        tmp_path / corpus, clips, **({"videos": "VideoMP4"} if corpus == "cremad" else {})
    )
    n = len(read(corpus, folder)[0])
    shutil.copy(clips[0], folder / path)
    rows, found = read(corpus, folder)
    row = rows.loc[Path(path).stem]
    assert len(rows) == n + 1 and row["split"] == "unlabelled" and row["label"] is None
    assert any(f"{Path(path).stem!r} is not " in line for line in found.lines())
    assert corpus != "ravdess" or row["group"] == "actor-01"


MELD_MISTAKES = {
    "an utterance without a clip": (
        lambda folder: (folder / "train_splits" / "dia1_utt2.mp4").unlink(),
        "train_sent_emo.csv row 11: there is no media file of the name 'train_dia1_utt2'",
    ),
    "a clip without an utterance": (
        lambda folder: shutil.copy(folder / "train_splits/dia1_utt2.mp4", folder / "train_splits/dia1_utt9.mp4"),
        "train_splits: 1 clips that no table names; they count as unlabelled",
    ),
    "a row without a dialogue": (
        swap("train_sent_emo.csv", "negative,1,2,", "negative,,2,"),
        "train_sent_emo.csv row 11: the name is empty; the row is not used",
    ),
    "no table for a part": (
        remove("dev_sent_emo.csv"), "dev_sent_emo.csv: it is not there; the 7 clips of dev have no labels",
    ),
    "an utterance twice": (
        edit("train_sent_emo.csv", lambda lines: [*lines, lines[3]]),
        "train_sent_emo.csv row 23: 'train_dia0_utt2' occurred in row 4 already; the first row counts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MELD_MISTAKES)
def test_a_mistake_in_meld_gives_its_line_and_costs_its_clip_only(case, tmp_path, clips):
    spoil, line = MELD_MISTAKES[case]
    folder = miniatures.make_meld(tmp_path / "m", clips)
    before, _ = read("meld", folder)
    spoil(folder)
    after, found = read("meld", folder)
    assert line in found.lines()
    ok = after[after["status"].isna() & after["label"].notna()]
    assert (
        len(before) - len(ok) <= (7 if "part" in case else 1) and (before.loc[ok.index, "label"] == ok["label"]).all()
    )


# ---- a manifest of one's own


def manifest(folder, text, **how):
    (folder / "list.csv").write_bytes(text.encode(how.pop("written", "utf-8")))
    found = Findings()
    return own.read_manifest(folder / "list.csv", folder, found=found, **how), found


@pytest.fixture
def shelf(tmp_path, clips):
    """Three clips in a folder of two levels."""
    for name in ("a.mp4", "b.mp4", "deep/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clips[0], tmp_path / name)
    return tmp_path


def test_columns_of_any_name_are_mapped(shelf):
    columns = {"clip_id": "file", "label": "emotion", "group": "who", "text": "said", "split": "part"}
    text = "file;emotion;who;said;part\na;happy;ann;hello, you;train\nb;sad;bob;nan;test\n"
    rows, found = manifest(shelf, text, columns=columns)
    assert rows["clip_id"].tolist() == ["a", "b", "c"] and rows["split"].tolist() == ["train", "test", "unlabelled"]
    assert rows["text"].tolist() == ["hello, you", None, None] and rows["group"].tolist() == ["ann", "bob", "c"]
    assert rows["video"].tolist() == [str(shelf / name) for name in ("a.mp4", "b.mp4", "deep/c.mp4")]
    assert found.lines() == [
        "list.csv: missing values: said 1 nan",
        f"{shelf.name}: 1 clips that no row names; they count as unlabelled",
    ]


def test_names_with_their_ending_and_paths_are_found(shelf):
    rows, _ = manifest(shelf, "clip_id,label\na.mp4,happy\nb,sad\n")
    assert rows["clip_id"].tolist() == ["a.mp4", "b", "c"] and rows["status"].isna().all()
    rows, _ = manifest(shelf, "video,label\ndeep/c.mp4,happy\n")
    assert rows["clip_id"].tolist() == ["deep__c"] and rows["video"].tolist() == [str(shelf / "deep" / "c.mp4")]


def test_clips_may_have_sound_only(shelf):
    for name in ("a", "b"):
        shutil.move(shelf / f"{name}.mp4", shelf / f"{name}.wav")
    rows, found = manifest(shelf, "audio,label\na.wav,happy\nb.wav,sad\n")
    assert rows["clip_id"].tolist() == ["a", "b"] and rows["status"].isna().all()
    assert rows["audio"].tolist() == [str(shelf / name) for name in ("a.wav", "b.wav")]
    assert found.lines() == [
        "list.csv row 2: 'a' has sound and no video; the sound is used",
        "list.csv row 3: 'b' has sound and no video; the sound is used",
    ]


def test_published_features_need_no_media(shelf):
    rows, found = manifest(
        shelf,
        "clip_id,label,split,dialogue\nx,positive,train,d1\ny,negative,test,d2\n",
        columns={"group": "dialogue"},
        media=False,
    )
    assert rows[["clip_id", "label", "split", "group"]].to_numpy().tolist() == [
        ["x", "positive", "train", "d1"],
        ["y", "negative", "test", "d2"],
    ]
    assert rows["video"].isna().all() and rows["status"].isna().all() and not len(found)


MANIFEST_MISTAKES = {
    "clip_id,video,label\na,a.mp4,happy\na,b.mp4,sad\n": (
        "list.csv row 3: 'a' occurred in row 2 already; this row is not used, and the labels differ (happy, here sad)",
        "duplicate_id",
    ),
    "clip_id,video,label\na,a.mp4,happy\nx/y,b.mp4,sad\n": (
        "list.csv row 3: the name 'x/y' has a path separator; the row is not used", "bad_id"
    ),
    "clip_id,video,label\na,a.mp4,happy\nb,gone.mp4,sad\n": ("list.csv row 3: gone.mp4 is not there", "missing_file"),
    "clip_id,video,label\na,a.mp4,happy\nb,,sad\n": ("list.csv row 3: no video is named", "missing_file"),
    "clip_id,audio,label\na,a.mp4,happy\nb,,sad\n": ("list.csv row 3: no audio is named", "missing_file"),
    "clip_id,audio,label\na,a.mp4,happy\nb,b.wav,sad\n": ("list.csv row 3: b.wav is not there", "missing_file"),
    "clip_id,video,label,split\na,a.mp4,happy,train\nb,b.mp4,sad,exam\n": (
        "list.csv row 3: split 'exam', expected one of train, test, unlabelled; taken as train", "unknown_split"
    ),
    "clip_id,label\na,happy\nz,sad\n": ("list.csv row 3: there is no media file of the name 'z'", "missing_file"),
    "clip_id,video,label\na,a.mp4,happy\nb,out.mp4,sad\n": (
        "list.csv row 3: out.mp4 leads out of the source folder, to /", "outside_source"
    ),
    "clip_id,video,label\na,a.mp4,happy\nb,far/test_published_corpora.py,sad\n": (
        "list.csv row 3: test_published_corpora.py leads out of the source folder, to /", "outside_source"
    ),
    "clip_id,video,audio,label\na,a.mp4,,happy\nb,b.mp4,gone.wav,sad\n": (
        "list.csv row 3: gone.wav is not there; the sound of the video is used", "missing_file"
    ),
    "clip_id,video,audio,label\na,a.mp4,,happy\nb,b.mp4,deep,sad\n": (
        "list.csv row 3: deep is a folder; the sound of the video is used", "missing_file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", MANIFEST_MISTAKES)
def test_a_mistake_in_a_manifest_is_told_with_its_row_and_the_others_go_on(text, shelf, tmp_path_factory):
    line, problem = MANIFEST_MISTAKES[text]
    if "out.mp4" in text:
        (shelf / "out.mp4").symlink_to(shutil.copy(shelf / "a.mp4", tmp_path_factory.mktemp("out")))
    if "far/" in text:
        (shelf / "far").symlink_to(Path(__file__).parent)
    rows, found = manifest(shelf, text)
    assert any(told.startswith(line) for told in found.lines()), found.lines()
    assert rows["problem"][1] == problem and rows["problem"][0] is None and rows["label"][0] == "happy"
    assert (rows["status"][1] == "failed") == (problem != "unknown_split" and "video,audio" not in text)
    if problem == "outside_source":
        assert manifest(shelf, text, follow_links=True)[0]["problem"].isna().all()


def test_a_manifest_in_another_encoding_is_read_and_told(shelf):
    rows, found = manifest(shelf, f"clip_id,text\na,{CHINESE[0]}\nb,{CHINESE[1]}\n", written="gbk")
    assert rows["text"][:2].tolist() == list(CHINESE[:2]) and found.lines()[0].startswith("list.csv row 2: not UTF-8")


def test_any_folder_is_read_with_findings(shelf):
    (shelf / "A.mp4").write_bytes(b"x")
    (shelf / "out.mp4").symlink_to(Path(__file__))
    (shelf / "a.txt").write_bytes("gr\xfc\xdf".encode("latin-1"))
    rows, found = read("folder", shelf)
    assert rows["problem"].dropna().to_dict() == {"a": "bad_encoding", "out": "outside_source"}
    assert rows.loc["deep__c", ["group", "split"]].tolist() == ["deep", "unlabelled"]
    assert {f.code for f in found} == {"bad_encoding", "outside_source", "case_clash"}


def test_transcripts_beside_the_clips_are_read_in_the_encoding_that_is_said(shelf):
    (shelf / "a.txt").write_bytes(CHINESE[0].encode("gbk"))
    assert read("folder", shelf, encoding="gb18030")[0].loc["a", "text"] == CHINESE[0]
    with pytest.raises(EcmfError, match="encoding 'klingon' is not known"):
        read("folder", shelf, encoding="klingon")


def tell(folder, **how):
    rows, found = read("folder", folder, **how)
    assert found.frame().to_csv().encode()  # what no file can hold must not come this far
    assert rows.to_csv().encode()
    return rows, {(f.code, f.text) for f in found}


def test_a_transcript_that_is_a_link_out_of_the_source_is_not_read(shelf, tmp_path_factory):
    secret = tmp_path_factory.mktemp("out") / "secret"
    secret.write_text("secret")
    dangle(shelf / "a.txt", secret)
    rows, told = tell(shelf)
    assert rows.loc["a", "text"] is None and rows["status"].isna().all()
    text = f"a.txt leads out of the source folder, to {secret}; follow_links=true allows it"
    assert told == {("outside_source", text)} and tell(shelf, follow_links=True)[0].loc["a", "text"] == "secret"


def test_a_transcript_that_cannot_be_read_is_told_and_the_others_are_read(shelf):
    dangle(shelf / "a.txt")
    (shelf / "b.txt").mkdir()
    (shelf / "deep" / "c.txt").write_text("hello")
    rows, told = tell(shelf)
    assert rows["text"].to_dict() == {"a": None, "b": None, "deep__c": "hello"}
    assert ("no_transcript", "a.txt is a link that leads nowhere, to gone") in told
    assert ("no_transcript", "b.txt is no file that can be read; its clip has no transcript") in told


def test_a_folder_with_a_name_that_is_not_utf_8_costs_that_folder_only(shelf):
    (shelf / os.fsdecode(b"\xff")).mkdir()
    shutil.copy(shelf / "a.mp4", shelf / os.fsdecode(b"\xff/x.mp4"))
    shutil.copy(shelf / "a.mp4", shelf / os.fsdecode(b"\xff.mp4"))
    rows, told = tell(shelf)
    assert list(rows.index) == ["a", "b", "deep__c"] and {code for code, _ in told} == {"bad_id"}


def test_files_that_would_have_one_name_are_all_kept(shelf):
    for name in ("deep__c.mp4", "x\ny.mp4", "x_y.mp4"):
        shutil.copy(shelf / "a.mp4", shelf / name)
    rows, told = tell(shelf)
    assert sorted(rows.index) == ["a", "b", "deep__c", "deep__c (2)", "x_y", "x_y (2)"]
    assert rows["video"].is_unique and rows["status"].isna().all() and {code for code, _ in told} == {"duplicate_media"}


def test_sound_beside_a_video_is_no_clip_of_a_folder(shelf):
    for name in ("a.wav", "b.flac", "alone.mp3"):
        (shelf / name).write_bytes(b"x")
    rows, told = tell(shelf)
    assert list(rows.index) == ["a", "alone", "b", "deep__c"] and rows.loc["a", "video"].endswith("a.mp4")
    assert ("ignored_file", "2 sound files beside a video of the same name, whose own sound counts") in told


def test_a_video_that_leads_nowhere_is_a_failed_row(shelf):
    dangle(shelf / "a.mp4", "a.mp4")
    rows, _ = tell(shelf)
    assert rows.loc["a", ["status", "problem"]].tolist() == ["failed", "missing_file"]
    assert rows.loc["b", "status"] is None and "follow_links" not in rows.loc["a", "detail"]


def test_a_link_to_a_place_with_a_name_that_is_not_utf_8_is_told_in_full(shelf, tmp_path_factory):
    place = tmp_path_factory.mktemp("out") / os.fsdecode(b"\xff.mp4")
    shutil.copy(shelf / "a.mp4", place)
    dangle(shelf / "b.mp4", place)
    rows, _ = tell(shelf)
    assert "\\udcff.mp4; follow_links=true" in rows.loc["b", "detail"] and rows.loc["b", "status"] == "failed"


def test_labels_and_names_with_half_characters_are_told_and_escaped(tmp_path, clips):
    folder = miniatures.make_mer2025_processed(tmp_path / "p", clips)
    path = folder / "track1_label_6way.npz"
    arrays = dict(np.load(path, allow_pickle=True))
    entries = arrays["train_corpus"].item()
    entries[LOST]["emo"], entries["\udcff"] = "\ud800", {"emo": "sad", "val": 0.5}
    np.savez(path, **arrays)
    rows, found = read("mer2025", folder)
    assert rows.loc[LOST, "label"] == "\\ud800" and (rows["problem"] == "bad_id").sum() == 1
    assert rows.to_csv().encode() and found.frame().to_csv().encode()
    assert "bad_label" in {finding.code for finding in found}


# ---- size


@pytest.mark.slow
def test_a_folder_of_132171_clips_is_listed_in_seconds(tmp_path):
    names = names_of(132_171)
    (tmp_path / "video").mkdir()
    for name in names:
        os.close(os.open(tmp_path / "video" / f"{name}.mp4", os.O_CREAT | os.O_WRONLY))
    write_table(tmp_path / TRAIN, "name,discrete", [(name, SIX[i % 6]) for i, name in enumerate(names[:7369])])
    write_table(tmp_path / CANDIDATES, "name", [(name,) for name in names[7369:27369]])
    write_table(
        tmp_path / SUBTITLES, "name,chinese,english", [(name, f"你好{i}", f"Hi, {i}") for i, name in enumerate(names)]
    )
    start = time.monotonic()
    rows, _ = read("mer2025", tmp_path)
    assert time.monotonic() - start < 30
    assert rows["split"].value_counts().to_dict() == {"unlabelled": 104802, "test": 20000, "train": 7369}
