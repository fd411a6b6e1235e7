"""The manifest of a corpus: one row for each clip, checked, with splits and folds."""

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
    "clip_id", "video", "audio", "text", "text_en", "language", "label", "split", "group", "speaker", "content_hash",
    "status", "problem",
)  # fmt: skip
NUMBER_COLUMNS = ("duration_s", "width", "height", "fps", "n_frames", "sample_rate")


# ---- writing


def save_clips(profile: str, clips: pd.DataFrame, labels: list[str], truth: pd.DataFrame | None = None) -> pd.DataFrame:
    """Check the manifest of a profile and write `clips.parquet` (and `truth.parquet`); returns it as written."""
    clips = validate(clips, labels, show(data_dir(profile) / "clips.parquet"))
    for column in ("video", "audio"):  # relative inside the project, so that the folder can be moved
        clips[column] = clips[column].astype("str").str.removeprefix(f"{ROOT}{os.sep}")
    if truth is not None:
        write_parquet(truth, data_dir(profile) / "truth.parquet")
    write_parquet(clips, data_dir(profile) / "clips.parquet", {"labels": labels})
    return clips


def validate(clips: pd.DataFrame, labels: list[str], where: str) -> pd.DataFrame:
    """Check a manifest, and give its columns the types that all readers expect.

    Parameters
    ----------
    clips : DataFrame
    labels : list of str
        The label set.
    where : str
        The file that an error names.

    Raises
    ------
    EcmfError
        One line: the file, the first bad row, what was expected, and how many rows are bad.
    """
    import pandera.pandas as pa

    clips = clips.copy()
    for name in TEXT_COLUMNS:
        clips[name] = clips[name].astype("str") if name in clips else pd.Series([None] * len(clips), dtype="str")
    for name in NUMBER_COLUMNS:
        clips[name] = pd.to_numeric(clips.get(name, pd.Series(np.nan, index=clips.index)))
    try:
        return _make_schema(labels).validate(clips, lazy=True)
    except pa.errors.SchemaErrors as error:
        faults = error.failure_cases
        first = faults.iloc[0]
        row = "" if pd.isna(first["index"]) else f" row {int(first['index']) + 1},"
        raise EcmfError(
            f"{where}:{row} column {first['column']}: {first['failure_case']!r} breaks "
            f"'{first['check']}' ({len(faults)} such faults); correct the manifest and run again"
        ) from error


def _make_schema(labels: list[str]) -> Any:
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


def count_problems(clips: pd.DataFrame) -> pd.DataFrame:
    """How often each problem occurs: columns `problem`, `meaning`, `clips`."""
    counts = clips["problem"].dropna().str.split(";").explode().value_counts()
    meanings = [media.PROBLEMS.get(code, "") for code in counts.index]
    return pd.DataFrame({"problem": counts.index, "meaning": meanings, "clips": counts.to_numpy()})


# ---- folds


def make_folds(clips: pd.DataFrame, n_folds: int, seed: int = 0) -> pd.DataFrame:
    """Stratified folds of the labelled training clips; all clips of a group are in the same fold.

    Parameters
    ----------
    clips : DataFrame
        A manifest with `split`, `label`, `group` and `status`.
    n_folds : int
        Number of outer folds.
    seed : int
        Of the shuffle.

    Returns
    -------
    DataFrame
        Columns `clip_id` and `fold` (0 … n_folds-1).

    Raises
    ------
    EcmfError
        There are fewer than two classes, fewer groups than folds, or no class with a clip for each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    # the clips that a model may learn from
    train = clips[(clips["split"] == "train") & clips["label"].notna() & (clips["status"] == "ok")]
    n_groups, n_classes = train["group"].nunique(), train["label"].nunique()
    if n_classes < 2:
        few = "no training clip has a label" if not n_classes else "all training clips have the same label"
        raise EcmfError(f"{few}; at least 2 classes are needed")
    if n_groups < 2:
        raise EcmfError("all labelled training clips are of one group; at least 2 are needed to hold one out")
    if n_groups < n_folds:
        raise EcmfError(
            f"{n_groups} groups among the training clips, but n_folds={n_folds}; "
            f"set n_folds to at most {n_groups} or give more groups"
        )
    largest = int(train["label"].value_counts().iloc[0])
    if largest < n_folds:
        raise EcmfError(
            f"{largest} training clips in the largest class, but n_folds={n_folds}; "
            "set n_folds lower or label more clips"
        )
    alone = n_groups == len(train)  # then groups change nothing, but they would cost a minute on 100,000 clips
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(n_folds, shuffle=True, random_state=seed)
    groups = None if alone else train["group"].to_numpy(object)
    fold = np.empty(len(train), int)
    for number, (_, held_out) in enumerate(splitter.split(train, train["label"].to_numpy(object), groups)):
        fold[held_out] = number
    return pd.DataFrame({"clip_id": train["clip_id"].to_numpy(), "fold": fold})


def deal_folds(clips: pd.DataFrame, n_folds: int) -> pd.DataFrame:
    """Folds of a generated corpus, whose groups are all alike: the groups are dealt in turn."""
    train = clips[clips["split"] == "train"]
    fold_of = {group: i % n_folds for i, group in enumerate(sorted(train["group"].unique()))}
    return pd.DataFrame({"clip_id": train["clip_id"].to_numpy(), "fold": train["group"].map(fold_of).to_numpy()})
