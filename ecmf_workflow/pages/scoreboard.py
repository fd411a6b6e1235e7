"""Score rows as the index shows them: tables, a forest plot, one key figure."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ecmf_utils.files import data_uri
from ecmf_utils.metrics import OURS, SEARCHED
from ecmf_workflow.results import COST_KEYS

# the first that exists is shown open: test clips and known truth say most
TABLES = (("test", "truth"), ("test", "observed"), ("oof", "truth"), ("oof", "observed"))
COST = "Parameters are those of one fit, seconds those of all fits, one after another."
WHAT = "Weighted F1 of the mean probabilities over folds and seeds; rows in its order."
SINGLE = (
    f"{WHAT} The interval draws groups or speakers (clips, where there are few) and takes the trainings as they are. "
    f"Not for comparing models, which see the same clips: 51 has their paired differences. {COST}"
)
POOLED = f"Means over the corpora, with a t-interval over them. {WHAT} {COST} Of both the median over corpora."
ONCE = {"corpora": "corpora", "n": "clips"}  # columns that are said above the table where all rows agree
PARTS = {
    "attention": "self-attention", "residual": "residual connections", "auxiliary": "auxiliary heads",
    "weighting": "dynamic weights", "branch_dropout": "branch dropout",
}  # fmt: skip
MODELS = {
    "ecmf": "self-attention over branch tokens, residual connections, dynamic weights (arXiv 2508.05991)",
    "majority": "the distribution of the training labels, whatever the clip",
    "logreg": "logistic regression on all branches side by side",
    "late": "late fusion: one logistic regression a branch, their mean probability",
    "stacked": "stacked late fusion: a logistic regression on what one regression a branch says (Wolpert 1992)",
    "concat": "early fusion: all branches side by side through a multi-layer perceptron",
    "attention": "the attention model of the official MER2025 toolkit, re-implemented; not ECMF's self-attention",
    "tfn": "Tensor Fusion Network (Zadeh et al. 2017)",
    "lmf": "Low-rank Multimodal Fusion (Liu et al. 2018)",
    "misa": "modality-invariant and -specific representations (Hazarika et al. 2020)",
    "mmim": "MultiModal InfoMax (Han et al. 2021)",
    "experts": "a mixture of branch experts, weighed by a router",
    "ef_lstm": "early fusion over time: one LSTM on all branches, step by step",
    "mfn": "Memory Fusion Network, on sequences (Zadeh et al. 2018)",
    "graph_mfn": "Graph Memory Fusion Network, on sequences (Zadeh et al. 2018)",
    "mult": "Multimodal Transformer, on sequences (Tsai et al. 2019)",
}
NAMES = {
    SEARCHED: "ends the name of a model whose settings were searched on inner folds of every outer fold",
    "-no-": "ECMF trained without that part",
    "given, refined": "the labels that a model was trained on: the annotators', or those that notebook 40 made of them",
    "text, context": "branches: the transcript, and what a language model read into it",
}
LABELS = ("given", "refined", "truth")  # that a model was trained on, in the order shown
SPLIT_WORDS = {"test": "Test clips", "oof": "Training clips, out-of-fold"}
TRUTH_WORDS = {"truth": "the known truth", "observed": "the labels as given"}


def score_card(scores: list[dict[str, Any]]) -> list[dict[str, str]]:
    """ECMF as the paper trains it, on refined labels; never the better of two test scores."""
    tables = score_tables(scores)
    ours = [row for row in tables[0]["scores"] if row["model"] == OURS] if tables else []
    if not ours:
        return []
    chosen = max(ours, key=lambda row: (len(row["branches"]), row["labels"] == "refined"))
    scored = f"{SPLIT_WORDS[chosen['split']].lower()}, scored on {TRUTH_WORDS[chosen['scored_on']]}"
    where = f"{scored}; trained on {chosen['labels']} labels"
    note = f"{where}; 95 % interval {_interval(chosen)}"
    note += f"; {chosen['corpora']} corpora, {chosen['n']} clips" if "corpora" in chosen else ""
    return [{"value": _number(chosen["weighted_f1"]), "title": "weighted F1 of ECMF", "note": note}]


def glossary(scores: list[dict[str, Any]]) -> dict[str, str]:
    """What the names in the score tables mean, as far as they are known here."""
    names = {row["model"].removesuffix(SEARCHED).partition("-no-")[0] for row in scores}
    found = {name: meaning for name, meaning in MODELS.items() if name in names}
    return found | {name: meaning for name, meaning in NAMES.items() if found and _is_used(name, scores)}


def _is_used(name: str, scores: list[dict[str, Any]]) -> bool:
    words = {word for row in scores for word in (row["labels"], *row["branches"])}
    return any(name in row["model"] for row in scores) or bool(words.intersection(name.split(", ")))


def score_tables(scores: list[dict[str, Any]], pooled: bool = False) -> list[dict[str, Any]]:
    """One table per split and kind of truth, the most telling first."""
    explained, tables = POOLED if pooled else SINGLE, []
    for split, truth in TABLES:
        rows = [row for row in scores if (row["split"], row["scored_on"]) == (split, truth)]
        if not rows:
            continue
        rows.sort(key=lambda row: -(row["weighted_f1"] or 0))
        same = {key: rows[0][key] for key in ONCE if key in rows[0] and len({row[key] for row in rows}) == 1}
        said = " ".join([", ".join(f"{value} {ONCE[key]}" for key, value in same.items()) + "."] if same else [])
        columns = [key for key in ONCE if key in rows[0] and key not in same]
        about = {"title": _title((split, truth)), "explained": f"{said} {explained}".strip(), "columns": columns}
        tables.append(about | {"scores": rows, "rows": _score_rows(rows)})
    return tables


def _score_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    whole, shown = _whole(rows), []
    for row in rows:
        figures = {key: _number(row[key]) for key in ("weighted_f1", "accuracy", "macro_f1")}
        extra = {"interval": _interval(row), "branches": _named(row["branches"], whole)}
        extra |= {key: f"{round(row[key]):,}" if row.get(key) is not None else "–" for key in COST_KEYS}
        shown.append({**row, **figures, **extra})
    return shown


def difference_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """ECMF against itself without a part (`parts`, in the order of the paper's ablation) and other models (`others`).

    `holm` is p corrected for the number of rows. Of the first kind of truth that has any, as `TABLES` orders them;
    `title` names it.
    """
    from ecmf_utils.metrics import holm  # it brings SciPy's statistics, which few pages need

    grouped = {kind: [row for row in rows if (row["split"], row["scored_on"]) == kind] for kind in TABLES}
    kind = next((kind for kind, some in grouped.items() if some), TABLES[0])
    whole = _whole(grouped[kind])
    rows = [{**row, "part": _part(row, whole)} for row in grouped[kind]]
    found = {
        "parts": sorted((row for row in rows if row["part"]), key=lambda row: _step(row, whole)),
        "others": sorted((row for row in rows if not row["part"]), key=lambda row: (_rank(row), row["difference"])),
    }
    for name, some in found.items():
        found[name] = [_difference_row(row, whole) for row in some]
        tested = [row for row in found[name] if row.get("p") is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["holm"] = f"{p:.3f}" if p >= 0.0005 else "< 0.001"
    return found | {"title": _title(kind)}


def _title(kind: tuple[str, str]) -> str:
    return f"{SPLIT_WORDS[kind[0]]}, scored on {TRUTH_WORDS[kind[1]]}"


def _difference_row(row: dict[str, Any], whole: list[str]) -> dict[str, Any]:
    ours = row["ours"] + (", settings searched" if row["model"].endswith(SEARCHED) else "")
    shown = {"interval": _interval(row, "+.3f"), "holm": "–", "branches": _named(row["branches"], whole), "ours": ours}
    return {**row, **shown, "difference": f"{row['difference']:+.3f}"}


def _part(row: dict[str, Any], whole: list[str]) -> str:
    """What the other row lacks, where it is ECMF without something."""
    model, _, switch = row["model"].partition("-no-")
    lacking = _lacking(row["branches"], whole)
    if model != OURS or (not switch and not lacking and row["labels"] == row["ours"]):
        return ""
    if lacking:
        return f"{', '.join(lacking)} ({'branch' if len(lacking) == 1 else 'branches'})"
    return PARTS.get(switch, switch) or f"{row['ours']} instead of {row['labels']} labels"


def _step(row: dict[str, Any], whole: list[str]) -> tuple[int, ...]:
    """Where a part stands in the paper's ablation: branches that come in, each branch, switches, labels."""
    lacking = _lacking(row["branches"], whole)
    if lacking:
        return 0, -len(lacking), whole.index(lacking[0])
    switch = row["model"].partition("-no-")[2]
    return 1, (*PARTS, switch).index(switch) if switch else len(PARTS) + 1


def _whole(rows: list[dict[str, Any]]) -> list[str]:
    """The longest list of branches: all of them."""
    return max((row["branches"] for row in rows), key=len, default=[])


def _lacking(branches: list[str], whole: list[str]) -> list[str]:
    return [branch for branch in whole if branch not in branches]


def _named(branches: list[str], whole: list[str]) -> str:
    lacking = _lacking(branches, whole)
    if not lacking:
        return "all"
    return f"all but {lacking[0]}" if len(lacking) == 1 < len(branches) else ", ".join(branches)


def _rank(row: dict[str, Any]) -> int:
    return LABELS.index(row["labels"]) if row["labels"] in LABELS else len(LABELS)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any], style: str = ".3f") -> str:
    low, high = row["ci95"] or (None, None)
    return "–" if low is None else f"{low:{style}} to {high:{style}}"


def forest(rows: list[dict[str, Any]]) -> str:
    """A forest plot of the rows of one table, as an inline picture."""
    from ecmf_utils import plots
    from ecmf_utils.plots import theme

    rows = sorted(rows, key=_rank)  # so that a colour means the same in every report
    whole = _whole(rows)
    frame = pd.DataFrame([_forest_row(row, whole) for row in rows]).dropna(subset="weighted_f1")
    theme.set_theme()
    return data_uri(plots.scores_forest(frame).image_bytes(), "image/png")


def _forest_row(row: dict[str, Any], whole: list[str]) -> dict[str, Any]:
    named = _named(row["branches"], whole)
    some = "" if named == "all" else f": {named}"
    low, high = row["ci95"] or (row["weighted_f1"], row["weighted_f1"])
    group = f"trained on {row['labels']} labels"
    figures = {"weighted_f1": row["weighted_f1"], "low": low, "high": high}
    return {"model": row["model"] + some, **figures, "group": group}
