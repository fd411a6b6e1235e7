"""What clips of different splits or folds share, so that a score may be too good; such groups can be merged."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, digest

from .sound_prints import find_near_duplicates

KINDS = {
    "group": "the same group (speaker, source)",
    "content": "the same file, byte for byte",
    "transcript": "the same words",
    "sound": "the same recording, perhaps re-encoded or trimmed",
}
HIDDEN = ("transcript", "sound")  # the table has only a digest of what is shared
MERGEABLE = tuple(kind for kind in KINDS if kind != "group")
MIN_WORDS, MIN_HAN = 3, 4  # everybody says "oh really", so a shorter transcript links nothing
MAX_LISTED = 20  # clips that a row of the table names
HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # written without spaces
WORD = re.compile(r"\S*[^\W_]\S*")
COLUMNS = ("kind", "key", "n_clips", "clips", "splits", "folds", "groups")
Fingerprints = Mapping[str, bytes] | pd.Series | None


def find_leaks(
    clips: pd.DataFrame,
    folds: pd.DataFrame | None,
    fingerprints: Fingerprints = None,
    *,
    min_words: int = MIN_WORDS,
    min_han: int = MIN_HAN,
) -> pd.DataFrame:
    """Everything that clips of different splits, or of different folds, have in common.

    Not all of it is a fault: in some corpora all actors read the same few sentences, and people often say the
    same short things.

    Parameters
    ----------
    clips : DataFrame
        A manifest; rows with status failed are left out.
    folds : DataFrame, optional
        `clip_id` and `fold`.
    fingerprints : dict or Series of bytes by clip_id, optional
        Those of the sound.
    min_words, min_han : int
        A transcript counts when it has this many words, or this many Han and kana characters.

    Returns
    -------
    DataFrame
        One row for each thing that is shared: `kind` (one of KINDS), `key` (the name of the group or the hash of
        the file; for transcripts and sound a digest), `n_clips`, `clips` (at most 20 clip_ids), `splits`
        ("test+train"), `folds` ("0+2"; "" where there are none), `groups` (how many). The largest of each kind
        come first.
    """
    usable = _select_usable(clips)
    rows = []
    for kind in KINDS:
        codes, keys = _cluster(kind, usable, fingerprints, min_words, min_han)
        crossing = _list_crossing(kind, codes, keys, usable, folds)
        rows += sorted(crossing, key=lambda row: (-row["n_clips"], row["key"]))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({name: "str" for name in ("kind", "key", "splits", "folds")} | {"n_clips": int, "groups": int})


def summarise_leaks(shared: pd.DataFrame) -> pd.DataFrame:
    """How much is shared of each kind, also where nothing is.

    Parameters
    ----------
    shared : DataFrame
        The table of `find_leaks`.

    Returns
    -------
    DataFrame
        One row for each kind: `kind`, `meaning`, `clusters` (things that are shared), `clips`, and how many of
        the clusters are `across train/test`, `across folds`, and both in the unlabelled clips and in another
        split (`with unlabelled`).
    """
    rows = []
    for kind, meaning in KINDS.items():
        clusters = shared[shared["kind"] == kind]
        splits = [set(names.split("+")) for names in clusters["splits"]]
        counts = {"clusters": len(clusters), "clips": int(clusters["n_clips"].sum())}
        counts["across train/test"] = sum(names >= {"train", "test"} for names in splits)
        counts["across folds"] = sum("+" in names for names in clusters["folds"])
        counts["with unlabelled"] = sum("unlabelled" in names and len(names) > 1 for names in splits)
        rows.append({"kind": kind, "meaning": meaning, **counts})
    return pd.DataFrame(rows)


def merge_groups(
    clips: pd.DataFrame,
    kinds: Sequence[str],
    fingerprints: Fingerprints = None,
    *,
    min_words: int = MIN_WORDS,
    min_han: int = MIN_HAN,
) -> tuple[pd.DataFrame, int]:
    """Merge all groups whose clips share something, so that their clips come into the same fold.

    This has to be done before the folds are made. Splits stay as they are: an official test split keeps what it
    shares with the training clips, and `find_leaks` still reports it.

    Parameters
    ----------
    clips : DataFrame
        A manifest.
    kinds : sequence of str
        Some of "content", "transcript", "sound".
    fingerprints, min_words, min_han
        As for `find_leaks`.

    Returns
    -------
    clips : DataFrame
        With the merged `group`, which has the alphabetically first of the merged names.
    n_merged : int
        The number of groups that lost their name.

    Raises
    ------
    EcmfError
        A kind is unknown.
    """
    if wrong := [kind for kind in kinds if kind not in MERGEABLE]:
        raise EcmfError(f"merge_leaks: {wrong[0]!r} cannot be merged; expected some of {', '.join(MERGEABLE)}")
    usable = _select_usable(clips)
    clusters = [_cluster(kind, usable, fingerprints, min_words, min_han)[0] for kind in kinds]
    groups, names = pd.factorize(clips["group"].to_numpy(object), sort=True)
    group_of = groups[usable.index.to_numpy()]
    component = _find_components(len(names), [(group_of[codes >= 0], codes[codes >= 0]) for codes in clusters])
    first = pd.Series(np.arange(len(names))).groupby(component).transform("min").to_numpy()
    merged = np.append(names[first], None)[groups]  # the number of a missing group is -1: it takes the None
    return clips.assign(group=pd.array(merged, dtype="str")), int((first != np.arange(len(names))).sum())


# ---- which clips belong together


def _select_usable(clips: pd.DataFrame) -> pd.DataFrame:
    clips = clips.reset_index(drop=True)
    return clips[clips["status"] != "failed"] if "status" in clips else clips


def _list_crossing(
    kind: str, codes: np.ndarray, keys: np.ndarray, clips: pd.DataFrame, folds: pd.DataFrame | None
) -> Iterator[dict[str, Any]]:
    """A row for each cluster whose clips are in several splits or folds."""
    fold_of = {} if folds is None else dict(zip(folds["clip_id"], folds["fold"], strict=True))
    ids, splits, groups = (clips[name].to_numpy(object) for name in ("clip_id", "split", "group"))
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(members) < 2 or codes[members[0]] < 0:
            continue
        names = ids[members].tolist()
        in_splits = sorted(set(splits[members].tolist()))
        in_folds = sorted({fold_of[name] for name in names if name in fold_of})
        if len(in_splits) > 1 or len(in_folds) > 1:
            key = str(keys[codes[members[0]]])
            row = {"kind": kind, "key": digest(key) if kind in HIDDEN else key, "n_clips": len(names)}
            row |= {"clips": names[:MAX_LISTED], "splits": "+".join(in_splits), "folds": "+".join(map(str, in_folds))}
            yield row | {"groups": len(set(groups[members].tolist()))}


def _cluster(
    kind: str, clips: pd.DataFrame, fingerprints: Fingerprints, min_words: int, min_han: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each clip the number of the cluster that it is in, or -1; and the key of each cluster."""
    if kind == "sound":
        return _cluster_sounds(clips["clip_id"].to_numpy(object), fingerprints)
    if kind == "transcript":
        values = _normalise_transcripts(clips, min_words, min_han)
    else:
        column = "group" if kind == "group" else "content_hash"
        values = clips[column].to_numpy(object) if column in clips else np.full(len(clips), None, object)
    return pd.factorize(np.array(values, object))


def _normalise_transcripts(clips: pd.DataFrame, min_words: int, min_han: int) -> list[str | None]:
    """Letters and digits of `text`, or of `text_en` where there is no `text`; None where it is too short."""
    words = pd.Series(None, index=clips.index, dtype=object)
    for name in ("text", "text_en"):
        if name in clips:
            words = words.where(words.notna(), clips[name].astype(object))
    return [_normalise(text, min_words, min_han) if isinstance(text, str) else None for text in words]


def _normalise(text: str, min_words: int, min_han: int) -> str | None:
    text = unicodedata.normalize("NFKC", text).casefold()
    if len(HAN.findall(text)) < min_han and len(WORD.findall(HAN.sub(" ", text))) < min_words:
        return None
    return text.translate(_LETTERS)


class _Letters(dict):
    """A table for `str.translate` that keeps letters, marks and digits; it grows with each new character."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


_LETTERS = _Letters()


def _cluster_sounds(clip_ids: np.ndarray, fingerprints: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    fingerprints = {} if fingerprints is None else dict(fingerprints.items())
    own = {clip_id: fingerprints[clip_id] for clip_id in clip_ids if clip_id in fingerprints}
    pairs = find_near_duplicates(own)
    row = pd.Index(clip_ids)
    a, b = (row.get_indexer(pairs[side].to_numpy(object)) for side in ("a", "b"))
    pair = np.arange(len(pairs))
    component = _find_components(len(clip_ids), [(np.concatenate([a, b]), np.concatenate([pair, pair]))])
    linked = np.unique(np.concatenate([a, b]))
    codes = np.full(len(clip_ids), -1)
    codes[linked] = pd.factorize(component[linked])[0]
    first = linked[np.unique(codes[linked], return_index=True)[1]]
    return codes, np.array([own[clip_ids[i]].hex() for i in first], object)


def _find_components(n: int, links: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each of n nodes the number of its connected component.

    Each entry of `links` is a pair of arrays: nodes, and the number of the cluster that each of them is in. Nodes in
    the same cluster are connected.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # a graph of the n nodes and, after them, all clusters; a node has an edge to each of its clusters
    nodes, clusters, size = [np.zeros(0, int)], [np.zeros(0, int)], n
    for node, cluster in links:
        nodes.append(node)
        clusters.append(cluster + size)
        size = max(size, clusters[-1].max(initial=-1) + 1)
    nodes, clusters = np.concatenate(nodes), np.concatenate(clusters)
    graph = coo_array((np.ones(len(nodes), bool), (nodes, clusters)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n]
