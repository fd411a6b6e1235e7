"""The manifest of a corpus: one row per clip, checked, with its splits and folds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from . import media
from .media import MediaError, probe, read_audio
from .paths import EcmfError, data_dir, digest, file_hash, read_parquet, show, write_parquet
from .workers import parallel_map

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
        clips[name] = (
            clips[name].astype("str") if name in clips else pd.Series([None] * len(clips), dtype="str")
        )
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
    """All clips of a profile, one row each, in the manifest's order."""
    return read_parquet(data_dir(profile) / "clips.parquet", made_by=f"`ecmf run 00 --profile {profile}`")


def read_truth(profile: str) -> pd.DataFrame | None:
    """The known truth of a generated corpus, None for a real one. For analysis only, never for training."""
    path = data_dir(profile) / "truth.parquet"
    return read_parquet(path) if path.exists() else None


def read_folds(profile: str) -> pd.DataFrame:
    """The outer fold of each training clip: columns `clip_id`, `fold`."""
    return read_parquet(data_dir(profile) / "folds.parquet", made_by=f"`ecmf run 00 --profile {profile}`")


# ---- building


def probe_all(clips: pd.DataFrame, n_workers: int = 0) -> pd.DataFrame:
    """Fill the media columns of a manifest from the files, in worker processes.

    Nothing raises for a single clip: `status` and `problem` say what was wrong with it.
    """
    jobs = clips.to_dict("records")
    facts = list(parallel_map(_probe_row, jobs, n_workers, chunk=8))
    known = pd.DataFrame(facts, index=clips.index)
    return clips.drop(columns=[c for c in known if c in clips]).join(known)


def _probe_row(row: dict[str, Any]) -> dict[str, Any]:
    text = (row["text"].strip() or None) if isinstance(row.get("text"), str) else None
    problems = [row["problem"]] if isinstance(row.get("problem"), str) else []
    made: dict[str, Any] = dict.fromkeys(NUMBER_COLUMNS) | {"audio": None, "content_hash": None}
    made["detail"] = row.get("detail") if isinstance(row.get("detail"), str) else None
    status = "failed" if row.get("status") == "failed" else "ok"
    if status == "ok":
        try:
            made |= _media_facts(row["video"], row.get("audio"), problems)
        except MediaError as error:
            status, made["detail"] = "failed", str(error)
            problems.append(error.code)
    if not text and "bad_encoding" not in problems:
        problems.append("empty_text")
    return made | {"text": text, "status": status, "problem": ";".join(problems) or None}


def _media_facts(video: Any, audio: Any, problems: list[str]) -> dict[str, Any]:
    if not isinstance(video, str):
        raise MediaError("missing_file", "(no path)")
    info = probe(video)
    facts = {name: info.get(name) for name in NUMBER_COLUMNS} | {
        "content_hash": file_hash(media.resolve(video))
    }
    if not info["has_video"]:
        problems.append("no_video_stream")
    elif info.get("n_frames") == 1:
        problems.append("one_frame")
    sound = audio if isinstance(audio, str) else video  # a corpus may keep its sound in files of its own
    if sound != video:
        facts["content_hash"] = digest(facts["content_hash"], file_hash(media.resolve(sound)))
    problem = _sound_problem(sound)
    if problem:
        problems.append(problem)
    return facts | {"audio": sound if problem in (None, "silent_sound") else None}


def _sound_problem(video: str) -> str | None:
    try:
        peak = float(np.abs(read_audio(video)).max(initial=0.0))
    except MediaError as error:
        return error.code
    return "silent_sound" if peak < media.SILENCE else None


# ---- splits and folds


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
    from sklearn.model_selection import StratifiedGroupKFold

    train = clips[(clips["split"] == "train") & clips["label"].notna() & (clips["status"] == "ok")]
    groups, classes = train["group"].nunique(), train["label"].nunique()
    if groups < n_folds:
        raise EcmfError(
            f"{groups} groups among the training clips, but n_folds={n_folds}; "
            f"set n_folds to at most {max(groups, 2)} or give more groups"
        )
    if classes < 2:
        raise EcmfError(f"{classes} class among the training labels; at least two are needed to learn")
    largest = int(train["label"].value_counts().iloc[0])
    if largest < n_folds:
        raise EcmfError(
            f"{largest} training clips in the largest class, but n_folds={n_folds}; "
            "set n_folds lower or label more clips"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    parts = splitter.split(train, train["label"].to_numpy(object), train["group"].to_numpy(object))
    fold = np.empty(len(train), int)
    for number, (_, held_out) in enumerate(parts):
        fold[held_out] = number
    return pd.DataFrame({"clip_id": train["clip_id"].to_numpy(), "fold": fold})


def balanced_group_folds(clips: pd.DataFrame, n_folds: int) -> pd.DataFrame:
    """Group folds for a generated corpus, whose groups are equal by construction: groups dealt in turn."""
    train = clips[clips["split"] == "train"]
    order = {group: i % n_folds for i, group in enumerate(sorted(train["group"].unique()))}
    return pd.DataFrame(
        {"clip_id": train["clip_id"].to_numpy(), "fold": train["group"].map(order).to_numpy()}
    )


# ---- the whole


def save(
    profile: str, clips: pd.DataFrame, labels: list[str], truth: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Validate and write `clips.parquet` (and `truth.parquet`) of a profile; returns the checked manifest."""
    clips = validate(clips, labels, show(data_dir(profile) / "clips.parquet"))
    for column in (
        "video",
        "audio",
    ):  # relative inside the project, so that the folder can be moved
        clips[column] = [show(path) if isinstance(path, str) else None for path in clips[column]]
    if truth is not None:
        write_parquet(truth, data_dir(profile) / "truth.parquet")
    write_parquet(clips, data_dir(profile) / "clips.parquet", {"labels": labels})
    return clips


def problem_counts(clips: pd.DataFrame) -> pd.DataFrame:
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
