"""The features of a corpus on disk: parts while an extraction runs, one file a shard when it has ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from filelock import FileLock

from ecmf_utils.encoders.loading import compute_pooled_dim
from ecmf_utils.files import (
    SCHEMA_VERSION,
    EcmfError,
    data_dir,
    digest,
    named,
    read_json,
    shard_name,
    slug,
    write_json,
)

from .feature_files import (
    ENDING,
    OLD_ENDING,
    TYPES as TYPES,
    FeatureFile,
    find_shard,
    gather_vectors,
    list_files,
    make_schema,
    read_header,
    write_file,
)

KEYS = ["clip_id", "content_hash", "recipe_hash", "status"]
MADE_BY = {
    "scene": "22_extract_scene",
    "face": "21_extract_face",
    "audio": "23_extract_audio",
    "text": "24_extract_text",
    "context": "30_enrich_text",
}


class Store:
    """The files of one extraction (`<branch>/<slug>/<level>/`) and one shard of it.

    Parameters
    ----------
    branch_folder : Path
    frame_dim : int
        Length of a frame-level row.
    recipe : dict
        With its hash `key` it decides which stored rows may be used again.
    shard, n_shards : int
    """

    def __init__(self, branch_folder: Path, frame_dim: int, recipe: dict[str, Any], shard: int, n_shards: int) -> None:
        self.recipe, self.level, self.n_shards = recipe, recipe["level"], n_shards
        self.folder = branch_folder / make_slug(recipe) / self.level
        self.loaded_dim = compute_pooled_dim(frame_dim, recipe["pooling"])
        self.dim = self.loaded_dim if self.level == "utterance" else frame_dim
        self.key = digest(recipe)
        self.path = self.folder / shard_name(shard, n_shards, ENDING)
        self.parts = self.folder / f".parts-{self.path.stem}"
        self.header = {"recipe": recipe, "recipe_hash": self.key, "dim": self.dim}
        schema = make_schema(self.dim, recipe)
        self.key_schema = pa.schema([field for field in schema if field.name not in ("vector", "vectors")])

    def find_reusable(self, rows: list[dict[str, Any]], retry_failed: bool) -> dict[str, tuple[Path, int]]:
        """Where the rows that may be used again are: clip to file and position in it."""
        stored = sorted(
            self._iterate_stored(rows), key=lambda row: row[2] == "ok"
        )  # of two rows of a clip, the good one
        return {clip_id: place for clip_id, place, status in stored if status != "failed" or not retry_failed}

    def has_vectors(self, rows: list[dict[str, Any]]) -> bool:
        """Whether any of these rows has a vector so far."""
        return any(status == "ok" for _, _, status in self._iterate_stored(rows))

    def _iterate_stored(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[Path, int], str]]:
        """Clip, place and status of what was computed from the same content by the same recipe."""
        hashes = {str(row["clip_id"]): str(row.get("content_hash")) for row in rows}
        folders = [self.folder, *self.folder.glob(".parts-*")]
        for path in [path for folder in folders for path in list_files(folder)]:
            for position, row in enumerate(_read_keys(path)):
                same = hashes.get(row["clip_id"]) == row["content_hash"]
                if same and row["recipe_hash"] == self.key:
                    yield row["clip_id"], (path, position), row["status"]

    def drop_parts(self) -> None:
        """Forget what was written since the last `merge`."""
        shutil.rmtree(self.parts, ignore_errors=True)

    def write_part(self, results: list[dict[str, Any]]) -> None:
        """Keep the results of some clips, so that a kill from now on does not lose them."""
        rows = [result | {"recipe_hash": self.key} for result in results]
        columns = {name: [row.get(name) for row in rows] for name in self.key_schema.names}
        name = "vector" if self.level == "utterance" else "vectors"
        vectors = [np.asarray([] if row.get(name) is None else row[name]).reshape(-1, self.dim) for row in rows]
        path = self.parts / f"{digest([result['clip_id'] for result in results])}{ENDING}"
        lengths = np.array([len(clip) for clip in vectors])
        write_file(path, self.header, pa.table(columns, self.key_schema), lengths, vectors.__getitem__)

    def merge(self, rows: list[dict[str, Any]]) -> None:
        """Write the shard's file in the order of the rows, drop the parts and older shardings.

        No more than a batch of vectors is in memory at a time, besides the other columns.
        """
        places = self.find_reusable(rows, retry_failed=False)
        paths = sorted({path for path, _ in places.values()})
        files = [FeatureFile(path, self.key_schema.names) for path in paths]
        starts = dict(zip(paths, np.cumsum([0, *map(len, files)]), strict=False))
        wanted = [places[row["clip_id"]] for row in rows]
        order = np.array([starts[path] + position for path, position in wanted], int)
        tables = [file.keys.select(self.key_schema.names).cast(self.key_schema) for file in files]
        keys = pa.concat_tables([self.key_schema.empty_table(), *tables]).take(pa.array(order))
        lengths = np.concatenate([np.empty(0, int), *(file.lengths for file in files)])[order]
        write_file(self.path, self.header, keys, lengths, lambda rows: gather_vectors(files, order[rows]))
        self.drop_parts()
        self._tidy()

    def _tidy(self) -> None:
        """Once every shard is there, remove what another number of shards, or an earlier version, has left."""
        own = self._find_shards()
        if len(own) == self.n_shards and all(read_header(path).get("recipe_hash") == self.key for path in own):
            for path in {*self.folder.glob(f"*{ENDING}"), *self.folder.glob(f"*{OLD_ENDING}")} - set(own):
                path.unlink(missing_ok=True)
            at_work = {f".parts-{path.stem}" for path in own}  # another shard may write there now
            for path in self.folder.glob(".parts-*"):
                if path.name not in at_work:
                    shutil.rmtree(path, ignore_errors=True)

    def _find_shards(self) -> list[Path]:
        """The files of the shards that exist."""
        paths = [find_shard(self.folder, shard, self.n_shards) for shard in range(self.n_shards)]
        return [path for path in paths if path.exists()]

    def read_statuses(self) -> list[str]:
        """Status of every row in the shards that exist."""
        rows = [row for path in self._find_shards() for row in _read_keys(path)]
        return [row["status"] for row in rows if row["recipe_hash"] == self.key]


def make_slug(recipe: dict[str, Any]) -> str:
    """Folder name of an extraction: encoder, layers and pooling."""
    return slug("-".join([recipe["name"], recipe["layers"], recipe["pooling"]]))


def _read_keys(path: Path) -> list[dict[str, Any]]:
    """The columns that decide about reuse; nothing where another shard has just tidied up."""
    try:
        return FeatureFile(path, KEYS).keys.to_pylist()
    except EcmfError:  # or it is damaged
        return []


# ---- which vectors of a branch count: those that were extracted last, or those of an encoder by name


def read_selected(profile: str, branch: str) -> dict[str, Any]:
    """What `load` reads for a branch: slug, recipe and its hash, dimension, counts.

    Parameters
    ----------
    branch : str
        `audio`: what was extracted last. `audio@<slug>`: what another encoder made of the branch.

    Raises
    ------
    EcmfError
        Nothing was extracted, or not by this encoder: the notebook to run is named.
    """
    folder, notebook = branch_folder(profile, branch), name_notebook(profile, branch)
    selected, (name, slug) = read_json(folder / "selected.json", notebook), named(branch)
    if slug in ("", selected["slug"]):
        return selected
    oldest_first = sorted(folder.glob("*/*/selected.json"), key=lambda path: path.stat().st_mtime)
    paths = {path.parent.parent.name: path for path in oldest_first}
    if slug not in paths:
        slugs = ", ".join(sorted(paths))
        raise EcmfError(f"features/{name}: no {slug!r}, there is {slugs}: run {notebook} for it")
    return read_json(paths[slug])


def branch_folder(profile: str, branch: str) -> Path:
    """Where the features of a branch are."""
    return data_dir(profile) / "features" / named(branch)[0]


def select_store(profile: str, branch: str, store: Store) -> pd.DataFrame:
    """Count what all shards have so far, note it as what `load` reads, return the summary."""
    recipe, dim = store.recipe, store.loaded_dim
    with FileLock(store.folder / ".lock"):  # shards may end at the same time
        statuses = store.read_statuses()
        counts = {name: statuses.count(name) for name in ("ok", "missing", "failed")}
        selected = {"slug": make_slug(recipe), "level": recipe["level"], "recipe": recipe}
        selected |= {"schema_version": SCHEMA_VERSION, "recipe_hash": store.key, "dim": dim}
        selected |= {"n_shards": store.n_shards} | {f"n_{name}": count for name, count in counts.items()}
        write_json(store.folder / "selected.json", selected)
        write_json(branch_folder(profile, branch) / "selected.json", selected)
    facts = {"branch": branch, "encoder": recipe["name"], "level": recipe["level"]}
    facts |= {"pooling": recipe["pooling"], "dim": dim, "clips": len(statuses), **counts}
    return pd.DataFrame([facts])


def name_notebook(profile: str, branch: str, selected: dict[str, Any] | None = None) -> str:
    """What to run when vectors are not there."""
    branch = named(branch)[0]
    by_hand = f"`ecmf import-features {profile} {branch}=PATH`"
    if selected and selected["recipe"].get("imported"):
        return by_hand
    return MADE_BY.get(branch, f"the notebook that extracts {branch}, or {by_hand},")
