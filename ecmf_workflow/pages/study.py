"""Several corpora at once: scores and paired differences with intervals over the corpora."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from ecmf_utils.files import read_json, reports_dir
from ecmf_utils.metrics import OURS, SEARCHED
from ecmf_workflow.results import CLIP_KEYS, COST_KEYS, SCHEMA_VERSION, SEED_KEYS, finite, identity


def read_members(members: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`results.json` of the members that have one."""
    paths = {name: reports_dir(name) / "results.json" for name in members}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def pool(profile: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`results.json` of a study: sums over its corpora, and scores as means over them."""
    parts = list(found.values())
    commits = sorted({str(part["commit"]) for part in parts if part.get("commit")})
    pooled = {
        "schema_version": SCHEMA_VERSION,
        "profile": profile,
        "members": list(found),
        "commit": commits[0] if len(commits) == 1 else None,
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "labelled": True,
        "clips": {key: sum(part["clips"][key] for part in parts) for key in CLIP_KEYS},
        "notebooks": [
            {**notebook, "name": f"{name}/{notebook['name']}", "html": _from_here(name, notebook)}
            for name, part in found.items()
            for notebook in part["notebooks"]
        ],
        "scores": _pooled_scores(parts),
        "differences": differences(parts),
    }
    return finite(pooled)


def _from_here(member: str, notebook: dict[str, Any]) -> str | None:
    return f"../{member}/{notebook['html']}" if notebook["html"] else None


def _scored(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a corpus that have a score; of two about the same the later."""
    return list({identity(row): row for row in part["scores"] if row["weighted_f1"] is not None}.values())


def _pooled_scores(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in (row for part in parts for row in _scored(part)):
        grouped.setdefault(identity(row), []).append(row)
    pooled = []
    for rows in grouped.values():
        figures = {key: mean_interval([row[key] for row in rows])[0] for key in ("weighted_f1", "accuracy", "macro_f1")}
        interval = mean_interval([row["weighted_f1"] for row in rows])[1]
        interval = interval and [max(interval[0], 0.0), min(interval[1], 1.0)]  # a score lies in between
        n = sum(row["n"] for row in rows)
        known = [key for key in COST_KEYS if all(row.get(key) is not None for row in rows)]
        figures |= {key: round(median(row[key] for row in rows)) for key in known}  # a busy machine spoils a mean
        about = {key: value for key, value in rows[0].items() if key not in (*COST_KEYS, *SEED_KEYS)}
        pooled.append({**about, **figures, "ci95": interval, "n": n, "corpora": len(rows)})
    return pooled


def differences(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ECMF minus every other row on the same clips of the same corpus, averaged over the corpora.

    Returns
    -------
    list of dict
        What the other row is about, `ours` (the labels ECMF was trained on), difference (weighted
        F1), ci95 ([low, high], a t-interval over corpora, or None), p (of that t-test, two-sided, or
        None) and the number of corpora.
    """
    grouped: dict[tuple[str, ...], list[float]] = {}
    for part in parts:
        scores = _scored(part)
        whole = max((len(row["branches"]) for row in scores), default=0)
        for ours in (r for r in scores if _plain(r) == OURS and len(r["branches"]) == whole):
            for row in scores:
                if row is not ours and _comparable(ours, row):
                    key = (*identity(row), ours["labels"])
                    grouped.setdefault(key, []).append(ours["weighted_f1"] - row["weighted_f1"])
    found = []
    for (model, branches, labels, split, scored_on, own), values in grouped.items():
        mean, interval = mean_interval(values)
        about = {"model": model, "branches": branches.split("+"), "labels": labels, "split": split}
        figures = {"difference": mean, "ci95": interval, "p": p_value(values), "corpora": len(values)}
        found.append({**about, "scored_on": scored_on, "ours": own, **figures})
    return found


def _comparable(ours: dict[str, Any], row: dict[str, Any]) -> bool:
    """Same clips and truth, both searched or none; same training labels, or ECMF itself without the refined ones."""
    same = (row["split"], row["scored_on"]) == (ours["split"], ours["scored_on"])
    same &= row["model"].endswith(SEARCHED) == ours["model"].endswith(SEARCHED)
    refined = ours["labels"] == "refined" and row["model"] == OURS
    return same and (row["labels"] == ours["labels"] or refined)


def _plain(row: dict[str, Any]) -> str:
    return row["model"].removesuffix(SEARCHED)


def mean_interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """Mean over corpora and its 95 % t-interval (None for a single corpus)."""
    from scipy.stats import t

    n = len(values)
    if n == 0 or None in values:
        return math.nan, None
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean, [mean - half, mean + half]


def p_value(values: Sequence[float]) -> float | None:
    """Two-sided t-test that the mean over corpora is 0; None for a single corpus."""
    from scipy.stats import ttest_1samp

    if len(values) < 2 or None in values:
        return None
    if max(values) - min(values) < 1e-9:  # no spread at all: nothing to test with
        return 1.0 if values[0] == 0 else None
    return float(ttest_1samp(values, 0.0).pvalue)
