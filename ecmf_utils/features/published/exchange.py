"""Published features in and out: the folders of the official toolkit, and tables (Parquet, Arrow, CSV)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecmf_utils.corpus.findings import Findings
from ecmf_utils.encoders.loading import POOLINGS
from ecmf_utils.features import feature_files, loading
from ecmf_utils.features.store import Store, branch_folder, make_slug, read_selected, select_store
from ecmf_utils.files import EcmfError, own_name, show, slug, write_atomic
from ecmf_utils.progress import track

from . import npy_folders, vector_tables
from .checks import UNSAFE, Fault, Published, check_names, refuse_set

LAYOUTS = "a folder of .npy files, or a table (.parquet, .arrow or .csv)"
TABLES = {".parquet": vector_tables.open_table, ".arrow": vector_tables.open_table, ".csv": vector_tables.open_csv}
ENDINGS = {"utterance": "-UTT", "frame": "-FRA"}
PART_ROWS = 2048  # clips that a kill may cost
NOT_THERE = "none"  # content hash of a clip without features
ALLOW = "overwrite=True, on the command line --overwrite"


def import_features(
    profile: str,
    branch: str,
    path: Path | str,
    *,
    clips: pd.DataFrame,
    id_column: str = "",
    pooling: str = "mean",
) -> pd.DataFrame:
    """Read published features of a branch into the feature store and select them for `features.load`.

    Every number is kept in the type that it came in. A clip whose features cannot be used gets a row with
    status and problem. Parts are written on the way: after a kill the same call goes on.

    Parameters
    ----------
    profile : str
        Whose features they become.
    branch : str
        Such as `audio`.
    path : path
        A folder of `<name>.npy`, (D,) or (T, D), or of folders `<name>` with one `.npy` (D,) a frame; or a
        Parquet or Arrow table with a column of lists or a column a number; or a CSV table with a column a number.
    clips : DataFrame
        Rows of `clips.parquet`; only `clip_id` is used, and it is the name in the published features.
    id_column : str
        Column of the names in a table; clip_id, name, id or filename when left out.
    pooling : str
        How `features.load` makes one vector of frame-level features: mean, mean+std or max.

    Returns
    -------
    DataFrame
        One row: branch, source, level, dtype, dim, clips, ok, missing, failed, unlisted (names that are no
        clip). In `attrs`: `computed` (clips read now), `findings` (`Findings`), `lines` (what a person
        should read).

    Raises
    ------
    EcmfError
        Nothing in it can be used: not there, not one of these layouts, no name is a clip, all damaged. What
        was selected before stays selected. The branch names an encoder, as `audio@hubert` does.
    """
    own_name(branch)
    findings = Findings()
    clip_ids = [str(clip_id) for clip_id in clips["clip_id"]]
    source = look(path, clip_ids, findings, id_column)
    store = Store(branch_folder(profile, branch), source.dim, make_recipe(source, pooling), 0, 1)
    rows = [{"clip_id": clip_id, "content_hash": source.stamps.get(clip_id, NOT_THERE)} for clip_id in clip_ids]
    done = store.find_reusable(rows, retry_failed=True)
    todo = [clip_id for clip_id in clip_ids if clip_id not in done]
    zeros, first = 0, None
    for batch in _split_parts(track(_read_rows(source, todo), len(todo), branch)):
        store.write_part(batch)
        for row in batch:
            zeros += row["status"] == "ok" and not np.any(row.get("vector", row.get("vectors")))
            if row["status"] == "failed":
                text = re.sub(rf"^{re.escape(source.file)}[/ ]", "", row["detail"])
                findings.add(row["problem"], source.file, text, clip_id=row["clip_id"])
                first = first or Fault(row["problem"], row["detail"])
    if not store.has_vectors(rows):
        store.drop_parts()
        refuse_set(Path(path), first)
    store.merge(rows)
    selected = select_store(profile, branch, store).iloc[0]
    _report_absent(loading.read_status(profile, [branch]), source, findings)
    if zeros:
        findings.add("zero_vectors", source.file, f"{zeros:,} clips have vectors of zeros; kept as they came")
    facts = {"branch": branch, "source": source.name, "level": source.level, "dtype": source.dtype, "dim": source.dim}
    facts |= {name: selected[name] for name in ("clips", "ok", "missing", "failed")}
    facts |= {"unlisted": sum(finding.code == "unlisted_features" for finding in findings)}
    summary = pd.DataFrame([facts])
    summary.attrs |= {"computed": len(todo), "findings": findings, "lines": findings.lines()}
    return summary


def export_features(
    profile: str, branch: str, out_dir: Path | str, *, suffix: str = "", overwrite: bool = False
) -> pd.DataFrame:
    """Write the features of a branch as the official toolkit does: one `.npy` a clip, in the stored type.

    Parameters
    ----------
    out_dir : path
        Gets the folder `<slug>-UTT` with arrays (D,), or `<slug>-FRA` with arrays (T, D). The slug is that
        of the extraction; imported features go by the name that they were published under.
    suffix : str
        Another ending of the folder than -UTT or -FRA, such as `_UTT`.
    overwrite : bool
        Write into a folder that holds other files too, and replace files of the same name. Nothing is deleted.

    Returns
    -------
    DataFrame
        One row: branch, folder, level, dtype, dim, files, without (clips without a vector: no file). In
        `attrs`: `absent` (a row for each of these: clip_id, status, problem, detail) and `lines`.

    Raises
    ------
    EcmfError
        A clip_id or folder name that is not safe as a file name, two that differ only in case, other files in
        the way, or files of the same name with other numbers in them.
    """
    selected = read_selected(profile, branch)
    recipe, level = selected["recipe"], selected["level"]
    states = loading.read_status(profile, [branch]).drop(columns="branch")
    written = states.loc[states["status"] == "ok", "clip_id"].tolist()
    check_names(written, f"features/{branch}")
    name = npy_folders.set_name(slug(recipe["source"])) if recipe.get("imported") else make_slug(recipe)
    folder = _choose_folder(Path(out_dir), name, suffix or ENDINGS[level])
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(there - {f"{clip_id}.npy" for clip_id in written})
    if there and not overwrite:
        _check_free(folder, there, others, _iterate_arrays(profile, branch, level))
    dtypes = set()
    for clip_id, values in track(_iterate_arrays(profile, branch, level), len(written), branch):
        write_atomic(folder / f"{clip_id}.npy", lambda tmp, values=values: npy_folders.save(tmp, values))
        dtypes.add(values.dtype.name)
    facts = {"branch": branch, "folder": folder.name, "level": level, "dtype": "/".join(sorted(dtypes))}
    facts |= {"dim": selected["dim"], "files": len(written), "without": len(states) - len(written)}
    table = pd.DataFrame([facts])
    absent = states[states["status"] != "ok"].reset_index(drop=True)
    table.attrs |= {"absent": absent, "lines": _list_absent(absent, folder.name, others)}
    return table


def look(path: Path | str, clip_ids: Iterable[str], findings: Findings, id_column: str = "") -> Published:
    """Find out what a set of published features holds, without reading its numbers.

    Parameters
    ----------
    clip_ids : iterable of str
        Which names are clips.
    findings : Findings
        Gets what belongs to no clip, and how the set was understood.
    """
    path, names = Path(path), set(clip_ids)
    if path.is_dir():
        return npy_folders.folder_of_npy(path, names, findings)
    if not path.is_file():
        raise EcmfError(f"{show(path)}: not there; expected {LAYOUTS}")
    if path.suffix.lower() not in TABLES:
        raise EcmfError(f"{show(path)}: not one of the layouts that can be read: {LAYOUTS}")
    return TABLES[path.suffix.lower()](path, names, findings, id_column)


def make_recipe(source: Published, pooling: str = "mean") -> dict[str, Any]:
    """What decides about stored vectors that were imported; the place they came from is not in it."""
    if pooling not in POOLINGS:
        raise EcmfError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}")
    own = {"name": f"imported-{source.name}", "layers": "as-published", "revision": "as-published", "imported": True}
    own |= {"source": source.name, "level": source.level, "dtype": source.dtype, "dim": source.dim}
    return own | {"pooling": pooling, "extra": {}}


# ---- import


def _read_rows(source: Published, todo: list[str]) -> Iterator[dict[str, Any]]:
    """Rows for the store: of clips without features, then of the others in the order of the source."""
    for clip_id in todo:
        if clip_id not in source.stamps:
            fault = Fault("no_features", f"{source.file}: no features of this clip")
            yield _make_row(clip_id, NOT_THERE, fault, source.level)
    for clip_id, values in source.read([clip_id for clip_id in todo if clip_id in source.stamps]):
        yield _make_row(clip_id, source.stamps[clip_id], values, source.level)


def _make_row(clip_id: str, stamp: str, values: np.ndarray | Fault, level: str) -> dict[str, Any]:
    row = {"clip_id": clip_id, "content_hash": stamp, "n_frames": 0}
    if isinstance(values, Fault):
        status = "missing" if values.code == "no_features" else "failed"
        return row | {"status": status, "problem": values.code, "detail": values.detail}
    if level == "utterance":  # how many rows were pooled is not known
        return row | {"status": "ok", "vector": values[0], "n_frames": None}
    return row | {"status": "ok", "vectors": values, "n_frames": len(values)}


def _split_parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in parts that are neither long nor large."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        part.append(row)
        vectors = row.get("vector", row.get("vectors"))
        size += 0 if vectors is None else vectors.nbytes
        if len(part) >= PART_ROWS or size >= feature_files.BATCH_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _report_absent(states: pd.DataFrame, source: Published, findings: Findings) -> None:
    """Clips that the source does not have, and those that it has with nothing in them."""
    absent = states[states["status"] == "missing"]
    listed = absent["clip_id"].isin(list(source.stamps))
    for clip_id in absent.loc[~listed, "clip_id"]:
        findings.add("no_features", source.file, f"no features of clip {clip_id!r}", clip_id=clip_id)
    if listed.any():
        first = absent[listed].iloc[0]
        text = f"{listed.sum():,} clips are there without a vector; the first: {first['detail']}"
        findings.add("no_features", source.file, text, clip_id=first["clip_id"])


# ---- export


def _iterate_arrays(profile: str, branch: str, level: str) -> Iterator[tuple[str, np.ndarray]]:
    """What is written for each clip that has a vector: (D,), or (T, D) at frame level."""
    for clip_id, rows in loading.iterate_frames(profile, branch):
        if rows is not None:
            yield clip_id, rows[0] if level == "utterance" else rows


def _choose_folder(out_dir: Path, name: str, suffix: str) -> Path:
    """The folder to write; an ending that is no part of a name, and a file in its place, are refused."""
    if UNSAFE.search(name + suffix):
        raise EcmfError(f"suffix={suffix!r}: not safe in the name of a folder; expected one such as _UTT")
    folder = out_dir / (name + suffix)
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise EcmfError(f"{show(path)}: is a file; give a folder to write to")
    return folder


def _check_free(folder: Path, there: set[str], others: list[str], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Refuse a folder of something else, and to replace a file by other numbers."""
    if others:
        raise EcmfError(
            f"{folder}: holds {len(others):,} files that are not of this export, such as {others[0]!r}; give another "
            f"folder, or allow it ({ALLOW})"
        )
    files = ((f"{clip_id}.npy", values) for clip_id, values in arrays)
    differ = [name for name, values in files if name in there and not npy_folders.holds(folder / name, values)]
    if differ:
        raise EcmfError(
            f"{folder}: {len(differ):,} files there hold something else, the first is {differ[0]!r}; give another "
            f"folder, or replace them ({ALLOW})"
        )


def _list_absent(absent: pd.DataFrame, folder: str, others: list[str]) -> list[str]:
    findings = Findings()
    for row in absent.to_dict("records"):
        text = f"clip {row['clip_id']!r} has no vector ({row['problem']}); no file was written"
        findings.add("no_features", folder, text, clip_id=row["clip_id"])
    if others:
        findings.add("ignored_file", folder, f"{len(others):,} files of something else stay, such as {others[0]!r}")
    return findings.lines()
