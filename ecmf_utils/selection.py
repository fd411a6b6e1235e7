"""Which vectors of a branch count: those that were extracted last, or those of an encoder by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from . import paths
from .store import Store, slug_of

MADE_BY = {
    "scene": "22_extract_scene",
    "face": "21_extract_face",
    "audio": "23_extract_audio",
    "text": "24_extract_text",
    "context": "30_enrich_text",
}


def read_selected(profile: str, branch: str) -> dict[str, Any]:
    """What `load` reads for a branch: slug, recipe and its hash, dimension, counts."""
    place, notebook = branch_folder(profile, branch), name_notebook(profile, branch)
    chosen, (name, slug) = paths.read_json(place / "selected.json", notebook), paths.named(branch)
    if slug in ("", chosen["slug"]):
        return chosen
    oldest_first = sorted(place.glob("*/*/selected.json"), key=lambda path: path.stat().st_mtime)
    stored = {path.parent.parent.name: path for path in oldest_first}
    if slug not in stored:
        known = ", ".join(sorted(stored))
        raise paths.EcmfError(f"features/{name}: no {slug!r}, there is {known}: run {notebook} for it")
    return paths.read_json(stored[slug])


def branch_folder(profile: str, branch: str) -> Path:
    """Where the features of a branch are."""
    return paths.data_dir(profile) / "features" / paths.named(branch)[0]


def select_store(profile: str, branch: str, store: Store) -> pd.DataFrame:
    """Count what all shards have so far, note it as what `load` reads, return the summary."""
    how, dim = store.recipe, store.loaded_dim
    with FileLock(store.folder / ".lock"):  # shards may end at the same time
        status = pd.Series(store.statuses(), dtype=object)
        counts = {name: int((status == name).sum()) for name in ("ok", "missing", "failed")}
        chosen = {"slug": slug_of(how), "level": how["level"], "recipe": how}
        chosen |= {"schema_version": paths.SCHEMA_VERSION, "recipe_hash": store.key, "dim": dim}
        chosen |= {"n_shards": store.n_shards} | {f"n_{name}": count for name, count in counts.items()}
        paths.write_json(store.folder / "selected.json", chosen)
        paths.write_json(branch_folder(profile, branch) / "selected.json", chosen)
    facts = {"branch": branch, "encoder": how["name"], "level": how["level"]}
    facts |= {"pooling": how["pooling"], "dim": dim, "clips": len(status), **counts}
    return pd.DataFrame([facts])


def name_notebook(profile: str, branch: str, chosen: dict[str, Any] | None = None) -> str:
    """What to run when vectors are not there."""
    branch = paths.named(branch)[0]
    by_hand = f"`ecmf import-features {profile} {branch}=PATH`"
    if chosen and chosen["recipe"].get("imported"):
        return by_hand
    return MADE_BY.get(branch, f"the notebook that extracts {branch}, or {by_hand},")
