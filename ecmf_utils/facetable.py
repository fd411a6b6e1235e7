"""The table of faces on disk: one file, or one for each shard until all of them are joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from . import paths

WHOLE, SHARDS = "faces.parquet", "*-of-*.parquet"
MADE_BY = "20_detect_faces"


def write_faces(
    folder: Path, table: pa.Table, header: dict[str, Any], clip_ids: pd.Series, shard: int = 0, n_shards: int = 1
) -> pd.DataFrame:
    """Write the rows of all clips, or of one shard; the shard that ends last joins them all.

    Parameters
    ----------
    header : dict
        `recipe` and `recipe_hash`: tables of different recipes are never joined.
    clip_ids : Series
        All clips of the corpus, in the order of the whole table.

    Returns
    -------
    DataFrame
        What was written, as it is read back.
    """
    path = folder / (paths.shard_name(shard, n_shards) if n_shards > 1 else WHOLE)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # shards may end at the same time
        paths.write_parquet(table, path, header)
        _settle(folder, header, clip_ids, n_shards)
    return paths.read_parquet(path)


def read_face_table(folder: Path) -> pd.DataFrame:
    """The whole table; where a shard is missing, the line says which."""
    made_by = MADE_BY
    for path in [] if (folder / WHOLE).exists() else sorted(folder.glob(SHARDS))[-1:]:
        n_shards = int(path.stem[-3:])
        absent = (k for k in range(n_shards) if not (folder / paths.shard_name(k, n_shards)).exists())
        made_by += f" --set n_shards={n_shards} --set shard={next(absent, 0)}"
    return paths.read_parquet(folder / WHOLE, made_by)


def _settle(folder: Path, header: dict[str, Any], clip_ids: pd.Series, n_shards: int) -> None:
    """Join the shards once all are there; remove tables that do not belong to them."""
    own = [folder / paths.shard_name(shard, n_shards) for shard in range(n_shards)] if n_shards > 1 else []
    whole = folder / WHOLE
    if all(path.exists() and _is_of(path, header) for path in own):
        if own:
            paths.write_parquet(_joined(own, clip_ids), whole, header)
        for path in set(folder.glob(SHARDS)) - set(own):
            path.unlink()
    elif whole.exists() and not _is_of(whole, header):  # its crops are being replaced
        whole.unlink()


def _joined(files: list[Path], clip_ids: pd.Series) -> pa.Table:
    table = pa.concat_tables([paths.read_table(path) for path in files])
    place = pc.index_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string()))
    table = table.append_column("place", place).filter(pc.is_valid(place))
    order = pc.sort_indices(table, [("place", "ascending")])  # keeps the order of a clip's rows
    return table.take(order).drop_columns("place")


def _is_of(path: Path, header: dict[str, Any]) -> bool:
    return paths.parquet_metadata(path).get("recipe_hash") == header["recipe_hash"]
