"""Shards: a notebook run several times, each time over its own part of the clips."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecmf_utils.features.feature_files import find_shard
from ecmf_utils.files import (
    EcmfError,
    check_shard,
    data_dir,
    file_hash,
    read_json,
    reports_dir,
    shard_name,
    show,
    write_json,
)
from ecmf_utils.notebook import profiles, steps

MAX_SHARDS = 64  # each is a job, a page and a file that the next notebook opens
KEY = re.compile(r"(--\d+-of-\d+)?")


def counts(profile: str, sets: Sequence[str], notebooks: Sequence[str]) -> dict[str, int]:
    """Notebook -> number of its shards, for those that `ecmf reproduce` splits.

    Raises
    ------
    EcmfError
        A number of shards that cannot be, or a single shard asked for: all of them are run.
    """
    found = {}
    for nb in notebooks:
        values = profiles.resolve(nb, profile, profiles.select_sets(nb, sets))
        check(nb, values)
        if values.get("shard"):
            raise EcmfError(
                f"{nb}: shard={values['shard']}: every shard is run, leave `shard` out; "
                f"one alone: `ecmf run {nb} --profile {profile}`"
            )
        if values.get("n_shards", 1) > 1:
            found[nb] = values["n_shards"]
    return found


def check(nb: str, values: Mapping[str, Any]) -> None:
    """Refuse a number of shards, or a shard, that cannot be."""
    shard, n_shards = values.get("shard", 0), values.get("n_shards", 1)
    if not 1 <= n_shards <= MAX_SHARDS:
        raise EcmfError(f"{nb}: n_shards={n_shards}: expected 1 to {MAX_SHARDS}")
    check_shard(shard, n_shards, f"{nb}: ")


def written(nb: str, profile: str, values: Mapping[str, Any]) -> Path:
    """The file of one shard, which lies beside or below what the whole notebook writes."""
    whole, shard, n_shards = steps.list_outputs(nb, profile)[0], values["shard"], values["n_shards"]
    if whole.name == "selected.json":
        selected = read_json(whole, nb)
        return find_shard(whole.parent / selected["slug"] / selected["level"], shard, n_shards)
    return whole.parent / shard_name(shard, n_shards)


def note(nb: str, profile: str, values: Mapping[str, Any]) -> Path:
    """Write down which file a shard has written: by this note the workflow knows that it has run."""
    path = written(nb, profile, values)
    if not path.exists():
        raise EcmfError(f"ended without writing {show(path)}")
    about = {"file": str(path.relative_to(data_dir(profile))), "hash": file_hash(path)}
    return write_json(steps.note_path(nb, profile, steps.make_run_key(values)), about)


def forget(nb: str, profile: str) -> None:
    """Drop the notes of shards whose file is gone, so that they are run again."""
    for path in steps.note_path(nb, profile, "").parent.glob(f"{nb}--*.done.json"):
        if not (data_dir(profile) / read_json(path)["file"]).exists():
            path.unlink(missing_ok=True)


def settle(nb: str, profile: str, n_shards: int) -> None:
    """Remove pages, records and notes that runs in another number of shards have left."""
    own = {nb + key for key in steps.make_shard_keys(n_shards)}
    reports, made = reports_dir(profile), steps.note_path(nb, profile, "").parent
    found = [*reports.glob(f"{nb}*.html"), *(reports / "runs").glob(f"{nb}*"), *made.glob(f"{nb}--*.json")]
    for path in found:
        name = path.name.partition(".")[0]
        if name not in own and KEY.fullmatch(name.removeprefix(nb)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
