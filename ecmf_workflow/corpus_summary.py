"""What a person wants to know of a corpus that was just built, as text for the terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ecmf_utils import corpus
from ecmf_utils.corpus.building import Corpus

SHOWN = 20  # rows of a table


def summary(made: Corpus) -> str:
    """Clips, labels, problems, what is shared, folds and findings of a corpus, each as a short table."""
    clips = made.clips
    by_split = clips.groupby("split").agg(
        clips=("clip_id", "count"),
        labelled=("label", "count"),
        groups=("group", "nunique"),
        speakers=("speaker", "nunique"),
        hours=("duration_s", lambda s: round(s.sum() / 3600, 3)),
        failed=("status", lambda s: int((s == "failed").sum())),
    )
    if not clips["duration_s"].notna().any():
        by_split = by_split.drop(columns="hours")
    parts = [("Clips", by_split)]
    if made.label_map["how"].ne("same").any():
        parts.append(("Labels: the corpus's own, and what they become", made.label_map.fillna("–").set_index("found")))
    if clips["label"].notna().any():
        parts.append(("Labels by split", pd.crosstab(clips["label"], clips["split"]).rename_axis(columns=None)))
    if len(problems := corpus.count_problems(clips)):
        parts.append(("Problems", problems.set_index("problem")))
    if len(made.shared):
        parts.append(("Shared across splits or folds", corpus.summarise_leaks(made.shared)))
    if len(made.folds):
        parts.append(("Folds", made.folds["fold"].value_counts().sort_index().to_frame("clips").T))
    text = "\n\n".join(f"{title}\n{_short(table)}" for title, table in parts)
    lines = made.findings.lines(quotes=True)  # a terminal is no page: it may show words of the corpus
    found = ["\nFindings", *(f"  {line}" for line in lines)] if lines else []
    unseen = int((clips["content_hash"].isna() & (clips["status"] == "ok") & clips["video"].notna()).sum())
    sample = [f"\nA sample only: the media of {unseen:,} of {len(clips):,} clips were not opened."] if unseen else []
    untrained = [f"\nNothing will be trained: {made.facts['untrained']}"] if made.facts["untrained"] else []
    return "\n".join([text, *_told(clips), *found, *sample, *untrained])


def _short(table: pd.DataFrame) -> str:
    """A table for the terminal: no more rows than one reads, no cell longer than one reads."""
    cut = table.rename(index=_clip).map(_clip) if len(table) else table
    more = f"\n… and {len(table) - SHOWN:,} more" if len(table) > SHOWN else ""
    return cut.head(SHOWN).to_string() + more


def _clip(value: Any, most: int = 60) -> Any:
    return f"{value[:most]}…" if isinstance(value, str) and len(value) > most else value


def _told(clips: pd.DataFrame, limit: int = 3) -> list[str]:
    """The clips behind each problem, the first few with what was wrong, and a sum."""
    troubled = clips[clips["problem"].notna()]
    codes = troubled["problem"].str.split(";").explode()
    lines = []
    for code, ids in codes.groupby(codes, sort=False):
        rows = troubled.loc[ids.index]
        for row in rows.head(limit).itertuples():
            detail = f": {_clip(row.detail, 300)}" if isinstance(row.detail, str) else ""
            lines.append(f"  {code}: clip {_clip(row.clip_id)}{detail}")
        lines += [f"  {code}: … and {len(rows) - limit:,} more"] if len(rows) > limit else []
    return ["\nClips with a problem", *lines] if lines else []
