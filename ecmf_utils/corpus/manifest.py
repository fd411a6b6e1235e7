"""The manifest of a corpus: one row per clip, checked, with its splits and folds."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import media
from ecmf_utils.files import ROOT, EcmfError, data_dir, read_json, read_parquet, show, write_parquet

SPLITS = ("train", "test", "unlabelled")
TEXT_COLUMNS = (
    "clip_id",
    "video",
    "audio",
    "text",
    "text_en",
    "language",
    "label",
    "split",
    "group",
    "speaker",
    "content_hash",
    "status",
    "problem",
)
NUMBER_COLUMNS = ("duration_s", "width", "height", "fps", "n_frames", "sample_rate")
# every code that may stand in a `problem` column, with the sentence that a report shows
PROBLEMS = media.PROBLEMS | {
    "bad_id": "the clip_id is empty or has a path separator; the row is not used",
    "no_features": "there are no published features of this clip",
    "not_npy": "the file is not an .npy file, or its header is damaged",
    "pickled": "the file holds pickled Python objects, which may run code; refused",
    "wrong_dtype": "the numbers are of another type than those of most clips, or not numbers",
    "wrong_dim": "the vectors have another length or shape than those of most clips",
    "outside_source": "a link leads out of the source folder; follow_links=true allows it",
    "duplicate_id": "the clip_id occurred in an earlier row; this row is not used",
    "unknown_label": "the label is not in the profile's label set; the clip counts as unlabelled",
    "unknown_split": "the split is none of train, test, unlabelled; a default was taken",
}


# ---- schema


def schema(labels: list[str]) -> Any:
    """The pandera schema of `clips.parquet` for a label set."""
    import pandera.pandas as pa

    text = partial(pa.Column, str, nullable=True)
    number = partial(pa.Column, float, nullable=True, coerce=True)
    columns = {name: text() for name in TEXT_COLUMNS} | {name: number() for name in NUMBER_COLUMNS}
    columns |= {
        "clip_id": pa.Column(str, [pa.Check.str_matches(r"^[^/\\]+$")], unique=True),
        "label": text(pa.Check.isin(labels)),
        "split": pa.Column(str, pa.Check.isin(SPLITS)),
        "group": pa.Column(str),
        "status": pa.Column(str, pa.Check.isin(["ok", "failed"])),
        "content_hash": pa.Column(str, nullable=True),
    }
    return pa.DataFrameSchema(columns, strict=False)


def validate(clips: pd.DataFrame, labels: list[str], where: str) -> pd.DataFrame:
    """Check a manifest and bring its columns to the types of the contract.

    Raises
    ------
    EcmfError
        One line: the file, the first offending row, what was expected, how many rows share the fault.
    """
    import pandera.pandas as pa

    clips = clips.copy()
    for name in TEXT_COLUMNS:
        clips[name] = clips[name].astype("str") if name in clips else pd.Series([None] * len(clips), dtype="str")
    for name in NUMBER_COLUMNS:
        clips[name] = pd.to_numeric(clips.get(name, pd.Series(np.nan, index=clips.index)))
    try:
        return schema(labels).validate(clips, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        first = cases.iloc[0]
        row = "" if pd.isna(first["index"]) else f" row {int(first['index']) + 1},"
        raise EcmfError(
            f"{where}:{row} column {first['column']}: {first['failure_case']!r} breaks "
            f"'{first['check']}' ({len(cases)} such faults); mend the manifest and run again"
        ) from error


# ---- reading


def read_clips(profile: str) -> pd.DataFrame:
    """All clips of a profile, one row each, in the manifest's order.

    Parameters
    ----------
    profile : str
        Whose clips to read.

    Returns
    -------
    DataFrame
        The columns of `clips.parquet`.

    Raises
    ------
    EcmfError
        Notebook 00 has not run.
    """
    return read_parquet(data_dir(profile) / "clips.parquet", made_by=f"`ecmf run 00 --profile {profile}`")


def read_truth(profile: str) -> pd.DataFrame | None:
    """The known truth of a generated corpus, None for a real one. For analysis only, never for training."""
    path = data_dir(profile) / "truth.parquet"
    return read_parquet(path) if path.exists() else None


def read_folds(profile: str) -> pd.DataFrame:
    """The outer fold of each training clip.

    Parameters
    ----------
    profile : str
        Whose folds to read.

    Returns
    -------
    DataFrame
        Columns `clip_id` and `fold` (0, 1, …).

    Raises
    ------
    EcmfError
        There are none: nothing can be learned from this corpus, and why.
    """
    path = data_dir(profile) / "folds.parquet"
    folds = read_parquet(path, made_by=f"`ecmf run 00 --profile {profile}`")
    if not len(folds):
        why = read_json(data_dir(profile) / "corpus.json")["untrained"]
        raise EcmfError(f"{show(path)}: no clip has a fold, nothing can be learned from {profile}: {why}")
    return folds


# ---- splits and folds


def learnable(clips: pd.DataFrame) -> pd.DataFrame:
    """The clips that a model may learn from: usable, in the training split, with a label."""
    return clips[(clips["split"] == "train") & clips["label"].notna() & (clips["status"] == "ok")]


def why_untrained(clips: pd.DataFrame) -> str:
    """Why nothing can be learned from a corpus, whatever the settings; empty where something can."""
    train = learnable(clips)
    groups, classes = train["group"].nunique(), train["label"].nunique()
    if classes < 2:
        few = "no training clip has a label" if not classes else "all training clips have the same label"
        return f"{few}; at least 2 classes are needed"
    if groups < 2:
        return "all labelled training clips are of one group; at least 2 are needed to hold one out"
    return ""


def make_folds(clips: pd.DataFrame, n_folds: int, seed: int = 0) -> pd.DataFrame:
    """Stratified group folds of the labelled training clips; no group is ever on both sides.

    Parameters
    ----------
    clips : DataFrame
        A manifest with `split`, `label` and `group`.
    n_folds : int
        Number of outer folds.

    Returns
    -------
    DataFrame
        Columns `clip_id` and `fold` (0 … n_folds-1).

    Raises
    ------
    EcmfError
        Fewer groups than folds, or fewer than two classes to learn.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    train = learnable(clips)
    if why := why_untrained(clips):
        raise EcmfError(why)
    groups = train["group"].nunique()
    if groups < n_folds:
        raise EcmfError(
            f"{groups} groups among the training clips, but n_folds={n_folds}; "
            f"set n_folds to at most {groups} or give more groups"
        )
    largest = int(train["label"].value_counts().iloc[0])
    if largest < n_folds:
        raise EcmfError(
            f"{largest} training clips in the largest class, but n_folds={n_folds}; "
            "set n_folds lower or label more clips"
        )
    alone = groups == len(train)  # then grouping changes nothing, and costs a minute on 100,000 clips
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(n_folds, shuffle=True, random_state=seed)
    kept_together = None if alone else train["group"].to_numpy(object)
    parts = splitter.split(train, train["label"].to_numpy(object), kept_together)
    fold = np.empty(len(train), int)
    for number, (_, held_out) in enumerate(parts):
        fold[held_out] = number
    return pd.DataFrame({"clip_id": train["clip_id"].to_numpy(), "fold": fold})


def balanced_group_folds(clips: pd.DataFrame, n_folds: int) -> pd.DataFrame:
    """Group folds for a generated corpus, whose groups are equal by construction: groups dealt in turn."""
    train = clips[clips["split"] == "train"]
    order = {group: i % n_folds for i, group in enumerate(sorted(train["group"].unique()))}
    return pd.DataFrame({"clip_id": train["clip_id"].to_numpy(), "fold": train["group"].map(order).to_numpy()})


# ---- the whole


def save_clips(profile: str, clips: pd.DataFrame, labels: list[str], truth: pd.DataFrame | None = None) -> pd.DataFrame:
    """Validate and write `clips.parquet` (and `truth.parquet`) of a profile; returns the checked manifest."""
    clips = validate(clips, labels, show(data_dir(profile) / "clips.parquet"))
    for column in ("video", "audio"):  # relative inside the project, so that the folder can be moved
        clips[column] = clips[column].astype("str").str.removeprefix(f"{ROOT}{os.sep}")
    if truth is not None:
        write_parquet(truth, data_dir(profile) / "truth.parquet")
    write_parquet(clips, data_dir(profile) / "clips.parquet", {"labels": labels})
    return clips


def count_problems(clips: pd.DataFrame) -> pd.DataFrame:
    """How often each problem occurs: columns `problem`, `meaning`, `clips`."""
    codes = clips["problem"].dropna().str.split(";").explode()
    counts = codes.value_counts()
    return pd.DataFrame(
        {
            "problem": counts.index,
            "meaning": [PROBLEMS.get(c, "") for c in counts.index],
            "clips": counts.to_numpy(),
        }
    )
