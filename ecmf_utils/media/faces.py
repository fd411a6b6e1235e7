"""Faces of a clip: found, followed, aligned, and stored once for every face encoder."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from ecmf_utils import parallel
from ecmf_utils.files import (
    EcmfError,
    data_dir,
    digest,
    file_name,
    in_shard,
    parquet_metadata,
    read_parquet,
    read_table,
    shard_name,
    show,
    write_atomic,
    write_parquet,
)
from ecmf_utils.progress import track

from . import reading
from .face_tracks import BOX, MIN_FRAMES, PEAK_SCORE, count_people, describe, join, landmark_file

VERSION = 2
LOWEST_SCORE = -0.1  # a detection below it is not kept, even inside a track
READ_SIDE = 960  # crops are cut from frames up to this longer side, so that small faces stay sharp
PART = 1000  # clips whose rows become a table at a time: as dicts they take ten times the memory
SCHEMA = pa.schema(
    [("clip_id", pa.string()), ("frame", pa.int32()), ("time_s", pa.float64())]
    + [(side, pa.float64()) for side in BOX]
    + [("landmarks", pa.list_(pa.float64())), ("track", pa.int32()), ("pose", pa.int32())]
    + [(name, pa.float64()) for name in ("score", "sharpness", "quality")]
    + [(name, pa.int32()) for name in ("people", "n_sampled")]
    + [(name, pa.string()) for name in ("status", "problem", "detail")]
)


def make_face_recipe(
    every_s: float = 0.35,
    max_frames: int = 48,
    max_side: int = 640,
    margin: float = 0.3,
    size: int = 112,
    upsample: int = 0,
    aligned: bool = True,
) -> dict[str, Any]:
    """Everything that decides what a crop looks like.

    Parameters
    ----------
    every_s, max_frames : float, int
        A frame every so many seconds, at most so many a clip (then farther apart).
    max_side : int
        Longer side in pixels of the frame that is searched; the detector sees faces from 80 pixels.
    margin : float
        Room around the face in a crop, as a share of its size.
    size : int
        Side of a crop in pixels.
    upsample : int
        Times the searched frame is doubled before detection, for faces under 80 pixels.
    aligned : bool
        Turn and scale crops by 5 points, where the `landmarks` extra is installed.

    Returns
    -------
    dict
        The parameters, the detector, `alignment` (5-point or box) and the version.
    """
    points = "5-point" if aligned and landmark_file() else "box"
    return {
        "detector": "dlib-hog",
        "alignment": points,
        "every_s": every_s,
        "max_frames": max_frames,
        "max_side": max_side,
        "margin": margin,
        "size": size,
        "upsample": upsample,
        "scores": [LOWEST_SCORE, PEAK_SCORE, MIN_FRAMES],
        "version": VERSION,
    }


def detect_in_clip(path: Path | str, **settings: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Find the faces of one clip and cut out the main one.

    Parameters
    ----------
    path : Path
    **settings
        Those of `make_face_recipe`.

    Returns
    -------
    rows : list of dict
        One for each face and sampled frame, boxes and landmarks in pixels of the upright original,
        in the order of track and time. Track 0 is the main face, the one with the largest sum of
        areas. Without a face: one row with empty box and problem `no_face`. Where `max_frames` did not
        suffice the problem is `frames_thinned`, and `detail` says by how much.
    crops : uint8 (F, size, size, 3)
        RGB, one for each row of track 0.

    Raises
    ------
    media.MediaError
        The clip has no picture or cannot be read.
    """
    how = make_face_recipe(**settings)
    info = reading.probe(path)
    if not info["has_video"]:
        raise reading.MediaError("no_video_stream", path)
    frames, times, thinned = _sample(path, info, how)
    people = join([_boxes(frame, how) for frame in frames], times)
    shared = {"people": count_people(people), "n_sampled": len(times), "detail": thinned}
    if not people:
        return [{"status": "missing", "problem": "no_face"} | shared], _no_crops(how)
    shared |= {"status": "ok", "problem": "frames_thinned" if thinned else None}
    to_original = max(info["width"], info["height"]) / max(frames.shape[1:3])
    rows, crops = [], []
    for number, person in enumerate(people):
        for found in person:
            row, crop = describe(frames[found["frame"]], found, how, to_original)
            rows.append(row | {"time_s": float(times[found["frame"]]), "track": number} | shared)
            crops += [crop] if number == 0 else []
    return rows, np.stack(crops)


def _sample(path: Path | str, info: dict[str, Any], how: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Distinct frames of a clip, their times, and a line when they are farther apart than asked for."""
    wanted = max(1, min(round(info["duration_s"] / how["every_s"]), info["n_frames"]))
    count = min(wanted, how["max_frames"])
    step = info["duration_s"] / count
    thinned = f"{count} of {wanted:,} frames, one every {step:.1f} s" if wanted > count else None
    frames, times = reading.read_frames(path, reading.frame_times(info["duration_s"], count), READ_SIDE)
    new = np.append(True, np.diff(times) > 0)  # a picture that stands still is seen once
    return (frames, times, thinned) if new.all() else (frames[new], times[new], thinned)


def detect_faces(
    clips: pd.DataFrame, profile: str, n_workers: int = 0, shard: int = 0, n_shards: int = 1, **settings: Any
) -> pd.DataFrame:
    """Find the main face of every clip of a corpus; write `faces/faces.parquet` and `faces/crops/<clip>.npz`.

    A clip is detected again only when its content or the recipe changed, so an interrupted run goes
    on where it stopped. A clip that fails gets a row with status `failed` and its problem.

    Parameters
    ----------
    clips : DataFrame
        The manifest.
    profile : str
        Whose faces they are.
    n_workers : int
        Processes; 0: as many as there are processors.
    shard, n_shards : int
        Only this part of the clips, into a table of its own; the last part to end writes the whole one.
    **settings
        Those of `make_face_recipe`.

    Returns
    -------
    DataFrame
        The table of `faces.parquet`, or the part of this shard.
    """
    how = make_face_recipe(**settings)
    job = partial(_detect_row, profile=profile, how=how, settings=settings)
    rows = in_shard(clips, shard, n_shards)
    done = track(parallel.parallel_map(job, rows, n_workers, chunk=4), len(rows), "clips")
    tables = [SCHEMA.empty_table()]
    while part := list(islice(done, PART)):
        tables.append(pa.Table.from_pylist([row for result in part for row in result], SCHEMA))
    header = {"recipe": how, "recipe_hash": digest(how)}
    return write_faces(_folder(profile), pa.concat_tables(tables), header, clips["clip_id"], shard, n_shards)


def read_faces(profile: str) -> pd.DataFrame:
    """The table of `faces.parquet`.

    Parameters
    ----------
    profile : str
        Whose faces to read.

    Returns
    -------
    DataFrame
        One row for each face and sampled frame, and one for each clip without a face.

    Raises
    ------
    EcmfError
        Notebook 20 has not run, or a shard is missing.
    """
    return read_face_table(_folder(profile))


def summarise_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """One row a clip, from the table of `faces.parquet`.

    Parameters
    ----------
    faces : DataFrame
        Of `detect_faces` or `read_faces`.

    Returns
    -------
    DataFrame
        Index `clip_id`; `state` (face / none / failed), `problem`, `frames` with the main face, their `share` of the
        sampled ones, `people`, and the mean `quality` and width `w` (px) of the main face.
    """
    main = faces[(faces["status"] == "ok") & (faces["track"] == 0)]
    means = main.groupby("clip_id").agg(frames=("frame", "count"), quality=("quality", "mean"), w=("w", "mean"))
    first = faces.drop_duplicates("clip_id").set_index("clip_id")
    state = first["status"].map({"ok": "face", "missing": "none", "failed": "failed"})
    table = first[["problem", "people", "n_sampled"]].assign(state=state).join(means)
    share = table["frames"].fillna(0) / table["n_sampled"].astype(float)
    return table.assign(frames=table["frames"].fillna(0).astype(int), share=share)


def read_face_recipe(profile: str) -> dict[str, Any]:
    """The recipe of the stored crops, for the recipe of what is computed from them.

    Parameters
    ----------
    profile : str
        Whose crops they are.

    Returns
    -------
    dict
        `recipe`, and its hash `recipe_hash`.

    Raises
    ------
    EcmfError
        Notebook 20 has not run, or a shard is missing.
    """
    read_faces(profile)
    return parquet_metadata(_folder(profile) / WHOLE)


def read_crops(profile: str, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Crops of the main face of a clip.

    Parameters
    ----------
    profile : str
        Whose crops to read.
    clip_id : str
        Name of the clip.

    Returns
    -------
    crops : uint8 (F, size, size, 3)
        RGB; F is 0 where there is no face.
    times : float array (F,)
        Seconds from the start of the clip.

    Raises
    ------
    EcmfError
        Notebook 20 has not run.
    """
    path = _crops_path(profile, clip_id)
    if not path.exists():
        raise EcmfError(f"{show(path)} is missing: run 20_detect_faces first")
    with np.load(path) as stored:
        return stored["crops"], stored["times"]


def _folder(profile: str) -> Path:
    return data_dir(profile) / "faces"


def _crops_path(profile: str, clip_id: str) -> Path:
    return _folder(profile) / "crops" / f"{file_name(clip_id)}.npz"


def _detect_row(
    row: dict[str, Any], profile: str, how: dict[str, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of one clip, from its stored file when content and recipe are the same."""
    path = _crops_path(profile, row["clip_id"])
    key = digest(row.get("content_hash"), how)
    stored = _stored(path, key)
    if stored is not None:
        return stored
    try:
        if not isinstance(row.get("video"), str):
            raise reading.MediaError("no_video_stream", row["clip_id"])
        rows, crops = detect_in_clip(row["video"], **settings)
    except reading.MediaError as error:
        status = "missing" if error.code == "no_video_stream" else "failed"
        rows = [{"status": status, "problem": error.code, "detail": error.detail}]
        crops = _no_crops(how)
    except Exception as error:  # a decoder may raise anything; the clip's row tells what it was
        detail = f"{type(error).__name__}: {error}"
        rows = [{"status": "failed", "problem": "unreadable", "detail": detail}]
        crops = _no_crops(how)
    rows = [{"clip_id": row["clip_id"], **found} for found in rows]
    times = np.array([found["time_s"] for found in rows if found.get("track") == 0])
    content = {"crops": crops, "times": times, "rows": json.dumps(rows), "key": key}

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **content)

    write_atomic(path, write)
    return rows


def _stored(path: Path, key: str) -> list[dict[str, Any]] | None:
    try:
        with np.load(path) as stored:
            return json.loads(str(stored["rows"])) if str(stored["key"]) == key else None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ):  # absent, or not written by this version
        return None


def _no_crops(how: dict[str, Any]) -> np.ndarray:
    return np.zeros((0, how["size"], how["size"], 3), np.uint8)


@lru_cache(maxsize=1)
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


def _boxes(frame: np.ndarray, how: dict[str, Any]) -> list[dict[str, Any]]:
    """Faces of one frame: box (x, y, w, h) in its own pixels, score, pose of the sub-detector."""
    scale = min(1.0, how["max_side"] / max(frame.shape[:2]))
    small = frame
    if scale < 1:
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes, scores, poses = _detector().run(small, how["upsample"], LOWEST_SCORE)
    return [
        {"box": np.array([b.left(), b.top(), b.width(), b.height()]) / scale, "score": s, "pose": p}
        for b, s, p in zip(boxes, scores, poses, strict=True)
    ]


# ---- the table of faces on disk: one file, or one for each shard until all of them are joined


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
    path = folder / (shard_name(shard, n_shards) if n_shards > 1 else WHOLE)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # shards may end at the same time
        write_parquet(table, path, header)
        _settle(folder, header, clip_ids, n_shards)
    return read_parquet(path)


def read_face_table(folder: Path) -> pd.DataFrame:
    """The whole table; where a shard is missing, the line says which."""
    made_by = MADE_BY
    for path in [] if (folder / WHOLE).exists() else sorted(folder.glob(SHARDS))[-1:]:
        n_shards = int(path.stem[-3:])
        absent = (k for k in range(n_shards) if not (folder / shard_name(k, n_shards)).exists())
        made_by += f" --set n_shards={n_shards} --set shard={next(absent, 0)}"
    return read_parquet(folder / WHOLE, made_by)


def _settle(folder: Path, header: dict[str, Any], clip_ids: pd.Series, n_shards: int) -> None:
    """Join the shards once all are there; remove tables that do not belong to them."""
    own = [folder / shard_name(shard, n_shards) for shard in range(n_shards)] if n_shards > 1 else []
    whole = folder / WHOLE
    if all(path.exists() and _is_of(path, header) for path in own):
        if own:
            write_parquet(_joined(own, clip_ids), whole, header)
        for path in set(folder.glob(SHARDS)) - set(own):
            path.unlink()
    elif whole.exists() and not _is_of(whole, header):  # its crops are being replaced
        whole.unlink()


def _joined(files: list[Path], clip_ids: pd.Series) -> pa.Table:
    table = pa.concat_tables([read_table(path) for path in files])
    place = pc.index_in(table["clip_id"], value_set=pa.array(clip_ids, pa.string()))
    table = table.append_column("place", place).filter(pc.is_valid(place))
    order = pc.sort_indices(table, [("place", "ascending")])  # keeps the order of a clip's rows
    return table.take(order).drop_columns("place")


def _is_of(path: Path, header: dict[str, Any]) -> bool:
    return parquet_metadata(path).get("recipe_hash") == header["recipe_hash"]
