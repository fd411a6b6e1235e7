"""Label sets: how a corpus's own labels become those of a profile, explicitly and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, unknown

from .findings import Findings


def check(labels: Sequence[str], label_map: Mapping[str, str | None], where: str) -> None:
    """Refuse a mapping onto a label that the profile does not have.

    Raises
    ------
    EcmfError
        Names the label that is not in the label set.
    """
    for name, target in label_map.items():
        if target is not None and not isinstance(target, str):
            raise EcmfError(f"{where}: label_map: {name}: expected a label or null, found {target!r}")
        if target is not None and target not in labels:
            raise unknown("label", target, labels, f"{where}: label_map: {name}")


def index_labels(names: pd.Series, labels: Sequence[str]) -> np.ndarray:
    """The class index of each label.

    Parameters
    ----------
    names : Series of str, length N
    labels : sequence of str
        The label set, in order.

    Returns
    -------
    int array, shape (N,)
        -1 where there is no label, or none of the label set.
    """
    return names.map({label: i for i, label in enumerate(labels)}).fillna(-1).to_numpy(int)


def table(values: pd.Series, labels: Sequence[str], label_map: Mapping[str, str | None]) -> pd.DataFrame:
    """What becomes of each label that a corpus uses.

    Returns
    -------
    DataFrame
        One row a label, most frequent first: `found`, `becomes` (None: nothing), `how` (same, mapped,
        dropped: the mapping says null, unknown: in neither the label set nor the mapping), `clips`.
    """
    counts = values.dropna().value_counts()
    rows = [(found, *_fate(found, labels, label_map), int(n)) for found, n in counts.items()]
    return pd.DataFrame(rows, columns=["found", "becomes", "how", "clips"]).astype({"becomes": object})


def _fate(found: str, labels: Sequence[str], label_map: Mapping[str, str | None]) -> tuple[str | None, str]:
    if found in label_map:
        target = label_map[found]
        return target, "dropped" if target is None else "same" if target == found else "mapped"
    return (found, "same") if found in labels else (None, "unknown")


def apply(
    rows: pd.DataFrame, labels: Sequence[str], label_map: Mapping[str, str | None], found: Findings, where: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Translate the column `label` of a manifest into the profile's label set.

    A clip whose label the mapping sends to null has no counterpart and is dropped; one whose label
    is in neither the label set nor the mapping (a slip of the pen, mostly) stays, without a label and
    with the problem `unknown_label`. Both are counted.

    Returns
    -------
    rows : DataFrame
        Without the dropped clips; the corpus's own word stays in `label_found`.
    fates : DataFrame
        See `table`.
    """
    own = rows["label"].astype(object).where(rows["label"].notna(), None)
    fates = table(own, labels, label_map)
    how = own.map(dict(zip(fates["found"], fates["how"], strict=True)))
    becomes = own.map(dict(zip(fates["found"], fates["becomes"], strict=True)))
    becomes = becomes.astype(object).where(becomes.notna(), None)
    if (fates["how"] != "same").any():
        rows = rows.assign(label_found=own)
    rows, lost = rows.assign(label=becomes), how == "unknown"
    if lost.any():
        rows = _without(rows, lost, labels, found, where)
    return rows[how != "dropped"].reset_index(drop=True), fates


def _without(rows: pd.DataFrame, lost: pd.Series, labels: Sequence[str], found: Findings, where: str) -> pd.DataFrame:
    """The rows whose label nobody knows, marked and no longer to be learned from."""
    rows = rows.assign(problem=rows["problem"].astype(object) if "problem" in rows else None)
    for row in rows[lost].to_dict("records"):
        _note_unknown(row, labels, found, where)
    rows.loc[lost, "problem"] = [_joined(p, "unknown_label") for p in rows.loc[lost, "problem"]]
    train = rows["split"] == "train"
    rows.loc[train & lost, "split"] = "unlabelled"  # nothing to learn from, but still predicted
    return rows


def _note_unknown(row: Mapping[str, Any], labels: Sequence[str], found: Findings, where: str) -> None:
    """Tell of one clip whose label nobody knows."""
    text = (
        f"clip {row['clip_id']} has label {row['label_found']!r}, expected one of {', '.join(labels)} "
        "or an entry in the profile's label_map; it counts as unlabelled"
    )
    number = row.get("row")
    number = int(number) if number is not None and number == number else None
    found.add("unknown_label", str(row.get("file") or where), text, row=number, clip_id=row["clip_id"])


def _joined(problem: Any, code: str) -> str:
    return f"{problem};{code}" if isinstance(problem, str) and problem else code


def becomes(
    profile: str, clips: pd.DataFrame, labels: Sequence[str], label_map: Mapping[str, str | None]
) -> dict[str, str | None]:
    """What each label of a corpus counts as in a label set; None: its clips are left out.

    Raises
    ------
    EcmfError
        A label is neither in the label set nor in the mapping.
    """
    check(labels, label_map, "train_label_map")
    counts_as = {}
    for label in clips["label"].dropna().unique():
        if label not in labels and label not in label_map:
            raise EcmfError(
                f"data/{profile}/clips.parquet: clip {clips.index[clips['label'] == label][0]} has label {label!r}, "
                f"which is not one of {', '.join(labels)}; map it with train_label_map"
            )
        counts_as[label] = label_map.get(label, label)
    return counts_as
