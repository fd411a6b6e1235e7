"""Label refinement from several sources, nested in the outer folds so that nothing leaks.

Sources: the given label, one out-of-fold softmax regression per branch, and the language model's
distribution. `votes` weighs them and says which given labels to doubt. The truth is never an
argument. This module also writes and reads `labels/refined.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils import corpus, enrichment
from ecmf_utils.features import Features, load as load_features, take_clips
from ecmf_utils.files import EcmfError, data_dir, named, read_parquet, write_parquet
from ecmf_utils.models.linear import EXTRA, Scaler, out_of_fold, softmax_regression, training_rows

from .votes import confident_learning, fuse, normalised

NONE_HELD_OUT = -1  # `for_fold` of the rows made with every labelled clip
PSEUDO_WEIGHT = 0.5  # a pseudo-label never counts as much as a person's


def refine(profile: str, branches: Sequence[str], labels: Sequence[str], **settings: Any) -> pd.DataFrame:
    """Refine the training labels of a profile, for the training set of every outer fold.

    The sources are the given labels, one model for each branch and, where `context` is among the branches,
    the answers of the language model. Nothing is written; see `save`.

    Parameters
    ----------
    profile : str
        Whose clips, folds and features to use.
    branches : sequence of str
        Branches that become sources, one model each.
    labels : sequence of str
        Names of the C classes.
    **settings
        `n_inner`, `change_at`, `drop_below`, `pseudo_at` and `seed` of `refine_clips`.

    Returns
    -------
    DataFrame
        The table of `refine_clips`.

    Raises
    ------
    EcmfError
        The features or the answers of a clip are missing, or a training clip has no label.
    """
    clips = corpus.read_clips(profile).set_index("clip_id")
    folds = corpus.read_folds(profile).set_index("clip_id")["fold"]
    clips = clips.loc[[*folds.index, *clips.index[clips["split"] == "unlabelled"]]]
    vectors = load_features(profile, list(branches), clip_ids=list(clips.index))
    number = {label: i for i, label in enumerate(labels)}
    given = clips["label"].map(number).fillna(-1).astype(int).to_numpy()
    fold = folds.reindex(clips.index).fillna(EXTRA).astype(int).to_numpy()
    enriched = "context" in [named(branch)[0] for branch in branches]
    llm = enrichment.read_distributions(profile, clips, list(labels)) if enriched else None
    return refine_clips(vectors, given, fold, clips["group"].to_numpy(object), llm, labels, **settings)


def save(profile: str, refined: pd.DataFrame, labels: Sequence[str], **settings: Any) -> Path:
    """Write refined labels to `data/<profile>/labels/refined.parquet`.

    Parameters
    ----------
    profile : str
        Whose labels they are.
    refined : DataFrame
        The table of `refine`.
    labels : sequence of str
        Names of the classes; they go into the header of the file.
    **settings
        Those that `refine` was called with; they go into the header, too.

    Returns
    -------
    Path
        The file.
    """
    return write_parquet(refined, _path(profile), {"labels": list(labels), **settings})


def read(profile: str) -> pd.DataFrame:
    """Read the refined labels that `save` has written.

    Parameters
    ----------
    profile : str
        Whose labels to read.

    Returns
    -------
    DataFrame
        The table of `refine_clips`.

    Raises
    ------
    EcmfError
        Notebook 40 has not run, or the file is damaged.
    """
    return read_parquet(_path(profile), made_by=f"`ecmf run 40 --profile {profile}`")


def _path(profile: str) -> Path:
    return data_dir(profile) / "labels" / "refined.parquet"


def refine_clips(
    features: Features,
    given: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    llm: np.ndarray | None,
    labels: Sequence[str],
    *,
    n_inner: int = 4,
    change_at: float = 0.8,
    drop_below: float = 0.0,
    pseudo_at: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Refine the labels of clips, for the training set of every outer fold.

    Parameters
    ----------
    features : Features
        Labelled training clips and, if any, unlabelled ones.
    given : int array, shape (N,)
        Index of the given label; -1 where there is none.
    folds : int array, shape (N,)
        Outer fold of labelled clips (0, 1, …); -2 for unlabelled ones.
    groups : array, shape (N,)
        Speakers or sources; inner folds never cross them.
    llm : float array, shape (N, C), or None
        The language model's distribution; NaN rows where it gave none.
    labels : sequence of str
        Names of the C classes.
    n_inner : int
        Inner folds of the source models.
    change_at : float
        Confidence needed to change a label.
    drop_below : float
        A label less confident than this is dropped (weight 0); 0: never.
    pseudo_at : float
        Confidence needed to give an unlabelled clip a label; above 1: never.
    seed : int
        Of the inner folds.

    Returns
    -------
    DataFrame
        One row per `clip_id` and `for_fold`. Rows of `for_fold` k were made without any clip of
        fold k, and are to train the model that is scored on fold k; -1: no fold held out. `given`
        and `refined` (label or None), `confidence` (0-1, of the refined label), `action` (kept,
        changed, weighted, dropped, added), `weight` for training, `why`, the fused distribution
        `p_<label>`, and every source's `s_<source>_<label>` (null where it is silent). Unlabelled
        clips below `pseudo_at` have no row.

    Raises
    ------
    EcmfError
        The arrays are not of one length, or a clip with a fold has no label.
    """
    given, folds, groups = (np.asarray(v) for v in (given, folds, groups))
    llm = None if llm is None else np.asarray(llm, float)
    _check(features, given, folds, groups, llm, labels)
    thresholds = {"change_at": change_at, "drop_below": drop_below, "pseudo_at": pseudo_at}
    parts = []
    for fold in [NONE_HELD_OUT, *sorted({int(f) for f in folds if f >= 0})]:
        rows = training_rows(folds, groups, fold)
        answers = None if llm is None else llm[rows]
        opinions = sources(take_clips(features, rows), given[rows], groups[rows], answers, len(labels), n_inner, seed)
        table = decide(opinions, given[rows], labels, **thresholds)
        table.insert(0, "clip_id", [features.clip_ids[i] for i in rows])
        table.insert(1, "for_fold", fold)
        parts.append(table[table["action"] != ""])
    return pd.concat(parts, ignore_index=True)


def sources(
    features: Features,
    given: np.ndarray,
    groups: np.ndarray,
    llm: np.ndarray | None,
    n_classes: int,
    n_inner: int = 4,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Every source's distribution (N, C) for the clips given, NaN rows where it is silent.

    The branches' are out-of-fold over inner group folds for labelled clips, and from a model of all
    labelled clips for the others. `given` is one-hot.
    """
    targets = np.eye(n_classes)[np.maximum(given, 0)]
    found = {"given": np.where(given[:, None] >= 0, targets, np.nan)}
    labelled = np.flatnonzero(given >= 0)
    scaled = Scaler().fit(features, labelled, list(features.x)).apply(features)
    for branch, x in scaled.items():
        there = np.asarray(features.present[branch], bool)
        found[branch] = _opinions(x, there, given >= 0, targets, groups, n_inner, seed)
    if llm is not None:
        found["llm"] = llm
    return found


def decide(
    found: dict[str, np.ndarray],
    given: np.ndarray,
    labels: Sequence[str],
    *,
    change_at: float,
    drop_below: float,
    pseudo_at: float,
) -> pd.DataFrame:
    """Label, confidence, action, weight and reason for every clip; action "" where none."""
    posterior, without, _ = fuse(found)
    doubted = confident_learning(without, given)
    best, top = posterior.argmax(1), posterior.max(1)
    own = posterior[np.arange(len(given)), np.maximum(given, 0)]
    changed = (given >= 0) & doubted & (best != given) & (top >= change_at)
    added = (given < 0) & (top >= pseudo_at)
    refined = np.where(changed | added, best, given)
    confidence = np.where(changed | (given < 0), top, own)
    dropped = (given >= 0) & ~changed & (confidence < drop_below)
    weighted = (given >= 0) & ~changed & ~dropped & (doubted | (best != given))
    action = np.select(
        [changed, added, dropped, weighted, given >= 0],
        ["changed", "added", "dropped", "weighted", "kept"],
        "",
    )
    weight = np.select(  # a doubted label keeps half its say: most doubted labels are right
        [action == "kept", action == "weighted", action == "changed", action == "added"],
        [1.0, (1 + confidence) / 2, confidence, PSEUDO_WEIGHT * confidence],
        0.0,
    )
    votes = {name: p for name, p in found.items() if name != "given"}
    names = [*labels, None]
    table = pd.DataFrame(
        {
            "given": pd.Series([names[i] if i >= 0 else None for i in given], dtype=object),
            "refined": pd.Series(
                [None if d or r < 0 else names[r] for r, d in zip(refined, dropped, strict=True)],
                dtype=object,
            ),
            "confidence": confidence,
            "action": action,
            "weight": weight,
            "why": [_why(i, votes, action[i], given[i], best[i], posterior[i], labels) for i in range(len(given))],
        }
    )
    shown = {"p": posterior, **{f"s_{name}": p for name, p in found.items()}}
    wide = [pd.DataFrame(p, columns=[f"{key}_{label}" for label in labels]) for key, p in shown.items()]
    return pd.concat([table, *wide], axis=1)


def _opinions(x, there, labelled, targets, groups, n_inner: int, seed: int) -> np.ndarray:
    """Probabilities (N, C) of one branch; NaN where it is absent or nothing can be learnt."""
    proba = np.full(targets.shape, np.nan)
    learn, ask = np.flatnonzero(there & labelled), np.flatnonzero(there & ~labelled)
    if len(np.unique(groups[learn])) < 2:
        return proba
    ones = np.ones(len(learn))
    logits, strength = out_of_fold(x[learn], targets[learn], ones, groups[learn], n_inner, seed)
    proba[learn] = normalised(logits)
    if len(ask):
        model = softmax_regression(x[learn], targets[learn], ones, strength)
        proba[ask] = model.predict(x[ask])
    return proba


def _why(i: int, votes: dict, action: str, given: int, best: int, posterior, labels) -> str:
    spoke = {name: p[i] for name, p in votes.items() if np.isfinite(p[i, 0])}
    label = given if action in ("kept", "weighted", "dropped") else best
    said = [name for name, p in spoke.items() if p.argmax() == label]
    who = f" ({', '.join(said)})" if said else ""
    count = f"{len(said)} of {len(spoke)} sources say {labels[label]}{who}, p {posterior[label]:.2f}"
    doubt = f"confident learning doubts the given label {labels[max(given, 0)]}"
    instead = f"all together favour {labels[best]}, p {posterior[best]:.2f}"
    return {
        "kept": f"the given label stands: {count}",
        "changed": f"{count}; {doubt}, p {posterior[max(given, 0)]:.2f}",
        "weighted": f"{count}; {doubt if best == given else instead}, too little to change it",
        "dropped": f"{count}; {instead}: neither is sure enough",
        "added": f"no label was given; {count}",
    }.get(action, "")


def _check(features, given, folds, groups, llm, labels) -> None:
    n, c = len(features.clip_ids), len(labels)
    if {len(given), len(folds), len(groups), n if llm is None else len(llm)} != {n}:
        raise EcmfError(f"refinement: {n} clips need as many labels, folds, groups, distributions")
    if llm is not None and llm.shape[1] != c:
        raise EcmfError(f"refinement: llm has {llm.shape[1]} columns for {c} labels")
    known = given[folds >= 0]
    if not len(known) or known.min() < 0 or given.max() >= c:
        raise EcmfError(f"refinement: every clip with a fold needs one of the labels 0 to {c - 1}")
