"""The MER corpora as they are published: raw folders, or the folder that the official toolkit makes.

Layouts follow the data sets' own pages and the preprocessing of the official baselines
(github.com/zeroQiaoba/MERTools). No speakers are published: every clip is a group of its own.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .findings import Findings
from .parts import Layout, Part, read_layout

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
        `listing.COLUMNS`, and `valence`, `official_split` (the part's own name), `candidate` (whether a
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
