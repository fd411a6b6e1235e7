"""Translate the labels of a corpus into the label set of a profile, and count what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.files import EcmfError, unknown

from .findings import Findings


def check_label_map(labels: Sequence[str], label_map: Mapping[str, str | None], where: str) -> None:
    """Refuse a label map with a target that is not in the label set.

    Raises
    ------
    EcmfError
        Names the first such target.
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


def apply(
    rows: pd.DataFrame, labels: Sequence[str], label_map: Mapping[str, str | None], findings: Findings, where: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Translate the column `label` of a manifest into the label set of the profile.

    A clip is dropped where the map sends its label to null. A clip is kept, without a label and with the problem
    `unknown_label`, where its label is in neither the label set nor the map; mostly that is a slip of the pen.

    Parameters
    ----------
    rows : DataFrame
        The manifest.
    labels : sequence of str
        The label set.
    label_map : mapping
        The corpus's own label to one of the label set, or to None.
    findings : Findings
        Each unknown label is noted here.
    where : str
        What a finding names where the row has no file.

    Returns
    -------
    rows : DataFrame
        Without the dropped clips. The column `label_found` has the corpus's own labels where any was changed.
    fates : DataFrame
        See `trace_labels`.
    """
    own = rows["label"].astype(object).where(rows["label"].notna(), None)
    fates = trace_labels(own, labels, label_map)
    how = own.map(dict(zip(fates["found"], fates["how"], strict=True)))
    targets = own.map(dict(zip(fates["found"], fates["becomes"], strict=True)))
    if (fates["how"] != "same").any():
        rows = rows.assign(label_found=own)
    rows = rows.assign(label=targets.astype(object).where(targets.notna(), None))
    is_unknown = how == "unknown"
    if is_unknown.any():
        rows = _mark_unknown(rows, is_unknown, labels, findings, where)
    return rows[how != "dropped"].reset_index(drop=True), fates


def trace_labels(own: pd.Series, labels: Sequence[str], label_map: Mapping[str, str | None]) -> pd.DataFrame:
    """What becomes of each label that a corpus uses.

    Returns
    -------
    DataFrame
        One row for each label, the most frequent first: `found`, `becomes` (None: nothing), `how`, `clips`.
        `how` is same, mapped, dropped (the map says null) or unknown (in neither the label set nor the map).
    """
    rows = []
    for label, count in own.dropna().value_counts().items():
        if label in label_map:
            target = label_map[label]
            how = "dropped" if target is None else "same" if target == label else "mapped"
        else:
            target, how = (label, "same") if label in labels else (None, "unknown")
        rows.append((label, target, how, int(count)))
    return pd.DataFrame(rows, columns=["found", "becomes", "how", "clips"]).astype({"becomes": object})


def _mark_unknown(
    rows: pd.DataFrame, is_unknown: pd.Series, labels: Sequence[str], findings: Findings, where: str
) -> pd.DataFrame:
    """Note each clip with an unknown label, and take it out of the clips to learn from."""
    for row in rows[is_unknown].to_dict("records"):
        text = (
            f"clip {row['clip_id']} has label {row['label_found']!r}, expected one of {', '.join(labels)} "
            "or an entry in the profile's label_map; it counts as unlabelled"
        )
        number = row.get("row")
        number = int(number) if number is not None and number == number else None
        findings.add("unknown_label", str(row.get("file") or where), text, row=number, clip_id=row["clip_id"])
    rows = rows.assign(problem=rows["problem"].astype(object) if "problem" in rows else None)
    rows.loc[is_unknown, "problem"] = [_add_code(codes, "unknown_label") for codes in rows.loc[is_unknown, "problem"]]
    train = rows["split"] == "train"
    rows.loc[train & is_unknown, "split"] = "unlabelled"  # without a label it teaches nothing, but it is predicted
    return rows


def _add_code(codes: Any, code: str) -> str:
    return f"{codes};{code}" if isinstance(codes, str) and codes else code


def becomes(
    profile: str, clips: pd.DataFrame, labels: Sequence[str], label_map: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The label of a label set that each label of a corpus counts as; None where its clips are left out.

    Raises
    ------
    EcmfError
        A label is neither in the label set nor in the map.
    """
    check_label_map(labels, label_map, "train_label_map")
    counts_as = {}
    for label in clips["label"].dropna().unique():
        if label not in labels and label not in label_map:
            raise EcmfError(
                f"data/{profile}/clips.parquet: clip {clips.index[clips['label'] == label][0]} has label {label!r}, "
                f"which is not one of {', '.join(labels)}; map it with train_label_map"
            )
        counts_as[label] = label_map.get(label, label)
    return counts_as
