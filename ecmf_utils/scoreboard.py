"""Score rows as the index shows them: tables, a forest plot, one key figure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .markup import data_uri

# the first that exists is shown open: test clips and known truth say most
TABLES = (("test", "truth"), ("test", "observed"), ("oof", "truth"), ("oof", "observed"))
SINGLE = "Ordered by weighted F1. One corpus and overlapping intervals do not tell models apart."
POOLED = "Means over the corpora, with a t-interval over them, ordered by weighted F1."
LABELS = ("given", "refined", "truth")  # that a model was trained on, in the order shown
SPLIT_WORDS = {"test": "Test clips", "oof": "Training clips, out-of-fold"}
TRUTH_WORDS = {"truth": "the known truth", "observed": "the labels as given"}


def score_card(scores: list[dict[str, Any]]) -> list[dict[str, str]]:
    """ECMF as the paper trains it, on refined labels; never the better of two test scores."""
    tables = score_tables(scores)
    ours = [row for row in tables[0]["scores"] if row["model"] == "ecmf"] if tables else []
    if not ours:
        return []
    chosen = max(ours, key=lambda row: (len(row["branches"]), row["labels"] == "refined"))
    where = f"{SPLIT_WORDS[chosen['split']].lower()}, {chosen['labels']} labels"
    note = f"{where}; 95 % interval {_interval(chosen)}"
    return [{"value": _number(chosen["weighted_f1"]), "title": "weighted F1 of ECMF", "note": note}]


def score_tables(scores: list[dict[str, Any]], pooled: bool = False) -> list[dict[str, Any]]:
    """One table per split and kind of truth, the most telling first."""
    explained, tables = POOLED if pooled else SINGLE, []
    for split, truth in TABLES:
        rows = [row for row in scores if (row["split"], row["scored_on"]) == (split, truth)]
        if not rows:
            continue
        rows.sort(key=lambda row: -(row["weighted_f1"] or 0))
        title = f"{SPLIT_WORDS[split]}, scored on {TRUTH_WORDS[truth]}"
        tables.append(
            {"title": title, "explained": explained, "scores": rows, "rows": _score_rows(rows)}
        )
    return tables


def _score_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = max((row["weighted_f1"] or 0 for row in rows), default=0)
    shown = []
    for row in rows:
        figures = {key: _number(row[key]) for key in ("weighted_f1", "accuracy", "macro_f1")}
        extra = {"interval": _interval(row), "branches": ", ".join(row["branches"])}
        shown.append({**row, **figures, **extra, "best": row["weighted_f1"] == best})
    return shown


def difference_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the first kind of truth that has any, as `TABLES` orders them."""
    for kind in TABLES:
        chosen = [row for row in rows if (row["split"], row["scored_on"]) == kind]
        if chosen:
            chosen.sort(key=lambda row: (_rank(row), row["difference"]))
            return [_difference_row(row) for row in chosen]
    return []


def _difference_row(row: dict[str, Any]) -> dict[str, Any]:
    shown = {"interval": _interval(row, "+.3f"), "branches": ", ".join(row["branches"])}
    return {**row, **shown, "difference": f"{row['difference']:+.3f}"}


def _rank(row: dict[str, Any]) -> int:
    return LABELS.index(row["labels"]) if row["labels"] in LABELS else len(LABELS)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any], style: str = ".3f") -> str:
    low, high = row["ci95"] or (None, None)
    return "–" if low is None else f"{low:{style}} to {high:{style}}"


def forest(rows: list[dict[str, Any]]) -> str:
    """A forest plot of the rows of one table, as an inline picture."""
    from . import plots

    rows = sorted(rows, key=_rank)  # so that a colour means the same in every report
    most = max(len(row["branches"]) for row in rows)
    frame = pd.DataFrame([_forest_row(row, most) for row in rows]).dropna(subset="weighted_f1")
    plots.set_theme()
    return data_uri(plots.scores_forest(frame).image_bytes(), "image/png")


def _forest_row(row: dict[str, Any], most: int) -> dict[str, Any]:
    some = f": {' + '.join(row['branches'])}" if len(row["branches"]) < most else ""
    low, high = row["ci95"] or (row["weighted_f1"], row["weighted_f1"])
    group = f"trained on {row['labels']} labels"
    figures = {"weighted_f1": row["weighted_f1"], "low": low, "high": high}
    return {"model": row["model"] + some, **figures, "group": group}
