"""What clips of different folds or splits share, so that a score may be too good: reported, merged on request."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, digest

from .sound_prints import near_duplicates

KINDS = {
    "group": "the same group (speaker, source)",
    "content": "the same file, byte for byte",
    "transcript": "the same words",
    "sound": "the same recording, perhaps re-encoded or trimmed",
}
HIDDEN = ("transcript", "sound")  # the table has a digest of what is shared
MERGEABLE = tuple(kind for kind in KINDS if kind != "group")
MIN_WORDS, MIN_HAN = 3, 4  # "oh really" is said by everybody; it links nothing
MAX_LISTED = 20  # clips named in a row of the table
HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # written without spaces
WORD = re.compile(r"\S*[^\W_]\S*")
COLUMNS = ("kind", "key", "n_clips", "clips", "splits", "folds", "groups")
Prints = Mapping[str, bytes] | pd.Series | None


def find_leaks(
    clips: pd.DataFrame,
    folds: pd.DataFrame | None,
    prints: Prints = None,
    *,
    min_words: int = MIN_WORDS,
    min_han: int = MIN_HAN,
) -> pd.DataFrame:
    """Everything that clips of different splits, or of different folds, have in common.

    Chance and design play a part: actors read the same few sentences, and people say the same short things,
    so a shared transcript is a number to know, not always a fault.

    Parameters
    ----------
    clips : DataFrame
        A manifest; rows with status failed are left out.
    folds : DataFrame, optional
        `clip_id` and `fold`.
    prints : dict or Series of bytes by clip_id, optional
        Fingerprints of the sound.
    min_words, min_han : int
        A transcript counts from this many words, or Han and kana characters.

    Returns
    -------
    DataFrame
        One row a thing shared: `kind` (one of KINDS), `key` (the group's name; a digest for the others, never
        the words), `n_clips`, `clips` (at most 20 clip_ids), `splits` ("test+train"), `folds` ("0+2", "" where
        none), `groups` (how many). The largest of each kind come first.
    """
    used = _used(clips)
    rows = []
    for kind in KINDS:
        codes, keys = _codes(kind, used, prints, min_words, min_han)
        rows += sorted(_crossing(kind, codes, keys, used, folds), key=lambda row: (-row["n_clips"], row["key"]))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({name: "str" for name in ("kind", "key", "splits", "folds")} | {"n_clips": int, "groups": int})


def summarise_leaks(shared: pd.DataFrame) -> pd.DataFrame:
    """How much is shared: one row a kind, also where nothing is.

    Returns
    -------
    DataFrame
        `kind`, `meaning`, `clusters` (things shared), `clips`, and how many of the things lie `across train/test`,
        `across folds`, and in the unlabelled clips and another split (`with unlabelled`).
    """
    rows = []
    for kind, meaning in KINDS.items():
        own = shared[shared["kind"] == kind]
        splits = [set(found.split("+")) for found in own["splits"]]
        counts = {"clusters": len(own), "clips": int(own["n_clips"].sum())}
        counts["across train/test"] = sum(found >= {"train", "test"} for found in splits)
        counts["across folds"] = sum("+" in found for found in own["folds"])
        counts["with unlabelled"] = sum("unlabelled" in found and len(found) > 1 for found in splits)
        rows.append({"kind": kind, "meaning": meaning, **counts})
    return pd.DataFrame(rows)


def merge_groups(
    clips: pd.DataFrame,
    kinds: Sequence[str],
    prints: Prints = None,
    *,
    min_words: int = MIN_WORDS,
    min_han: int = MIN_HAN,
) -> tuple[pd.DataFrame, int]:
    """Make one group of all groups whose clips share something, so that no fold comes between them.

    To be done before the folds are made. Splits stay as they are: an official test split keeps what it shares
    with the training clips, and `shared` goes on to report it.

    Parameters
    ----------
    kinds : sequence of str
        Of "content", "transcript", "sound".

    Returns
    -------
    clips : DataFrame
        With the merged `group`: the first name, in the order of the alphabet, of those that were merged.
    n_merged : int
        How many groups gave up their name.

    Raises
    ------
    EcmfError
        A kind is unknown.
    """
    if wrong := [kind for kind in kinds if kind not in MERGEABLE]:
        raise EcmfError(f"merge_leaks: {wrong[0]!r} cannot be merged; expected some of {', '.join(MERGEABLE)}")
    used = _used(clips)
    links = [_codes(kind, used, prints, min_words, min_han)[0] for kind in kinds]
    groups, names = pd.factorize(clips["group"].to_numpy(object), sort=True)
    place = groups[used.index.to_numpy()]
    component = _components(len(names), [(place[codes >= 0], codes[codes >= 0]) for codes in links])
    first = pd.Series(np.arange(len(names))).groupby(component).transform("min").to_numpy()
    merged = np.append(names[first], None)[groups]  # -1: no group
    return clips.assign(group=pd.array(merged, dtype="str")), int((first != np.arange(len(names))).sum())


# ---- which clips belong together


def _used(clips: pd.DataFrame) -> pd.DataFrame:
    clips = clips.reset_index(drop=True)
    return clips[clips["status"] != "failed"] if "status" in clips else clips


def _crossing(
    kind: str, codes: np.ndarray, keys: np.ndarray, clips: pd.DataFrame, folds: pd.DataFrame | None
) -> Iterator[dict[str, Any]]:
    """A row for each cluster that lies in several splits or folds."""
    fold_of = {} if folds is None else dict(zip(folds["clip_id"], folds["fold"], strict=True))
    ids, splits, groups = (clips[name].to_numpy(object) for name in ("clip_id", "split", "group"))
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(members) < 2 or codes[members[0]] < 0:
            continue
        names = ids[members].tolist()
        found = sorted(set(splits[members].tolist()))
        in_folds = sorted({fold_of[name] for name in names if name in fold_of})
        if len(found) > 1 or len(in_folds) > 1:
            key = str(keys[codes[members[0]]])
            row = {"kind": kind, "key": digest(key) if kind in HIDDEN else key, "n_clips": len(names)}
            row |= {"clips": names[:MAX_LISTED], "splits": "+".join(found), "folds": "+".join(map(str, in_folds))}
            yield row | {"groups": len(set(groups[members].tolist()))}


def _codes(
    kind: str, clips: pd.DataFrame, prints: Prints, min_words: int, min_han: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each clip the number of the cluster it is in, -1 for none; and the key of each cluster."""
    if kind == "sound":
        return _sound_codes(clips["clip_id"].to_numpy(object), prints)
    if kind == "transcript":
        values = _bare_words(clips, min_words, min_han)
    else:
        column = "group" if kind == "group" else "content_hash"
        values = clips[column].to_numpy(object) if column in clips else np.full(len(clips), None, object)
    return pd.factorize(np.array(values, object))


def _bare_words(clips: pd.DataFrame, min_words: int, min_han: int) -> list[str | None]:
    """Letters and digits of `text`, or of `text_en` where there is none; None where they are too few."""
    words = pd.Series(None, index=clips.index, dtype=object)
    for name in ("text", "text_en"):
        if name in clips:
            words = words.where(words.notna(), clips[name].astype(object))
    return [_bare(text, min_words, min_han) if isinstance(text, str) else None for text in words]


def _bare(text: str, min_words: int, min_han: int) -> str | None:
    text = unicodedata.normalize("NFKC", text).casefold()
    if len(HAN.findall(text)) < min_han and len(WORD.findall(HAN.sub(" ", text))) < min_words:
        return None
    return text.translate(_LETTERS)


class _Letters(dict):
    """What stays of a text: letters, marks and digits; grown as characters are met."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


_LETTERS = _Letters()


def _sound_codes(clip_ids: np.ndarray, prints: Prints) -> tuple[np.ndarray, np.ndarray]:
    prints = {} if prints is None else dict(prints.items())
    own = {clip_id: prints[clip_id] for clip_id in clip_ids if clip_id in prints}
    pairs = near_duplicates(own)
    row = pd.Index(clip_ids)
    a, b = (row.get_indexer(pairs[side].to_numpy(object)) for side in ("a", "b"))
    knots = np.arange(len(pairs))
    component = _components(len(clip_ids), [(np.concatenate([a, b]), np.concatenate([knots, knots]))])
    linked = np.unique(np.concatenate([a, b]))
    codes = np.full(len(clip_ids), -1)
    codes[linked] = pd.factorize(component[linked])[0]
    first = linked[np.unique(codes[linked], return_index=True)[1]]
    return codes, np.array([own[clip_ids[i]].hex() for i in first], object)


def _components(n: int, links: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each of n things the number of its connected component; links say which thing hangs on which knot."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    things, knots, used = [np.zeros(0, int)], [np.zeros(0, int)], n
    for thing, knot in links:
        things.append(thing)
        knots.append(knot + used)
        used = max(used, knots[-1].max(initial=-1) + 1)
    things, knots = np.concatenate(things), np.concatenate(knots)
    graph = coo_array((np.ones(len(things), bool), (things, knots)), shape=(used, used))
    return connected_components(graph, directed=False)[1][:n]
